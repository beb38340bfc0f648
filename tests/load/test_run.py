from __future__ import annotations

import asyncio
import json

import pytest

from load.fakes import DONE, event, usage_event, workload
from polyslo.errors import InputError
from polyslo.load import Limits, LoadPlan, Target, load
from polyslo.wire.server import Exchange, listen

MODELS = b'{"object":"list","data":[{"id":"tiny","max_model_len":64}]}'
# TTFTs of half a minute: whether a token is on time is not what these tests are about, nor on how busy a machine
PLAN = LoadPlan.of(
    workload(*((0.005 * k, 8, 4, 30.0, 0.02) for k in range(20))), warm_up_ratio=0.0, cool_down_ratio=0.0
)


class Server:
    """A small engine: every answer at once; what it was asked is kept."""

    def __init__(self, models: bytes = MODELS, status: int = 200, refuses: bool = False) -> None:
        self.models = models
        self.status = status
        self.refuses = refuses
        self.asked: list[tuple[bytes, dict[bytes, bytes], dict]] = []

    def handle(self, exchange: Exchange) -> None:
        """Answer a request."""
        if exchange.path.endswith(b"/v1/models"):
            exchange.respond(self.status, [], self.models)
            return
        body = json.loads(exchange.body)
        self.asked.append((exchange.path, dict(exchange.headers), body))
        if self.refuses:
            exchange.respond(429, [(b"x-llm-d-request-dropped-reason", b"slo-infeasible")], b'{"error":"no"}')
            return
        exchange.start(200, [(b"content-type", b"text/event-stream")])
        count = body["max_tokens"]
        for k in range(count):
            exchange.write(event(finish="length" if k == count - 1 else None))
        exchange.write(usage_event(count))
        exchange.write(DONE)
        exchange.end()


def replay(*servers: Server, plan: LoadPlan = PLAN, prefix: str = "", **options):
    """Serve in this process, replay against it, and return the result."""

    async def main():
        listeners = [await listen(server.handle, "127.0.0.1", 0) for server in servers]
        urls = tuple(f"http://127.0.0.1:{listener.port}{prefix}" for listener in listeners)
        try:
            return await load(plan, Target(urls, **options), limits=Limits(timeout_s=60.0))
        finally:
            for listener in listeners:
                await listener.close(1.0)

    return asyncio.run(main())


def test_a_replay_over_real_sockets():
    """Every request arrives with its prompt, length and SLO, and every answer is counted to its last token."""
    server = Server()
    result = replay(server, api_key="k")
    assert (result.model, result.num_sent, result.total.num_attained) == ("tiny", 20, 20)
    assert result.attainment == 1.0
    assert result.total.errors == {}
    path, headers, body = server.asked[0]
    assert path == b"/v1/completions"
    assert (headers[b"x-llm-d-slo-ttft-ms"], headers[b"x-llm-d-slo-tpot-ms"]) == (b"30000", b"20")
    assert headers[b"authorization"] == b"Bearer k"
    assert (body["model"], len(body["prompt"]), body["max_tokens"]) == ("tiny", 8, 4)
    assert len({tuple(body["prompt"]) for _, _, body in server.asked}) == 20


def test_several_servers_share_the_load():
    """In turn, behind any path."""
    servers = Server(), Server()
    result = replay(*servers, prefix="/proxy/v1", endpoint="chat")
    assert [len(server.asked) for server in servers] == [10, 10]
    assert servers[0].asked[0][0] == b"/proxy/v1/chat/completions"
    assert len(result.urls) == 2


def test_refusals_are_results_and_not_errors():
    """A gateway that sheds everything has an attainment of zero."""
    result = replay(Server(refuses=True))
    assert (result.attainment, result.total.num_refused) == (0.0, 20)
    assert result.total.errors == {"http 429 slo-infeasible": 20}
    assert result.error_examples == {"http 429 slo-infeasible": "no"}


def test_requests_that_the_model_can_not_take_are_told_of():
    """Where the server tells its context, the reader hears how many requests are longer."""
    plan = LoadPlan.of(workload((0.0, 60, 4, 30.0, 0.02), (0.01, 61, 4, 30.0, 0.02)))
    result = replay(Server(), plan=plan)
    assert any("1 of 2 requests have more than the 64 tokens that tiny takes" in n for n in result.notices)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (Server(b'{"data":[{"id":"a"},{"id":"b"}]}'), "must list one model, got a, b; choose with --model"),
        (Server(b'{"data":[]}'), "must list one model, got none"),
        (Server(b"<html>"), "must list one model, got none"),
        (
            Server(b'{"error":{"message":"who are you?"}}', 401),
            r"got HTTP 401 who are you\?; set --model, or --api-key",
        ),
    ],
)
def test_a_server_that_does_not_tell_its_model(server, message):
    """The message says what was found and which option helps; with a model's name it does not matter."""
    with pytest.raises(InputError, match=message):
        replay(server)
    assert replay(server, model="mine").attainment == 1.0
    assert server.asked[0][2]["model"] == "mine"


def test_a_server_that_is_not_there():
    """It is named before anything is sent."""

    async def main():
        listener = await listen(Server().handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.port}"
        await listener.close(0.0)
        await load(PLAN, Target((url,)))

    with pytest.raises(
        InputError, match=r"http://127.0.0.1:\d+: can't be reached, .*; start the server there, or corr"
    ):
        asyncio.run(main())
