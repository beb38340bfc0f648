"""Prefill apart from decode on real vLLM: the policy chooses both sides, NIXL carries the KV between them.

The tests use the engines up in their order, as a bad day would: first a prefill engine dies while it computes, then
the other one before its KV was fetched.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from asking import Answer, ask, ask_all, leave_after_first, prompt, slo_headers
from gateway_process import serving
from vllm_engine import VllmEngine
from vllm_environment import VllmEnvironment, why_no_nixl

MODEL = "nano"
PROFILE = "llama-3.1-8b-h200-tp1"
SPEED = 0.35  # so that the shortest step, of one decode, outlasts what the small model takes on a CPU
MIX = [(300, 24, 60), (900, 16, 100), (40, 40, 200), (3000, 12, 60), (700, 20, 200), (64, 32, 100)]
LONG_PROMPT = 8000  # seconds of paced prefill: time to kill an engine in
LOST_PROMPT = 3000
NAMES = ("prefill", "decode", "spare")

GATEWAY = """
[server]
port = 0
metrics_port = 0

[tiers]
tpots_ms = [60, 100, 200]

[health]
interval_s = 1
failure_threshold = 1
success_threshold = 1

[[models]]
name = "nano"
mode = "pd"
profile = "{profile}"
speed = {speed}
dynamic_chunking = true
chunk_limit_tokens = 2048
max_residents = 64
endpoints = [
  {{ name = "prefill", url = "{prefill}", role = "prefill" }},
  {{ name = "decode", url = "{decode}", role = "decode" }},
  {{ name = "spare", url = "{spare}"{spare_role} }},
]
"""

Engines = dict[str, VllmEngine]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where logs and steps go."""
    return tmp_path_factory.mktemp("apart")


@pytest.fixture(scope="module")
def engines(vllm_environment: VllmEnvironment, folder: Path) -> Iterator[Engines]:
    """Three engines that give each other KV. None keeps a prefix: what it did not fetch it would compute."""
    reason = why_no_nixl()
    if reason is not None:
        pytest.skip(f"KV between real engines: {reason}")
    settings = {"profile": PROFILE, "speed": SPEED, "pace": 1.0}
    started = {
        name: VllmEngine(
            vllm_environment, folder / f"{name}.log", name=MODEL, shares_kv=True, max_model_len=16_384,
            polyslo=settings | {"steps_file": str(folder / f"{name}.jsonl")}, more=("--no-enable-prefix-caching",),
        )
        for name in NAMES
    }  # fmt: skip
    try:
        for engine in started.values():
            engine.wait()
        yield started
    finally:
        for engine in started.values():
            engine.stop()


@pytest.fixture(scope="module")
def alone(engines: Engines) -> list[Answer]:
    """What one engine answers to each of the mix that it serves alone."""
    url = engines["spare"].url
    return [ask(url, MODEL, prompt(k, inputs), outputs) for k, (inputs, outputs, _) in enumerate(MIX)]


@pytest.fixture(scope="module")
def gateway(engines: Engines, folder: Path) -> Iterator[str]:
    """A gateway to one prefill and two decode engines."""
    yield from serve(engines, folder, "roles", ', role = "decode"')


@pytest.fixture(scope="module")
def flexible(engines: Engines, folder: Path) -> Iterator[str]:
    """A gateway that may use the spare engine for either side."""
    yield from serve(engines, folder, "flexible", "")


def serve(engines: Engines, folder: Path, name: str, spare_role: str) -> Iterator[str]:
    """Start a gateway; yield its address."""
    urls = {name: engine.url for name, engine in engines.items()}
    configuration = GATEWAY.format(profile=PROFILE, speed=SPEED, spare_role=spare_role, **urls)
    with serving(configuration, folder, name) as (address, _):
        yield address


def slo(tpot_ms: float, ttft_ms: float = 60_000) -> dict[str, str]:
    """Return an SLO as the gateway takes it, with time for the slowest machine's transfer."""
    return slo_headers(ttft_ms, tpot_ms)


def until_zero(engine: VllmEngine, metric: str) -> None:
    """Wait until an engine says that nothing is left."""
    for _ in range(600):
        if engine.metric(metric) == 0:
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"{engine.log.stem}: {metric} is {engine.metric(metric)}")


def sides(answer: Answer) -> tuple[str, str]:
    """Return who prefilled and who decoded."""
    prefilled, decoded = answer.headers["x-polyslo-instance"].split(", ")
    return prefilled, decoded


def prompt_tokens(folder: Path, name: str) -> int:
    """Return how many prompt tokens an engine has computed."""
    return sum(json.loads(line)["chunk"] for line in (folder / f"{name}.jsonl").read_text().splitlines())


def until_prefilled(folder: Path, name: str, before: int) -> None:
    """Wait until an engine has computed more prompt tokens than `before`."""
    for _ in range(6000):
        if prompt_tokens(folder, name) > before:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"{name} got no prompt")


def test_answers_are_those_of_one_engine_alone(gateway: str, alone: list[Answer], folder: Path) -> None:
    """Several prompts at once, each prefilled by one engine and decoded by another: greedy tokens stay the same.

    The decode side computes one token of each prompt, its last; all others' KV it has from the prefill side. That one
    may compute more than once: on a busy machine vLLM's first handshake between two engines can miss its 5 s, and
    what failed before its first token is begun anew.
    """
    before = {name: prompt_tokens(folder, name) for name in NAMES}
    calls = [
        partial(ask, gateway, MODEL, prompt(k, inputs), outputs, headers=slo(tpot), is_streamed=k % 3 > 0)
        for k, (inputs, outputs, tpot) in enumerate(MIX)
    ]
    given = ask_all(calls)
    assert [answer.error for answer in given] == [None] * len(MIX)
    assert [answer.token_ids for answer in given] == [own.token_ids for own in alone]
    assert {answer.finish_reason for answer in given} == {"length"}
    assert {sides(answer)[0] for answer in given} == {"prefill"}
    assert {sides(answer)[1] for answer in given} <= {"decode", "spare"}
    computed = {name: prompt_tokens(folder, name) - before[name] for name in NAMES}
    assert computed["prefill"] >= sum(inputs for inputs, _, _ in MIX)
    assert computed["decode"] + computed["spare"] == len(MIX)


def test_a_client_that_left_leaves_nothing_behind(gateway: str, engines: Engines) -> None:
    """A client that goes while it is answered: the engines work no more, and their KV caches are empty again."""
    leave_after_first(gateway, MODEL, prompt(300, 900), 4000, slo(200))
    for engine in engines.values():
        until_zero(engine, "vllm:num_requests_running")
        until_zero(engine, "vllm:kv_cache_usage_perc")


def test_a_prefill_engine_killed_in_the_middle(flexible: str, engines: Engines, folder: Path) -> None:
    """Its prompt is prefilled anew elsewhere and the user gets every token, late; who decodes notices nothing."""
    ids, running_ids = prompt(500, LONG_PROMPT), prompt(501, 200)
    own, own_running = (ask(engines["spare"].url, MODEL, ids, 8), ask(engines["spare"].url, MODEL, running_ids, 300))
    with ThreadPoolExecutor(2) as pool:
        has_begun = threading.Event()
        running = pool.submit(
            ask, flexible, MODEL, running_ids, 300, headers=slo(200), on_first=has_begun.set
        )  # fmt: skip
        assert has_begun.wait(120.0)
        before = prompt_tokens(folder, "prefill")
        struck = pool.submit(ask, flexible, MODEL, ids, 8, headers=slo(200))
        until_prefilled(folder, "prefill", before)
        engines["prefill"].kill_core()
        answer, unaware = struck.result(), running.result()
    assert (answer.status, answer.error, answer.token_ids) == (200, None, own.token_ids)
    assert sides(answer) == ("spare", "decode")
    assert (unaware.error, unaware.token_ids) == (None, own_running.token_ids)


def test_kv_that_is_lost_on_the_way(flexible: str, engines: Engines, folder: Path) -> None:
    """A prefill engine that dies before its KV was fetched, and no other is left: every token comes, from one engine.

    The request waits for a prefill engine as long as its TTFT can be met, and is then relegated.
    """
    ids = prompt(600, LOST_PROMPT)
    own = ask(engines["decode"].url, MODEL, ids, 8)
    before = prompt_tokens(folder, "spare")
    with ThreadPoolExecutor(1) as pool:
        engines["decode"].freeze()
        try:
            call = pool.submit(ask, flexible, MODEL, ids, 8, headers=slo(200, ttft_ms=15_000))
            until_prefilled(folder, "spare", before + LOST_PROMPT - 1)
            engines["spare"].kill_core()
        finally:
            engines["decode"].thaw()
        answer = call.result()
    assert (answer.status, answer.error, answer.token_ids) == (200, None, own.token_ids)
    assert answer.headers["x-polyslo-instance"] == "decode"


def test_without_a_prefill_engine_the_other_side_serves_alone(gateway: str, engines: Engines) -> None:
    """Nobody is left who may prefill: a decode engine serves what can't be in time any more, whole."""
    ids = prompt(700, 64)
    own = ask(engines["decode"].url, MODEL, ids, 8)
    answer = ask(gateway, MODEL, ids, 8, headers=slo(200, ttft_ms=5_000))
    assert (answer.status, answer.error, answer.token_ids) == (200, None, own.token_ids)
    assert answer.headers["x-polyslo-instance"] == "decode"
