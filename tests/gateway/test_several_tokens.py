"""Engines that put several tokens into one event: what is counted while streams run, how their SLOs are judged."""

from __future__ import annotations

import asyncio
import sys

import orjson
import pytest
from fakes import FakeExchange, FakeOrigin
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, chat, completion, run

from polyslo.gateway.belief.event_tokens import LEAST_HELD, EventTokens
from polyslo.gateway.processes.carried_model import CarriedModel
from polyslo.gateway.relays.errand import Errand
from polyslo.gateway.relays.near_relay import NearRelay
from polyslo.gateway.relays.passage import Passage
from polyslo.gateway.requests.body import read_body
from polyslo.gateway.requests.request import Request
from polyslo.wire.client import Origin

INTERVAL, LONG = 8, 20_000
USAGE = {"stream_options": {"include_usage": True}}
KINDS = {
    "listed": {"return_token_ids": True},
    "stated": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "learned": {},
}
RELAYS = pytest.mark.parametrize(
    "is_compiled",
    [pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")), False],
    ids=["compiled", "python"],
)


def _num_tokens(body):
    """Return how many tokens a client was sent, as far as it can tell: its events say it, or are an interval each."""
    events = [orjson.loads(event[6:]) for event in body.split(b"\n\n")[:-1]]
    choices = [event["choices"][0] for event in events if "role" not in event["choices"][0].get("delta", {})]
    if "usage" in events[-1]:
        return events[-1]["usage"]["completion_tokens"]
    if choices[0]["token_ids"] is not None:
        return sum(len(choice["token_ids"]) for choice in choices)
    return 1 + INTERVAL * (len(choices) - 1)


@RELAYS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("path", "make"), [(COMPLETIONS, completion), (CHAT, chat)], ids=["completion", "chat"])
def test_a_running_stream_is_counted_by_its_tokens(path, make, kind, is_compiled):
    """With `--stream-interval 8` the count, and belief with it, is what the engine has sent so far, in mid-stream.

    Where events don't say it, three streams with `usage` have taught it.
    """

    async def main():
        async with Bench(speed=5.0, server={"compiled_relay": is_compiled}, stream_interval=INTERVAL) as bench:
            for _ in range(LEAST_HELD if kind == "learned" else 0):
                await bench.ask(path, make(41, stream=True, **USAGE))
            reply = bench.send(path, make(LONG, stream=True, **KINDS[kind]))
            await reply.until(lambda reply: reply.body.count(b"data: ") > 20)
            assert (bench.model.bypass is None) == (not is_compiled)
            if is_compiled:
                await bench.until(lambda: len(bench.model.bypass) == 1)
            seen = len(reply.body)
            await reply.until(lambda reply: len(reply.body) > 2 * seen)
            bench.hold()
            await bench.until(lambda: _is_quiet(bench, reply))
            (relay,) = bench.model.instances[0].running
            tokens = _num_tokens(reply.body)
            assert relay.passage.tokens == tokens
            bench.model.take_news()
            record = bench.model.fleet.instances[0]
            assert int(record["kv_tokens"]) - int(bench.model.fleet.requests[relay.r]["input_tokens"]) == tokens - 1
            reply.call.abort()
            bench.go_on()
            await bench.settle()

    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")
def test_streams_under_way_count_by_what_others_teach_of_their_engine():
    """One whose events seemed a token each, and went past counted so, goes on with eight when three others have ended.

    Before that the page knows how many there are though the relay has not been told; after it the relay counts.
    """

    async def main():
        async with Bench(speed=5.0, stream_interval=INTERVAL) as bench:
            reply = bench.send(COMPLETIONS, completion(LONG, stream=True))
            await bench.until(lambda: len(bench.model.bypass) == 1)
            before = len(reply.body)
            await reply.until(lambda reply: len(reply.body) > 2 * before)
            (relay,) = bench.model.instances[0].running
            board, bypass = bench.gateway.boards[MODEL], bench.model.bypass
            await bench.until(lambda: bypass.num_unheard > 0)
            assert board.num_tokens_of(bench.model) == relay.passage.tokens + bypass.num_unheard
            bench.hold()
            await bench.until(lambda: _is_quiet(bench, reply))
            assert relay.reckoning() is not None
            assert relay.passage.tokens == reply.body.count(b"data: ") == board.num_tokens_of(bench.model)
            bench.go_on()
            for _ in range(LEAST_HELD):
                await bench.ask(COMPLETIONS, completion(41, stream=True, **USAGE))
            assert relay.reckoning() is None
            assert len(bypass) == 1  # the same detour: the stream has been nowhere else
            before = len(reply.body)
            await reply.until(lambda reply: len(reply.body) > before + 5000)
            bench.hold()
            await bench.until(lambda: _is_quiet(bench, reply))
            assert relay.passage.tokens == _num_tokens(reply.body)
            reply.call.abort()
            bench.go_on()
            await bench.settle()

    run(main)


def _is_quiet(bench, reply):
    """Tell whether all that the engine has sent was counted and has come."""
    (relay,) = bench.model.instances[0].running
    before = getattr(reply, "seen", None)
    relay.settle()
    reply.seen = relay.passage.tokens, len(reply.body)
    reply.num_quiet = reply.num_quiet + 1 if reply.seen == before else 0
    return reply.num_quiet > 10


@RELAYS
@pytest.mark.parametrize("more", [*KINDS.values(), USAGE], ids=[*KINDS, "usage"])
def test_answers_stay_the_engines_own_and_counts_come_to_zero(more, is_compiled):
    """A hundred streams of all lengths: byte for byte the engine's, and counted right at the end."""

    async def main():
        async with Bench(2, server={"compiled_relay": is_compiled}, stream_interval=INTERVAL) as bench:
            direct = Origin(bench.engines[0].url)
            body, same = completion(61, stream=True, **more), [(b"x-request-id", b"same")]
            own = await bench.ask(COMPLETIONS, body, same, origin=direct)
            ours = await bench.ask(COMPLETIONS, body, same)
            await direct.close()
            assert _undated(ours.body) == _undated(own.body)
            replies = [bench.send(COMPLETIONS, completion(1 + k, stream=True, **more)) for k in range(100)]
            await asyncio.gather(*(reply.over() for reply in replies))
            assert {(reply.status, reply.failure) for reply in replies} == {(200, None)}
            await bench.settle()
            if more:  # else nobody says how many there were
                assert bench.gateway.boards[MODEL].num_tokens == 61 + 5050
            taught = {instance.event_tokens.ratio for instance in bench.model.instances}
            assert taught <= ({1.0, float(INTERVAL)} if "stream_options" in more else {1.0})
            assert float(INTERVAL) in taught or "stream_options" not in more

    run(main)


def _undated(body):
    return [{**orjson.loads(event[6:]), "created": 0} for event in body.split(b"\n\n") if event[6:7] == b"{"]


class Watcher:
    """Who is told what became of a relay's request."""

    bypass = None

    def __init__(self):
        self.tokens, self.output_tokens = [], None

    def started(self, relay):
        """See `Watcher`."""

    def saw_tokens(self, r, tokens, now_s):
        """See `Watcher`."""
        self.tokens.append(tokens)

    def ended(self, relay, output_tokens):
        """See `Watcher`."""
        self.output_tokens = output_tokens


class OneRequest:
    """A stream at one engine, by hand: due 0.1 s after its arrival at 0, then 20 ms a token."""

    def __init__(self, event_tokens=None, **more):
        raw = orjson.dumps({"model": "m", "prompt": "x", "stream": True, **more})
        self.now_s, self.made, self.lists = 0.0, 0, "return_token_ids" in more
        self.exchange, self.watcher, origin = FakeExchange(), Watcher(), FakeOrigin()
        self.passage = Passage("r", read_body(COMPLETIONS, raw), "20ms")
        request = Request(0.0, 0.1, 0.02, 0, 10, 1000, is_streamed=True)
        self.relay = NearRelay(0, self.exchange, raw, request, self.watcher, lambda: self.now_s, [], self.passage)
        self.event_tokens = event_tokens or EventTokens()
        self.relay.send(Errand(0, origin, None, (), 10.0, 10.0, self.event_tokens))
        (self.call,) = origin.calls
        self.call.head()

    def say(self, now_s, tokens, *, finish=None):
        """Send an event with so many tokens."""
        self.now_s, self.made = now_s, self.made + tokens
        choice = {"index": 0, "text": "x", "finish_reason": finish}
        choice["token_ids"] = [1] * tokens if self.lists else None
        self.call.data(b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n")

    def run(self, *, token_s, num_events=10, first_s=0.05):
        """Send 1 token, then 8 an event, so many seconds each."""
        self.say(first_s, 1)
        for k in range(1, num_events + 1):
            self.say(first_s + INTERVAL * k * token_s, INTERVAL, finish="length" if k == num_events else None)

    def end(self, *, usage=True):
        """End the stream, with its usage if that was asked for."""
        if usage:
            told = {"prompt_tokens": 10, "completion_tokens": self.made}
            self.call.data(b"data: " + orjson.dumps({"choices": [], "usage": told}) + b"\n\n")
        self.call.data(b"data: [DONE]\n\n")
        self.call.end()


@pytest.mark.parametrize("token_s", [0.010, 0.018])
@pytest.mark.parametrize("more", [KINDS["listed"], USAGE], ids=["listed", "usage"])
def test_attainment_is_judged_by_tokens_and_not_by_events(more, token_s):
    """8 tokens every 80 or 144 ms keep 20 ms a token, though events are four to seven times as far apart.

    With ids that is known at once; with `usage` at the end, where it is judged again.
    """
    one = OneRequest(**more)
    one.run(token_s=token_s, first_s=-0.05)  # with a slack that covers the first wait for seven others
    assert one.passage.is_late == (more is USAGE)
    one.end(usage=more is USAGE)
    assert (one.passage.is_late, one.passage.tokens, one.watcher.output_tokens) == (False, 81, 81)


@pytest.mark.parametrize(("token_s", "is_late"), [(0.010, False), (0.018, False), (0.022, True)])
def test_a_stream_during_which_its_engine_was_learned_is_judged_by_tokens(token_s, is_late):
    """It seemed late, then its count caught up with what others had taught: at the end all of it is judged again."""
    event_tokens = EventTokens()
    one = OneRequest(event_tokens, **USAGE)
    for k in range(20):
        event_tokens.ratio = 8.0 if k > 10 else 1.0
        one.say(INTERVAL * k * token_s - 0.05, INTERVAL if k else 1, finish="length" if k == 19 else None)
    assert one.passage.is_late
    one.end()
    assert (one.passage.is_late, one.passage.tokens) == (is_late, 1 + 19 * INTERVAL)


@pytest.mark.parametrize("more", [KINDS["listed"], USAGE], ids=["listed", "usage"])
def test_a_stream_that_is_slower_than_its_tpot_is_late_by_tokens_too(more):
    """8 tokens every 200 ms are 25 ms each where 20 were promised: late, whenever the count is known."""
    one = OneRequest(**more)
    one.run(token_s=0.025, first_s=-0.05)
    assert one.passage.is_late
    one.end(usage=more is USAGE)
    assert one.passage.is_late


def test_a_late_first_token_is_late_however_many_there_were():
    """What the count has nothing to do with is not judged again."""
    one = OneRequest(**USAGE)
    one.run(token_s=0.001, first_s=0.11)
    one.end()
    assert (one.passage.is_late, one.passage.tokens) == (True, 81)


def test_what_streams_teach_holds_for_the_next_ones_of_their_instance():
    """From the fourth stream on belief hears of eight tokens an event; streams that a client held up teach nothing."""
    event_tokens = EventTokens()
    for k in range(LEAST_HELD + 2):
        one = OneRequest(event_tokens, **USAGE)
        if k < 2:
            one.exchange.block(True)
            one.exchange.block(False)
        assert event_tokens.ratio == 1.0
        one.run(token_s=0.001)
        one.end()
    assert event_tokens.ratio == INTERVAL
    last = OneRequest(event_tokens)
    last.run(token_s=0.001, num_events=4)
    assert last.watcher.tokens == [1, 8, 8, 8, 1]


def test_a_usage_that_nobody_asked_for_teaches_the_same():
    """As of vLLM with `--enable-force-include-usage`: its event is no token, which is known at the end."""
    for interval in (INTERVAL, 1):
        event_tokens = EventTokens()
        for _ in range(2 * LEAST_HELD):
            one = OneRequest(event_tokens)
            for k in range(20):
                one.say(0.001 * k, interval if k else 1, finish="stop" if k == 19 else None)
            one.end()
            assert one.passage.tokens == 1 + 19 * interval
        assert event_tokens.ratio == interval


def test_a_carrier_keeps_what_it_has_learned_of_an_instance_that_stays():
    """It is told of its models again whenever anything of them changes; an engine at another address is another."""
    model, urls = CarriedModel("m", None), ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    told = {
        "tier_labels": [],
        "tpots_s": [],
        "kv_capacity_tokens": 1,
        "is_disaggregated": False,
        "least_ttft": [[], []],
    }

    async def tell(*instances):
        model.adopt(told | {"instances": instances}, 1.0)

    asyncio.run(tell([0, urls[0], [], True]))
    learned = model.instances[0].event_tokens
    asyncio.run(tell([0, urls[0], [["authorization", "x"]], False], [1, urls[1], [], True]))
    assert model.instances[0].event_tokens is learned
    assert (model.instances[0].is_open, model.instances[0].credentials) == (False, ((b"authorization", b"x"),))
    assert model.instances[1].event_tokens is not learned


def test_a_stream_without_a_count_teaches_nothing():
    """Neither one that nobody counted, nor one whose engine lists what it sends."""
    event_tokens = EventTokens()
    for more in (KINDS["learned"], KINDS["listed"]) * LEAST_HELD:
        one = OneRequest(event_tokens, **more)
        one.run(token_s=0.001)
        one.end(usage=False)
    assert event_tokens.ratio == 1.0
