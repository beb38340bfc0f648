"""What one client may cost the server: bytes, fields, seconds, connections."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is read from clients and on what is held for them."""

    max_header_bytes: int = 64 * 1024  # request line and fields together; more is 431
    max_headers: int = 100
    max_body_bytes: int = 32 * 1024 * 1024  # with or without a content-length; more is 413
    head_timeout_s: float = 10.0  # from a request's first byte, or from accepting, to the end of its head
    body_timeout_s: float = 60.0  # from the end of the head to the end of the body
    idle_timeout_s: float = 75.0  # between requests; also how long a client may take nothing of what it is sent
    max_connections: int = 10_000  # more are answered 503 and closed
    max_unsent_bytes: int = 4 * 1024 * 1024  # of a response in pieces to a client that takes them too slowly
