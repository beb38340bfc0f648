"""The live page's files: which URL path gives which bytes, and the headers that they travel with.

Ours. The files lie beside this module in `page/` and are sent as they are: no build step, no templates.
Data reaches the page only as JSON and only from its own origin; the content security policy lets the
browser enforce that. Routing, and answering 304, are the gateway's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from importlib.resources import files

FOLDER = "/page/"  # everything but the document itself lies under this path

CONTENT_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}

SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# Browsers ask again each time and are told 304, so that a new version is never mixed with an old file.
COMMON_HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", SECURITY_POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page as it is sent."""

    content_type: bytes
    body: bytes
    etag: bytes  # strong, with its quotes

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Make the headers of a 200; a 304 takes them too."""
        return [(b"content-type", self.content_type), (b"etag", self.etag), *COMMON_HEADERS]

    def is_held_by(self, if_none_match: bytes | None) -> bool:
        """Tell whether the client's `If-None-Match` names this version (RFC 9110, 13.1.2: compared weakly)."""
        if if_none_match is None:
            return False
        held = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
        return self.etag in held or b"*" in held


def load_assets() -> Mapping[str, Asset]:
    """Read all files of the page, by URL path; `/` is the document. Read once, when the gateway starts."""
    return dict(_assets())


def _assets() -> Iterator[tuple[str, Asset]]:
    for file in files("polyslo.gateway.page").joinpath("static").iterdir():
        suffix = file.name.rpartition(".")[2]
        if suffix in CONTENT_TYPES:  # an editor's backup in a checkout is not part of the page
            path = "/" if file.name == "index.html" else FOLDER + file.name
            yield path, _asset(CONTENT_TYPES[suffix], file.read_bytes())


def _asset(content_type: bytes, body: bytes) -> Asset:
    digest = blake2b(body, digest_size=12).hexdigest()
    return Asset(content_type, body, b'"%s"' % digest.encode())
