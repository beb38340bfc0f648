"""External processing, message by message: what comes in which order, and what another gateway may do wrong."""

from __future__ import annotations

from pathlib import Path
from socket import socket

import grpc
import orjson
import pytest
from gateway_bench import COMPLETIONS, MODEL, Bench, completion, run
from played_envoy import BUFFERED, DUPLEX, ENDPOINT, MODES, PROCESS, header_map

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.config.server import ServerConfig
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.picker import picker
from polyslo.gateway.picker.dialogue import endpoint_of
from polyslo.gateway.picker.ext_proc import ExtProc
from polyslo.gateway.picker.picker import unpickable
from polyslo.gateway.picker.protocol import ext_proc
from polyslo.wire.client import Origin

PEM = Path(__file__).parents[1] / "wire" / "localhost.pem"
SERVER = {"ext_proc_port": 0}
BODY = orjson.dumps(completion(3))
HEALTH = "/grpc.health.v1.Health/Check"
Asks = ext_proc.ProcessingRequest


class Conversation:
    """One stream, message by message: `async with Conversation(bench) as envoy`."""

    def __init__(self, bench):
        self.channel = grpc.aio.insecure_channel(address(bench), [("grpc.use_local_subchannel_pool", 1)])

    async def __aenter__(self):
        method = self.channel.stream_stream(PROCESS, Asks.SerializeToString, ext_proc.ProcessingResponse.FromString)
        self.stream = method()
        return self

    async def __aexit__(self, *error):
        self.stream.cancel()
        await self.channel.close()

    async def tell(self, **what):
        """Send a message."""
        await self.stream.write(Asks(**what))

    async def head(self, path=COMPLETIONS, method=b"POST", modes=(DUPLEX, DUPLEX), metadata=None):
        """Send a request's headers; without `modes` they are not told."""
        names = ("request_body_mode", "response_body_mode")[: len(modes)]
        numbers = map(MODES.get, modes)
        config = ext_proc.ProtocolConfiguration(**dict(zip(names, numbers, strict=True)))
        headers = ext_proc.HttpHeaders(headers=header_map([(b":method", method), (b":path", path)]))
        await self.tell(request_headers=headers, protocol_config=config if modes else None, metadata_context=metadata)

    async def body(self, body=BODY, *, ends=True):
        """Send a piece of a request's body."""
        await self.tell(request_body=ext_proc.HttpBody(body=body, end_of_stream=ends))

    async def send(self):
        """Send a whole request, and hear that it goes to an instance."""
        await self.head()
        await self.body()
        await self.hear("request_headers")
        await self.hear("request_body")

    async def hear(self, kind):
        """Return the next message, which must be of a kind."""
        message = await self.stream.read()
        assert message.WhichOneof("response") == kind
        return message

    async def refused(self):
        """Return the status and the error of an immediate response; the stream is over then."""
        answer = (await self.hear("immediate_response")).immediate_response
        assert await self.stream.read() is grpc.aio.EOF
        return answer.status.code, orjson.loads(answer.body)["error"]


def address(bench):
    """Return where Envoys ask."""
    return f"127.0.0.1:{bench.gateway.picker.port.port}"


def test_a_gateway_that_tells_no_modes_is_taken_to_stream_both_ways():
    """That is what the protocol wants of gateways; and the body that comes back is the one that went."""

    async def main():
        async with Bench(server=SERVER) as bench, Conversation(bench) as envoy:
            await envoy.head(modes=())
            await envoy.body(BODY[:10], ends=False)
            await envoy.body(BODY[10:])
            head = await envoy.hear("request_headers")
            assert head.dynamic_metadata["envoy.lb"][ENDPOINT] == bench.engines[0].url.removeprefix("http://")
            piece = (await envoy.hear("request_body")).request_body.response.body_mutation.streamed_response
            assert (piece.body, piece.end_of_stream) == (BODY, True)

    run(main)


def test_a_large_body_comes_back_in_pieces():
    """No message is larger than Envoy likes, only the last one ends the body."""
    body = orjson.dumps(completion(3, prompt="once " * 40_000))

    async def main():
        async with Bench(server=SERVER) as bench, Conversation(bench) as envoy:
            await envoy.head()
            await envoy.body(body)
            await envoy.hear("request_headers")
            pieces = []
            while not (pieces and pieces[-1].end_of_stream):
                pieces.append((await envoy.hear("request_body")).request_body.response.body_mutation.streamed_response)
            assert b"".join(piece.body for piece in pieces) == body
            assert max(len(piece.body) for piece in pieces) <= 65_536

    run(main)


def test_trailers_end_a_body_as_its_last_piece_does():
    """Both ways, and they go on."""

    async def main():
        async with Bench(server=SERVER) as bench, Conversation(bench) as envoy:
            await envoy.head()
            await envoy.body(ends=False)
            await envoy.tell(request_trailers=ext_proc.HttpTrailers())
            await envoy.hear("request_headers")
            piece = (await envoy.hear("request_body")).request_body.response.body_mutation.streamed_response
            assert not piece.end_of_stream
            await envoy.hear("request_trailers")
            await envoy.tell(response_headers=ext_proc.HttpHeaders(headers=header_map([(b":status", b"200")])))
            await envoy.hear("response_headers")
            await envoy.tell(response_body=ext_proc.HttpBody(body=b'{"usage":{"completion_tokens":3}}'))
            await envoy.hear("response_body")
            await envoy.tell(response_trailers=ext_proc.HttpTrailers())
            await envoy.hear("response_trailers")
            await bench.settle()
            assert bench.gateway.boards[MODEL].num_tokens == 3

    run(main)


@pytest.mark.parametrize(
    "modes", [("NONE", DUPLEX), ("STREAMED", DUPLEX), ("BUFFERED_PARTIAL", DUPLEX), (DUPLEX, "NONE")]
)
def test_a_filter_that_keeps_bodies_back_is_told_what_to_set(modes):
    """Without the request's body nothing can be decided, without the response's nothing be believed."""

    async def main():
        async with Bench(server=SERVER) as bench, Conversation(bench) as envoy:
            await envoy.head(modes=modes)
            status, error = await envoy.refused()
            assert status == 500
            assert "processing_mode" in error["message"]

    run(main)


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
def test_a_body_beyond_the_bound_is_refused(mode):
    """As at the main port, with 413."""

    async def main():
        async with Bench(server=SERVER | {"max_body_bytes": 1024}) as bench, Conversation(bench) as envoy:
            await envoy.head(modes=(mode, DUPLEX))
            if mode == BUFFERED:
                await envoy.hear("request_headers")
            await envoy.body(b" " * 1025)
            status, error = await envoy.refused()
            assert (status, error["code"]) == (413, "body_too_large")

    run(main)


@pytest.mark.parametrize("is_allowed", [True, False])
def test_no_endpoint_is_picked_that_the_gateway_does_not_allow(is_allowed):
    """A subset is the protocol's; outside it there is a 503, and the request is given up."""

    async def main():
        async with Bench(server=SERVER) as bench, Conversation(bench) as envoy:
            allowed = bench.engines[0].url.removeprefix("http://") if is_allowed else "192.0.2.1:80"
            metadata = ext_proc.Metadata()
            metadata.filter_metadata["envoy.lb.subset_hint"]["x-gateway-destination-endpoint-subset"] = [allowed]
            await envoy.head(metadata=metadata)
            await envoy.body()
            if is_allowed:
                await envoy.hear("request_headers")
            else:
                assert (await envoy.refused())[0] == 503
                await bench.settle()

    run(main)


def test_an_answer_of_envoys_own_ends_what_pends():
    """A route's timeout, say: its headers come before anything was picked, and the request is given up."""

    async def main():
        async with Bench(server=SERVER, model={"max_residents": 1}) as bench, Conversation(bench) as envoy:
            other = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await other.until(lambda reply: reply.body)
            await envoy.head()
            await envoy.body()
            await bench.until(bench.model.fleet.pending_size.any)
            await envoy.tell(response_headers=ext_proc.HttpHeaders(headers=header_map([(b":status", b"504")])))
            await envoy.hear("response_headers")
            assert bench.model.num_in_flight == 1
            other.call.abort()
            await bench.settle()

    run(main)


def test_a_late_answer_takes_the_place_of_one_that_has_not_begun():
    """`request_timeout_s` after its arrival a request that its engine has not answered is a 504."""

    async def main():
        async with Bench(server=SERVER | {"request_timeout_s": 0.1}) as bench, Conversation(bench) as envoy:
            await envoy.send()
            assert (await envoy.refused())[0] == 504
            await bench.settle()

    run(main)


def test_what_is_given_up_in_its_middle_ends_the_stream_with_an_error():
    """So that Envoy cuts its client off, which must not take a part for the whole."""

    async def main():
        async with Bench(server=SERVER | {"request_timeout_s": 0.1}) as bench, Conversation(bench) as envoy:
            await envoy.send()
            await envoy.tell(response_headers=ext_proc.HttpHeaders(headers=header_map([(b":status", b"200")])))
            await envoy.hear("response_headers")
            assert await envoy.stream.code() == grpc.StatusCode.ABORTED
            await bench.settle()

    run(main)


def test_an_instance_of_no_address_is_a_502():
    """A name that nobody knows: the client is told, and the instance is closed."""

    async def main():
        endpoints = [{"url": "http://nowhere.invalid:1", "name": "n"}]
        models = [{"name": MODEL, "endpoints": endpoints}]
        async with Bench(0, server=SERVER, models=models) as bench, Conversation(bench) as envoy:
            await envoy.head()
            await envoy.body()
            status, error = await envoy.refused()
            assert (status, error["code"]) == (502, "instance_failed")
            assert not bench.model.has_open_instance
            bench.check_empty()

    run(main)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [("http://10.1.2.3:8000", "10.1.2.3:8000"), ("http://[fd00::1]:80", "[fd00::1]:80")],
)
def test_an_endpoint_is_an_address(url, endpoint):
    """As ip:port; names are looked up."""

    async def main():
        assert await endpoint_of(Origin(url)) == endpoint
        assert await endpoint_of(Origin("http://localhost:7")) in ("127.0.0.1:7", "[::1]:7")

    run(main)


def test_health_is_told_as_grpc_has_it():
    """Alive throughout; ready and serving while an instance is; of others nothing is known."""

    async def main():
        async with Bench(server=SERVER) as bench, grpc.aio.insecure_channel(address(bench)) as channel:
            check = channel.unary_unary(
                HEALTH, ext_proc.HealthCheckRequest.SerializeToString, ext_proc.HealthCheckResponse.FromString
            )

            async def statuses():
                names = ("liveness", "readiness", "", "envoy.service.ext_proc.v3.ExternalProcessor")
                return [(await check(ext_proc.HealthCheckRequest(service=name))).status for name in names]

            assert await statuses() == [1, 1, 1, 1]
            bench.model.close_instance(0, 1)
            assert await statuses() == [1, 2, 2, 2]
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await check(ext_proc.HealthCheckRequest(service="tea"))
            assert error.value.code() == grpc.StatusCode.NOT_FOUND

    run(main)


def test_it_speaks_tls_as_the_main_port_does():
    """With the gateway's certificate."""
    tls = {"tls_cert_file": str(PEM), "tls_key_file": str(PEM)}

    async def main():
        async with Bench(server=SERVER | tls) as bench:
            credentials = grpc.ssl_channel_credentials(PEM.read_bytes())
            async with grpc.aio.secure_channel(address(bench), credentials) as channel:
                check = channel.unary_unary(
                    HEALTH, ext_proc.HealthCheckRequest.SerializeToString, ext_proc.HealthCheckResponse.FromString
                )
                assert (await check(ext_proc.HealthCheckRequest())).status == 1

    run(main)


def test_a_port_that_somebody_has_is_refused():
    """With which key to change."""

    async def main():
        with socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            server = ServerConfig(ext_proc_port=taken.getsockname()[1])
            with pytest.raises(ConfigError, match=r"server\.ext_proc_port: can't listen on"):
                await ExtProc(server, lambda exchange: None, lambda: True).start()

    run(main)


def test_what_can_not_be_picked_for_is_refused_at_the_start(monkeypatch):
    """Prefill apart from decode, a port that is another's, and packages that are missing: each with its remedy."""
    apart = {"mode": "pd", "endpoints": [{"url": "http://a:1"}, {"url": "http://b:1"}]}
    (mistake,) = unpickable(parse_config({"server": SERVER, "models": [apart]}, "test.toml"))
    assert "prefills and decodes apart" in mistake
    together = {"models": [{"endpoints": [{"url": "http://a:1"}]}]}
    with pytest.raises(MistakenConfigError, match=r"server.ext_proc_port: must differ from the other ports, got 9002"):
        parse_config({"server": {"port": 9002, "ext_proc_port": 9002}, **together}, "test.toml")
    monkeypatch.setattr(picker, "PACKAGES", ("grpc", "google.no_such_thing"))
    (mistake,) = unpickable(parse_config({"server": SERVER, **together}, "test.toml"))
    assert "pip install 'polyslo[envoy]'" in mistake
    assert not list(unpickable(parse_config(together, "test.toml")))
