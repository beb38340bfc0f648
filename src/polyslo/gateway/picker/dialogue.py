"""One request as Envoy's external processing tells of it, from its headers to the end of its response.

1. Headers and body come; the front door is asked when they are whole.
2. The answer waits until there is one: an instance, at once or when one can meet the SLO, or a refusal.
3. The response passes, and whoever follows it is told.

Whenever the other side lets go, the request is given up. Modes: the request's body whole (`BUFFERED`), or in pieces
both ways (`FULL_DUPLEX_STREAMED`, the protocol's own); the response's in any.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from typing import Any

import grpc

from polyslo.gateway.picker import messages
from polyslo.gateway.picker.messages import Message
from polyslo.gateway.picker.picked_exchange import Pick, PickedExchange
from polyslo.gateway.picker.protocol import BUFFERED, DUPLEX, NONE
from polyslo.gateway.requests.openai_errors import JSON_HEADERS, SERVER, Answer, BadRequest, Refusal, error_body
from polyslo.wire.client import Failure, Origin

WRONG_MODE = (
    "the gateway's ext_proc filter must send bodies here; set its processing_mode to request_body_mode "
    "FULL_DUPLEX_STREAMED (or BUFFERED) and response_body_mode FULL_DUPLEX_STREAMED (or STREAMED)"
)
OUTSIDE = Refusal("no_instance", "the instance that was decided on is not among those that the gateway allows")

Handle = Callable[[PickedExchange], None]


class Dialogue:
    """The messages of one request; `context` is gRPC's."""

    def __init__(self, context: Any, handle: Handle, max_body_bytes: int) -> None:
        self._context = context
        self._handle = handle
        self._max_body_bytes = max_body_bytes
        self._request_mode = self._response_mode = DUPLEX  # of gateways that don't say
        self._subset: frozenset[str] | None = None  # of endpoints, which may be all that is allowed
        self._has_body = False
        self._has_trailers = False
        self._coming: asyncio.Task[Message] | None = None  # a message that is waited for already

    async def run(self) -> None:
        """Take part in it until either side ends it."""
        try:
            exchange = await self._read_request()
            if exchange is not None:
                await self._serve(exchange)
        except grpc.aio.InternalError:  # it can't be written to: the other side has let go
            return

    async def _serve(self, exchange: PickedExchange) -> None:
        try:
            self._handle(exchange)
            if not await self._is_decided(exchange):
                exchange.leave()
            elif not await self._is_sent(exchange):
                return
            await self._follow(exchange)
        except asyncio.CancelledError:
            if not exchange.is_interrupted:
                raise
            _this_task().uncancel()
            if exchange.answer is None:
                await self._context.abort(grpc.StatusCode.ABORTED, "the request was given up")
            else:
                await self._respond(exchange.answer)
        finally:
            exchange.leave()
            if self._coming is not None:
                self._coming.cancel()

    async def _read_request(self) -> PickedExchange | None:
        """Return the request when it is whole; None where there will be none."""
        message = await self._context.read()
        if message is grpc.aio.EOF or message.WhichOneof("request") != "request_headers":
            return None
        if message.HasField("protocol_config"):
            self._request_mode = message.protocol_config.request_body_mode
            self._response_mode = message.protocol_config.response_body_mode
        self._subset = messages.read_subset(message)
        self._has_body = not message.request_headers.end_of_stream
        if (self._has_body and self._request_mode not in (BUFFERED, DUPLEX)) or self._response_mode == NONE:
            await self._respond(Answer(500, JSON_HEADERS, error_body(WRONG_MODE, SERVER, "wrong_mode", None)))
            return None
        pseudo, headers = messages.read_headers(message.request_headers)
        body = await self._read_body() if self._has_body else b""
        if body is None:
            return None
        task = _this_task()
        return PickedExchange(pseudo.get(b":method", b""), pseudo.get(b":path", b""), headers, body, task.cancel)

    async def _read_body(self) -> bytes | None:
        if self._request_mode == BUFFERED:
            await self._context.write(messages.request_head())
        pieces: list[bytes] = []
        num_bytes = 0
        async for message in self._messages():
            if message.WhichOneof("request") == "request_trailers":
                self._has_trailers = True
                return b"".join(pieces)
            pieces.append(message.request_body.body)
            num_bytes += len(pieces[-1])
            if num_bytes > self._max_body_bytes:
                told = f"body: may have at most {self._max_body_bytes} bytes; send less"
                await self._respond(BadRequest(told, code="body_too_large", status=413).answer())
                return None
            if message.request_body.end_of_stream or self._request_mode == BUFFERED:
                return b"".join(pieces)
        return None

    async def _is_decided(self, exchange: PickedExchange) -> bool:
        """Wait for an answer; False where the other side has one sooner: it gave up, or answered by itself."""
        if not exchange.decided.is_set():
            self._coming = asyncio.create_task(self._context.read())
            deciding = asyncio.create_task(exchange.decided.wait())
            try:
                await asyncio.wait((self._coming, deciding), return_when=asyncio.FIRST_COMPLETED)
            finally:
                deciding.cancel()
        return exchange.decided.is_set()

    async def _is_sent(self, exchange: PickedExchange) -> bool:
        """Say where the request goes; False where its client got an answer instead."""
        pick, endpoint = exchange.pick, ""
        if exchange.answer is None and pick is not None:
            try:
                endpoint = await endpoint_of(pick.origin)
            except OSError as error:
                pick.observer.on_failure(Failure("name", f"{pick.origin!r}: {error}", started=False))
        if exchange.answer is not None:
            await self._respond(exchange.answer)
            return False
        assert pick is not None
        if self._subset is not None and endpoint not in self._subset:
            exchange.leave()
            await self._respond(OUTSIDE.answer())
            return False
        exchange.is_carried = True
        for message in self._going(exchange, pick, endpoint):
            await self._context.write(message)
        return True

    def _going(self, exchange: PickedExchange, pick: Pick, endpoint: str) -> list[Message]:
        """Return the messages that send a request on its way."""
        streams = self._has_body and self._request_mode == DUPLEX
        is_new = streams or pick.body is not exchange.body
        common = messages.picked(exchange.headers, pick, endpoint, len(pick.body) if is_new else None)
        if not streams and self._has_body:
            whole = messages.with_body(common, pick.body) if is_new else common
            return [messages.destined(messages.request_body(whole), endpoint)]
        going = [messages.destined(messages.request_head(common), endpoint)]
        if streams:
            going += messages.streamed_request(pick.body, ends=not self._has_trailers)
        if streams and self._has_trailers:
            going.append(messages.request_trailers())
        return going

    async def _follow(self, exchange: PickedExchange) -> None:
        """Let the response pass."""
        observer = exchange.pick.observer if exchange.is_carried and exchange.pick is not None else None
        async for message in self._messages():
            kind = message.WhichOneof("request")
            ends = kind == "response_trailers"
            if kind == "response_headers":
                pseudo, headers = messages.read_headers(message.response_headers)
                ends = message.response_headers.end_of_stream
                exchange.has_begun = True
                if observer is not None:
                    observer.on_head(int(pseudo.get(b":status", b"0")), headers)
                going = messages.response_head(() if observer is None else observer.told)
            elif kind == "response_body":
                ends = message.response_body.end_of_stream
                if observer is not None:
                    observer.on_data(message.response_body.body)
                going = messages.response_body(message.response_body, is_streamed_back=self._response_mode == DUPLEX)
            else:
                going = messages.response_trailers() if ends else messages.request_trailers()
            if ends and observer is not None:
                observer.on_end()
                observer = None
            await self._context.write(going)

    async def _messages(self) -> AsyncIterator[Message]:
        """Yield what comes until the other side has no more to say."""
        while True:
            coming, self._coming = self._coming, None
            message = await (self._context.read() if coming is None else coming)
            if message is grpc.aio.EOF:
                return
            yield message

    async def _respond(self, answer: Answer) -> None:
        await self._context.write(messages.immediate(answer))


async def endpoint_of(origin: Origin) -> str:
    """Return an instance's address as `ip:port`; a name is looked up. Raises `OSError`."""
    try:
        ip = ip_address(origin.host)
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        ip = ip_address(found[0][4][0])
    return f"[{ip}]:{origin.port}" if ip.version == 6 else f"{ip}:{origin.port}"


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
