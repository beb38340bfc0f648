"""Faults on request: how engines fail, for those who must live with it. For tests; off unless allowed.

| kind | what happens |
|---|---|
| `stall` | no iteration ends for `for_s`; connections stay open and `/health` says 200, as with a frozen vLLM |
| `slow` | iterations take `factor` times as long, for `for_s` |
| `error` | new requests are answered 500 for `for_s`; those under way go on |
| `close_streams` | the connections of all requests under way are closed, mid-stream |
| `crash` | streams end with an error event and `[DONE]`, then nobody listens for `for_s` (without it: ever) |

Times are wall times.
"""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.engines.generation import RequestError, parse_object
from polyslo.errors import nearest

STALL, SLOW, ERROR, CLOSE_STREAMS, CRASH = KINDS = ("stall", "slow", "error", "close_streams", "crash")
_FIELDS = {STALL: ("for_s",), SLOW: ("for_s", "factor"), ERROR: ("for_s",), CLOSE_STREAMS: (), CRASH: ()}
_MOST = 86_400.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `for_s` is None where it lasts, or happens at once."""

    kind: str
    for_s: float | None = None
    factor: float = 1.0


def parse_fault(body: bytes) -> Fault:
    """Read `{"kind": …, "for_s": …, "factor": …}`; raises `RequestError`."""
    data = parse_object(body)
    for key in data:
        if key not in ("kind", "for_s", "factor"):
            raise RequestError(f"fault: unknown key {key!r}{nearest(key, ('kind', 'for_s', 'factor'))}")
    kind = data.get("kind")
    if kind not in KINDS:
        raise RequestError(f"fault: unknown kind {kind!r}{nearest(str(kind), KINDS)}")
    for name in ("for_s", "factor"):
        value = data.get(name)
        if value is None and name in _FIELDS[kind]:
            raise RequestError(f"fault: {kind} needs {name}; add it")
        if value is not None and (type(value) not in (int, float) or not 0 < value <= _MOST):
            raise RequestError(f"fault: {name} must be a number above 0, at most {_MOST:g}, got {value!r}")
    return Fault(kind, data.get("for_s"), data.get("factor") or 1.0)
