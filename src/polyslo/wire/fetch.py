"""One request and its whole response, for control planes: health checks, metrics, model lists."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from polyslo.wire.call import Failure
from polyslo.wire.client import Origin
from polyslo.wire.fields import Headers

MAX_BODY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """A response, whole; header names are lower-cased."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """Return the first field of that (lower-case) name."""
        return next((value for found, value in self.headers if found == name), None)


class FetchError(Exception):
    """No whole response came; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure


async def fetch(
    origin: Origin,
    method: bytes,
    target: bytes,
    headers: Headers = (),
    body: bytes = b"",
    *,
    timeout_s: float,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> Response:
    """Send a request and return its response; raises `FetchError`, and `ValueError` for what is unfit to send."""
    collector = _Collector(max_body_bytes)
    call = origin.send(method, target, headers, body, collector, head_timeout_s=timeout_s, idle_timeout_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await collector.response
    except TimeoutError:
        failure = Failure("timeout", f"no whole response within {timeout_s:g} s", collector.status is not None)
        raise FetchError(failure) from None
    finally:
        call.abort()  # changes nothing when it is over


class _Collector:
    """A sink that keeps everything, up to a bound."""

    def __init__(self, max_body_bytes: int) -> None:
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.status: int | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._max_body_bytes = max_body_bytes

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status, self._headers = status, headers

    def on_data(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._max_body_bytes:
            self._body.clear()
            self.on_failure(Failure("malformed", f"its body has more than {self._max_body_bytes} bytes", started=True))

    def on_end(self) -> None:
        if not self.response.done() and self.status is not None:
            self.response.set_result(Response(self.status, self._headers, bytes(self._body)))

    def on_failure(self, failure: Failure) -> None:
        if not self.response.done():
            self.response.set_exception(FetchError(failure))
