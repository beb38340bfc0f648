"""A real SGLang, started by `polyslo up`, behind its gateway: what a user sees, on good and bad days."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from asking import Answer, ask, ask_all, leave_after_first, prompt, slo_headers
from gateway_process import read_metric
from sglang_environment import sglang_environment, why_no_sglang
from sglang_fleet import START_S, SglangFleet, sglang_fleet

CONFIGURATION = """
[server]
port = 0
metrics_port = 0

[tiers]
tpots_ms = [60, 100, 200]

[health]
interval_s = 1
idle_timeout_s = 3
failure_threshold = 1

[[models]]
profile = "llama-3.1-8b-h200-tp1"
speed = 0.35
"""
MIX = [(300, 24, 60), (900, 16, 100), (40, 40, 200), (1500, 12, 60), (700, 20, 200), (64, 32, 100)]
CHATS = "/v1/chat/completions"
SAYS = re.compile('"content":"[^"]')
CHAT: dict[str, Any] = {
    "model": "nano", "messages": [{"role": "user", "content": "define a class, then import this"}],
    "max_tokens": 40, "temperature": 0, "ignore_eos": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SglangFleet]:
    """One engine and its gateway. The last test kills the engine."""
    if (reason := why_no_sglang()) is not None:
        pytest.skip(f"real engines: {reason}")
    with sglang_fleet(sglang_environment(), CONFIGURATION, tmp_path_factory.mktemp("sglang")) as started:
        yield started


@pytest.fixture(scope="module")
def alone(fleet: SglangFleet) -> list[Answer]:
    """What the engine answers to each of the mix alone."""
    return [ask(fleet.engine, "nano", prompt(k, inputs), outputs) for k, (inputs, outputs, _) in enumerate(MIX)]


def chat(
    url: str, headers: Mapping[str, str] | None = None, on_first: Callable[[], None] = lambda: None, **more: Any
) -> str:
    """Ask for a chat of exactly 40 tokens, unless told otherwise; return the body of the answer.

    `on_first` is called after the first line that says something.
    """
    headers = {"content-type": "application/json", **(headers or {})}
    lines: list[str] = []
    has_begun = False
    with urlopen(Request(f"{url}{CHATS}", json.dumps(CHAT | more).encode(), headers), timeout=60) as answer:
        for line in answer:
            lines.append(line.decode())
            if not has_begun and SAYS.search(lines[-1]):
                has_begun = True
                on_first()
    return "".join(lines)


def refusal(url: str, **more: Any) -> tuple[int, str]:
    """Ask for what is refused; return status and body."""
    with pytest.raises(HTTPError) as raised:
        chat(url, **more)
    with raised.value as error:
        return error.code, error.read().decode()


def text_of(body: str) -> str:
    """Return what the events of a chat say."""
    lines = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def counted(fleet: SglangFleet) -> float:
    """Return how many output tokens the gateway has counted."""
    return sum(read_metric(fleet.metrics, "polyslo_output_tokens_total"))


def moves(fleet: SglangFleet) -> float:
    """Return how many requests were taken from the engine before their end."""
    return fleet.metric("sglang:num_aborted_requests_total")


def until(happened: Callable[[], bool], timeout_s: float) -> None:
    """Wait until something is so."""
    until_s = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < until_s
        time.sleep(0.2)


def test_through_the_gateway(fleet: SglangFleet, alone: list[Answer]) -> None:
    """Streams and whole answers have the tokens of each prompt alone, and none is lost on the way."""
    calls = [
        partial(
            ask, fleet.gateway, "nano", prompt(k, inputs), outputs,
            headers=slo_headers(8000, tpot), is_streamed=k % 2 == 0,
        )
        for k, (inputs, outputs, tpot) in enumerate(MIX)
    ]  # fmt: skip
    for given, own, (_, outputs, _) in zip(ask_all(calls), alone, MIX, strict=True):
        assert (given.status, given.token_ids, len(own.token_ids)) == (200, own.token_ids, outputs)
        assert given.headers["x-polyslo-tier"]
        assert given.finish_reason == "length"


def test_chats_come_through_and_are_counted(fleet: SglangFleet) -> None:
    """Whole, streamed, with and without usage: the same text. Without, an event is a token, and some have several."""
    own = json.loads(chat(fleet.engine))["choices"]
    assert json.loads(chat(fleet.gateway))["choices"] == own
    for options in ({}, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}):
        before = counted(fleet)
        answer = chat(fleet.gateway, stream=True, **({"stream_options": options} if options else {}))
        assert text_of(answer) == own[0]["message"]["content"]
        tokens = counted(fleet) - before
        assert tokens == 40 if options else 10 < tokens <= 40


def test_a_refusal_is_the_engines_own(fleet: SglangFleet) -> None:
    """Too many tokens: status and body as SGLang says them, streamed or not; the instance stays healthy."""
    for is_streamed in (False, True):
        given, own = (refusal(url, max_tokens=20_000, stream=is_streamed) for url in (fleet.gateway, fleet.engine))
        assert given == own
        assert given[0] == 400
    assert ask(fleet.gateway, "nano", prompt(1, 20), 4).status == 200


def test_its_load_and_its_models_are_read(fleet: SglangFleet) -> None:
    """Requests and KV tokens, by its own metrics, while a stream is under way and after."""
    tokens: list[float] = []

    def look() -> None:
        until(lambda: read_metric(fleet.metrics, "polyslo_engine_requests") == [1.0] and kv_tokens() > 0.0, 20)
        tokens.append(kv_tokens())

    def kv_tokens() -> float:
        return read_metric(fleet.metrics, "polyslo_engine_kv_tokens")[0]

    answer = ask(fleet.gateway, "nano", prompt(2, 60), 3000, on_first=look)
    assert (answer.status, len(answer.token_ids)) == (200, 3000)
    assert 60 <= tokens[0] <= 3060
    until(lambda: read_metric(fleet.metrics, "polyslo_engine_requests") == [0.0], 20)
    with urlopen(f"{fleet.gateway}/v1/models") as response:
        assert [entry["id"] for entry in json.load(response)["data"]] == ["nano"]


def test_a_client_that_leaves_is_left(fleet: SglangFleet) -> None:
    """Its request ends in the engine, long before its last token."""

    def runs() -> bool:
        return fleet.metric("sglang:num_running_reqs") == 1.0

    leave_after_first(
        fleet.gateway, "nano", prompt(3, 60), 15_000, slo_headers(8000, 100), before=lambda: until(runs, 20)
    )
    until(lambda: not runs(), 8)


def test_a_best_effort_stream_gives_way_and_goes_on(fleet: SglangFleet) -> None:
    """One that came too late runs on the idle engine until one in time takes that from it; neither loses a token."""
    late, urgent = (prompt(500, 200), 400), (prompt(501, 100), 20)
    own = [ask(fleet.engine, "nano", *each) for each in (late, urgent)]
    moved = moves(fleet)
    claims: list[Answer] = []
    claim = threading.Thread(
        target=lambda: claims.append(ask(fleet.gateway, "nano", *urgent, headers=slo_headers(8000, 100)))
    )
    given = ask(fleet.gateway, "nano", *late, headers=slo_headers(0.001, 100), on_first=claim.start)
    claim.join()
    assert [given.token_ids, claims[0].token_ids] == [answer.token_ids for answer in own]
    assert (given.is_done, given.finish_reason) == (True, "length")
    assert moves(fleet) == moved + 1


def test_a_chat_gives_way_where_it_can(fleet: SglangFleet) -> None:
    """It goes on with as many tokens; which, its text tells a tokenizer otherwise than a model that draws at random."""
    moved = moves(fleet)
    for number in range(20):
        asked = {"messages": [{"role": "user", "content": f"import number {number}"}], "max_tokens": 400}
        own = json.loads(chat(fleet.engine, **asked))["choices"][0]["message"]["content"]
        claim = threading.Thread(
            target=partial(ask, fleet.gateway, "nano", prompt(601, 100), 20, headers=slo_headers(8000, 100))
        )
        given = chat(
            fleet.gateway, slo_headers(0.001, 100), claim.start,
            stream=True, stream_options={"include_usage": True}, **asked,
        )  # fmt: skip
        claim.join()
        assert '"completion_tokens":400,' in given.splitlines()[-4]
        if moves(fleet) > moved:
            assert text_of(given)[:4] == own[:4]
            assert given.count('"role"') == 1
            return
        assert text_of(given) == own
    raise AssertionError("no chat ever gave way")


def test_a_frozen_engine_is_noticed_by_its_silence(fleet: SglangFleet) -> None:
    """Its stream is cut after the idle timeout."""
    try:
        freeze = partial(fleet.tell_core, signal.SIGSTOP)
        answer = ask(fleet.gateway, "nano", prompt(300, 60), 3000, headers=slo_headers(5000, 100), on_first=freeze)
    finally:
        fleet.tell_core(signal.SIGCONT)
    assert 0 < len(answer.token_ids) < 3000
    assert answer.is_cut
    until(lambda: ask(fleet.gateway, "nano", prompt(302, 60), 8).is_done, 60)


def test_a_frozen_engine_is_noticed_by_looks(fleet: SglangFleet) -> None:
    """SGLang's /health asks the scheduler: an idle one that is frozen is no longer chosen, and thawed it is."""

    def unhealthy() -> float:
        return sum(read_metric(fleet.metrics, "polyslo_health_events_total", 'event="unhealthy"'))

    before = unhealthy()
    try:
        fleet.tell_core(signal.SIGSTOP)
        until(lambda: unhealthy() == before + 1, 30)
        assert ask(fleet.gateway, "nano", prompt(303, 60), 8).status == 503
    finally:
        fleet.tell_core(signal.SIGCONT)
    until(lambda: ask(fleet.gateway, "nano", prompt(304, 60), 8).is_done, 60)


def test_a_killed_engine_is_started_again(fleet: SglangFleet) -> None:
    """Its stream is cut, what comes meanwhile is told 503, and after a cold start it serves the same tokens."""
    url, own = fleet.gateway, ask(fleet.engine, "nano", prompt(401, 60), 8)
    kill = partial(fleet.tell_core, signal.SIGKILL)
    answer = ask(url, "nano", prompt(400, 60), 3000, headers=slo_headers(5000, 100), on_first=kill)
    assert answer.status == 200
    assert 0 < len(answer.token_ids) < 3000
    assert answer.is_cut or answer.error is not None
    assert ask(url, "nano", prompt(401, 60), 8).status == 503
    until(lambda: ask(url, "nano", prompt(401, 60), 8).token_ids == own.token_ids, START_S)
