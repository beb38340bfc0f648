"""What a request's headers say, where each may be given once. Names are lower-case bytes, as from the wire room."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.gateway.requests.openai_errors import BadRequest

Headers = Sequence[tuple[bytes, bytes]]


def read_once(headers: Headers, names: frozenset[bytes]) -> dict[bytes, str]:
    """Return the headers of `names` that were given, stripped. Raises `BadRequest` for two different values of one."""
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in names:
            text = value.strip().decode("latin-1")
            if found.setdefault(name, text) != text:
                raise BadRequest(
                    f"header {name.decode()}: must be given once, got {found[name]!r} and {text!r}; leave one out",
                    param=name.decode(),
                    code="contradictory_header",
                )
    return found
