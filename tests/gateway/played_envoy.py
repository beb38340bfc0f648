"""Envoy, played: external processing's messages as its filter sends them, with real engines behind.

It stands in for a client's `Origin` of the gateway, so tests of the gateway's main port hold for the picker's, too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise

import grpc

from polyslo.gateway.picker import protocol
from polyslo.gateway.picker.protocol import ext_proc
from polyslo.wire.client import Failure, Origin

DUPLEX, BUFFERED, STREAMED = "FULL_DUPLEX_STREAMED", "BUFFERED", "STREAMED"
MODES = {
    "NONE": protocol.NONE,
    STREAMED: protocol.STREAMED,
    BUFFERED: protocol.BUFFERED,
    "BUFFERED_PARTIAL": protocol.BUFFERED_PARTIAL,
    DUPLEX: protocol.DUPLEX,
}
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ENDPOINT = "x-gateway-destination-endpoint"


class PlayedEnvoy:
    """Sends requests as an `Origin` does; `piece_bytes`: how it cuts what it tells of bodies."""

    def __init__(self, port, modes=(DUPLEX, DUPLEX), piece_bytes=7):
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
        self.modes = modes
        self.piece_bytes = piece_bytes
        self.endpoints = []  # that were picked
        self._requests = set()

    def open(self):
        """Begin a stream of messages."""
        method = self.channel.stream_stream(
            PROCESS, ext_proc.ProcessingRequest.SerializeToString, ext_proc.ProcessingResponse.FromString
        )
        return method()

    def send(self, method, target, headers, body, sink, **_):
        """Carry a request to wherever it is told."""
        request = Carried(self, sink)
        request.task = asyncio.get_running_loop().create_task(request.run(method, target, headers, body))
        self._requests.add(request.task)
        request.task.add_done_callback(self._requests.discard)
        return request

    async def close(self):
        """Let go of everything."""
        for task in list(self._requests):
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        await self.channel.close(None)


class Carried:
    """One request; the sink of what its engine answers."""

    def __init__(self, envoy, sink):
        self._envoy, self._sink = envoy, sink
        self._events = asyncio.Queue()  # of the engine's answer, or that the picker has ended it
        self._said = asyncio.Queue()  # by the picker
        self._has_begun = False

    def abort(self, *, is_quiet=False):
        """The client leaves; `is_quiet`: Envoy's half of the stream is closed, not the stream reset."""
        if is_quiet:
            self._closing = asyncio.get_running_loop().create_task(self._stream.done_writing())
        else:
            self.task.cancel()

    async def run(self, method, target, headers, body):
        """Carry it."""
        self._stream = self._envoy.open()
        listening = asyncio.get_running_loop().create_task(self._listen())
        origin = call = None
        try:
            endpoint, headers, body = await self._ask(method, target, headers, body)
            self._envoy.endpoints.append(endpoint)
            origin = Origin(f"http://{endpoint}")
            call = origin.send(method, target, headers, body, self, head_timeout_s=9.0, idle_timeout_s=9.0)
            await self._return()
            await self._stream.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it can't be written to any more
            self._sink.on_failure(self._broken())
        except AnsweredError as error:
            self._take_answer(error.args[0])
        except BrokenError as error:
            self._sink.on_failure(error.args[0])
        finally:
            listening.cancel()
            self._stream.cancel()
            if call is not None:
                call.abort()
                await origin.close()

    async def _listen(self):
        with suppress(grpc.aio.AioRpcError):  # how the picker broke off
            while (message := await self._stream.read()) is not grpc.aio.EOF:
                if message.HasField("immediate_response"):
                    self._stop(AnsweredError(message.immediate_response))
                self._said.put_nowait(message)
        self._stop(BrokenError(self._broken()))

    def _stop(self, error):
        self._said.put_nowait(error)
        self._events.put_nowait(("stop", error))

    def _broken(self):
        return Failure("reset", "the picker broke off", started=self._has_begun)

    async def _ask(self, method, target, headers, body):
        """Return where the request goes, with which headers and body."""
        pseudo = [(b":method", method), (b":path", target), (b":authority", b"test"), (b":scheme", b"http")]
        config = ext_proc.ProtocolConfiguration(
            request_body_mode=MODES[self._envoy.modes[0]],
            response_body_mode=MODES[self._envoy.modes[1]],
        )
        head = ext_proc.HttpHeaders(headers=header_map([*pseudo, *headers]), end_of_stream=not body)
        await self._stream.write(ext_proc.ProcessingRequest(request_headers=head, protocol_config=config))
        is_duplex = self._envoy.modes[0] == DUPLEX
        if body and not is_duplex:
            assert (await self._read()).WhichOneof("response") == "request_headers"
        for piece, ends in self._cut(body) if is_duplex else [(body, True)] * bool(body):
            told = ext_proc.HttpBody(body=piece, end_of_stream=ends)
            await self._stream.write(ext_proc.ProcessingRequest(request_body=told))
        said = await self._read()
        kind = "request_body" if body and not is_duplex else "request_headers"
        assert said.WhichOneof("response") == kind
        common = getattr(said, kind).response
        headers = mutated(headers, common.header_mutation)
        endpoint = dict(headers)[ENDPOINT.encode()].decode()
        assert said.dynamic_metadata["envoy.lb"][ENDPOINT] == endpoint
        if body and is_duplex:
            body = await self._read_streamed_body()
        elif common.HasField("body_mutation"):
            body = common.body_mutation.body
        lengths = [value for name, value in headers if name == b"content-length"]
        assert lengths in ([], [b"%d" % len(body)])
        return endpoint, [header for header in headers if header[0] != b"content-length"], body

    async def _read_streamed_body(self):
        body, ends = b"", False
        while not ends:
            piece = (await self._read()).request_body.response.body_mutation.streamed_response
            assert len(piece.body) <= 65_536
            body, ends = body + piece.body, piece.end_of_stream
        return body

    async def _return(self):
        """Tell of what the engine answers, as it comes."""
        kind, value = await self._next_event()
        if kind == "failure":  # Envoy's own answer passes its filters like any other
            kind, value = "head", (503, [])
            self._events.put_nowait(("data", b"no healthy upstream"))
            self._events.put_nowait(("end", None))
        status, headers = value
        told = header_map([(b":status", b"%d" % status), *headers])
        await self._stream.write(ext_proc.ProcessingRequest(response_headers=ext_proc.HttpHeaders(headers=told)))
        common = (await self._read()).response_headers.response
        self._has_begun = True
        self._sink.on_head(status, mutated(headers, common.header_mutation))
        while kind != "end":
            kind, value = await self._next_event()
            if kind == "failure":
                raise BrokenError(value)
            for piece, _ in self._cut(value or b"") if kind == "data" else [(b"", True)]:
                await self._return_piece(piece, kind == "end")
        self._sink.on_end()

    async def _return_piece(self, piece, ends):
        told = ext_proc.HttpBody(body=piece, end_of_stream=ends)
        await self._stream.write(ext_proc.ProcessingRequest(response_body=told))
        common = (await self._read()).response_body.response
        if self._envoy.modes[1] == DUPLEX:
            back = common.body_mutation.streamed_response
            assert (back.body, back.end_of_stream) == (piece, ends)
        else:
            assert not common.HasField("body_mutation")
        self._sink.on_data(piece)

    def _take_answer(self, answer):
        self._sink.on_head(answer.status.code, mutated([], answer.headers))
        self._sink.on_data(answer.body)
        self._sink.on_end()

    async def _read(self):
        message = await self._said.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def _next_event(self):
        kind, value = await self._events.get()
        if kind == "stop":
            raise value
        return kind, value

    def _cut(self, body):
        size = self._envoy.piece_bytes
        cuts = [*range(0, len(body), size), len(body)]
        return [(body[a:b], b == len(body)) for a, b in pairwise(cuts)]

    def on_head(self, status, headers):
        """See `Sink`."""
        self._events.put_nowait(("head", (status, headers)))

    def on_data(self, data):
        """See `Sink`."""
        self._events.put_nowait(("data", data))

    def on_end(self):
        """See `Sink`."""
        self._events.put_nowait(("end", None))

    def on_failure(self, failure):
        """See `Sink`."""
        self._events.put_nowait(("failure", failure))


class BrokenError(Exception):
    """The response never ends."""


class AnsweredError(Exception):
    """The picker has answered instead of an engine."""


def header_map(headers):
    """Return headers as Envoy tells of them."""
    return ext_proc.HeaderMap(
        headers=[ext_proc.HeaderValue(key=name.decode(), raw_value=value) for name, value in headers]
    )


def mutated(headers, mutation):
    """Return headers with a change carried out."""
    new = [(option.header.key.encode(), option.header.raw_value) for option in mutation.set_headers]
    gone = {name.encode() for name in mutation.remove_headers} | {name for name, _ in new}
    return [*(header for header in headers if header[0] not in gone), *new]
