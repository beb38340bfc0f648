"""Send requests to an origin: one scheme, host and port, and the connections to it that are kept open.

Ours, on asyncio's transports and callbacks: a piece of a response costs no task, no future and no queue; only
opening a connection is a task. `send` decides and writes at once; the answer comes to the sink.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from socket import gaierror
from urllib.parse import urlsplit

from polyslo.errors import ConfigError
from polyslo.wire.call import Call, Failure, FailureKind, Sink
from polyslo.wire.fields import Headers, end_to_end, request_head
from polyslo.wire.origin_connection import OriginConnection

__all__ = ["Call", "Failure", "FailureKind", "Origin", "Sink", "end_to_end"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin:
    """Where requests are sent; the connection last used is used first, so that the others can age and close.

    `keep_alive_s` is below the 5 s after which uvicorn, and so vLLM, closes connections that rest: whoever closes
    second may send a request into the void. The one that does is carried again on a fresh connection, once.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_s: float = 5.0,
        keep_alive_s: float = 4.0,
        max_idle: int = 256,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        self.scheme, self.host, self.port = _parse(url)
        self.connect_timeout_s = connect_timeout_s
        self.keep_alive_s = keep_alive_s
        self.max_idle = max_idle
        self._ssl = (ssl or ssl_module.create_default_context()) if self.scheme == "https" else None
        self._authority = _authority(self.host, self.port, self.scheme)
        self._connections: set[OriginConnection] = set()
        self._idle: dict[OriginConnection, None] = {}  # in the order in which they came to rest
        self._dialling: dict[asyncio.Task[None], Call] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Origin {self.scheme}://{self._authority.decode()}: {self.num_connections} open, {self.num_idle} idle>"

    @property
    def num_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def num_idle(self) -> int:
        """Open connections that carry nothing."""
        return len(self._idle)

    def send(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes,
        sink: Sink,
        *,
        head_timeout_s: float,
        idle_timeout_s: float,
    ) -> Call:
        """Send a request; its response comes to `sink`, never before this returns.

        `host` and `content-length` are added. `head_timeout_s` runs from writing the request to the end of the
        response's head, `idle_timeout_s` between any two pieces after it. Raises `ValueError` for a method, target
        or header unfit to send.
        """
        head = request_head(method, target, self._authority, headers, len(body))
        call = Call(sink, (head, body), method == b"HEAD", head_timeout_s, idle_timeout_s)
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_usable:
                connection.carry(call)
                return call
        self.redial(call)
        return call

    async def close(self) -> None:
        """Close every connection; calls under way fail."""
        self._is_closed = True
        dialling = dict(self._dialling)
        for task, call in dialling.items():
            task.cancel()
            call.fail(Failure("connect", f"{self!r} was closed", started=False))
        for connection in list(self._connections):
            connection.close()
        await asyncio.gather(*dialling, return_exceptions=True)
        await asyncio.sleep(0)  # transports report that they are closed in the loop's next turn

    def keep(self, connection: OriginConnection) -> None:
        """Take back a connection that can carry another call."""
        if self._is_closed or len(self._idle) >= self.max_idle:
            connection.drop()
            return
        self._idle[connection] = None
        connection.rest(self.keep_alive_s)

    def forget(self, connection: OriginConnection) -> None:
        """Take note that a connection is gone."""
        self._idle.pop(connection, None)
        self._connections.discard(connection)

    def redial(self, call: Call) -> None:
        """Carry a call on a fresh connection."""
        loop = asyncio.get_running_loop()
        if self._is_closed:
            loop.call_soon(call.fail, Failure("connect", f"{self!r} is closed", started=False))
            return
        task = loop.create_task(self._dial(call))
        call.dialling = task
        self._dialling[task] = call
        task.add_done_callback(self._dialling.pop)

    async def _dial(self, call: Call) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: OriginConnection(self), self.host, self.port, ssl=self._ssl
                )
        except (OSError, UnicodeError) as error:  # a timeout is an OSError, a name that can't be one a UnicodeError
            kind: FailureKind = "name" if isinstance(error, (gaierror, UnicodeError)) else "connect"
            call.fail(Failure(kind, f"{self!r}: {error or 'no connection in time'}", started=False))
            return
        finally:
            call.dialling = None
        if call.is_over or self._is_closed:
            connection.drop()
            return
        if connection.is_usable:
            self._connections.add(connection)
        connection.carry(call)


def _parse(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"origin {url!r}: {error}; write http://host:port") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or not url.isascii():
        raise ConfigError(f"origin {url!r}: must be an http or https URL with a host; write http://host:port")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"origin {url!r}: must have nothing but scheme, host and port; write http://host:port")
    return parts.scheme, parts.hostname, port if port is not None else _DEFAULT_PORTS[parts.scheme]


def _authority(host: str, port: int, scheme: str) -> bytes:
    name = f"[{host}]" if ":" in host else host
    return (name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}").encode()
