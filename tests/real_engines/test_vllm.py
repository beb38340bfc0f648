"""Real vLLM engines with polyslo's scheduler, alone and behind the gateway: what a user sees, on good and bad days."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from asking import Answer, ask, ask_all, prompt, slo_headers
from gateway_process import read_metric, serving
from vllm_engine import VllmEngine
from vllm_environment import VllmEnvironment

from polyslo.core.profile import Profile
from polyslo.profiles.library import load_profile

PROFILE = "llama-3.1-8b-h200-tp1"
SPEED = 0.35  # so that the shortest step, of one decode, outlasts what the small model takes on a CPU
FRAIL_KV_TOKENS = 4096
KV_BYTES_PER_TOKEN = 2 * 32 * 4  # of the nano model: one layer, one head
MIX = [(300, 24, 60), (900, 16, 100), (40, 40, 200), (1500, 12, 60), (700, 20, 200), (64, 32, 100)]

GATEWAY = """
[server]
port = 0
metrics_port = 0

[tiers]
tpots_ms = [60, 100, 200]

[health]
interval_s = 1
idle_timeout_s = 3
failure_threshold = 1
success_threshold = 1

[[models]]
name = "steady"
profile = "{profile}"
speed = {speed}
dynamic_chunking = true
chunk_limit_tokens = 2048
max_residents = 64
endpoints = [{{ url = "{steady}" }}]

[[models]]
name = "frail"
profile = "{profile}"
speed = {speed}
dynamic_chunking = true
chunk_limit_tokens = 2048
max_residents = 64
kv_capacity_tokens = 100000
endpoints = [{{ url = "{frail}" }}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where logs and steps go."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def engines(vllm_environment: VllmEnvironment, folder: Path) -> Iterator[tuple[VllmEngine, VllmEngine]]:
    """A steady engine, and a frail one: at half the speed that its profile says, with little memory, in two parts."""
    settings = {"profile": PROFILE, "speed": SPEED}
    steady = VllmEngine(
        vllm_environment, folder / "steady.log", name="steady",
        polyslo=settings | {"pace": 1.0, "steps_file": str(folder / "steady.jsonl")},
    )  # fmt: skip
    frail = VllmEngine(
        vllm_environment, folder / "frail.log", name="frail", splits=True,
        kv_bytes=FRAIL_KV_TOKENS * KV_BYTES_PER_TOKEN, max_model_len=2048,
        polyslo=settings | {"pace": 0.5, "steps_file": str(folder / "frail.jsonl")},
    )  # fmt: skip
    try:
        steady.wait()
        frail.wait()
        yield steady, frail
    finally:
        steady.stop()
        frail.stop()


@pytest.fixture(scope="module")
def steady(engines: tuple[VllmEngine, VllmEngine]) -> VllmEngine:
    """The engine that works."""
    return engines[0]


@pytest.fixture(scope="module")
def frail(engines: tuple[VllmEngine, VllmEngine]) -> VllmEngine:
    """The engine that does not. The last test kills it."""
    return engines[1]


@pytest.fixture(scope="module")
def gateway(engines: tuple[VllmEngine, VllmEngine], folder: Path) -> Iterator[tuple[str, str]]:
    """A gateway before both, each a model of its own: its address, and that of its metrics."""
    urls = {"steady": engines[0].url, "frail": engines[1].url}
    with serving(GATEWAY.format(profile=PROFILE, speed=SPEED, **urls), folder) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def alone(steady: VllmEngine) -> list[Answer]:
    """What the engine answers to each of the mix alone."""
    return [ask(steady.url, "steady", prompt(k, inputs), outputs) for k, (inputs, outputs, _) in enumerate(MIX)]


@pytest.fixture(scope="module")
def profile() -> Profile:
    """What the engines are paced to."""
    return load_profile(PROFILE).profile.slowed(1.0 / SPEED)


def read_steps(path: Path) -> list[dict[str, float]]:
    """Return the steps that an engine has recorded."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tokens_are_those_of_the_prompt_alone(steady: VllmEngine, alone: list[Answer]) -> None:
    """Chunks by TPOT, order by deadline, best-effort beside: greedy tokens stay those of each prompt alone."""
    told = [{"tpot_ms": tpot, "first_due_ms": 9000 - 1000 * k} for k, (_, _, tpot) in enumerate(MIX)]
    told[4] = {}
    calls = [
        partial(ask, steady.url, "steady", prompt(k, inputs), outputs, told=told[k])
        for k, (inputs, outputs, _) in enumerate(MIX)
    ]
    for given, own, (_, outputs, _) in zip(ask_all(calls), alone, MIX, strict=True):
        assert len(own.token_ids) == outputs
        assert (given.token_ids, given.is_done) == (own.token_ids, True)


def test_steps_are_recorded_and_paced(steady: VllmEngine, alone: list[Answer], folder: Path, profile: Profile) -> None:
    """Every step is written down with what it carried, and all together last no shorter than told."""
    steps = read_steps(folder / "steady.jsonl")
    assert sum(step["chunk"] for step in steps) >= sum(inputs for inputs, _, _ in MIX)
    lasted_s = sum(step["step_s"] for step in steps)
    told_s = sum(profile.iteration_s(step["decodes"], step["chunk"], step["kv"], step["context"]) for step in steps)
    assert lasted_s >= 0.999 * told_s  # single steps may be shorter: those that make up for lag


def test_through_the_gateway(
    gateway: tuple[str, str], steady: VllmEngine, alone: list[Answer], folder: Path, profile: Profile
) -> None:
    """Streams and whole answers come through with the same tokens; steps keep the pace of the tightest tier."""
    url, _ = gateway
    before = len(read_steps(folder / "steady.jsonl"))
    calls = [
        partial(ask, url, "steady", prompt(k, inputs), outputs, headers=slo_headers(8000, tpot), is_streamed=k % 2 == 0)
        for k, (inputs, outputs, tpot) in enumerate(MIX)
    ]
    for given, own in zip(ask_all(calls), alone, strict=True):
        assert (given.status, given.token_ids) == (200, own.token_ids)
        assert given.headers["x-polyslo-tier"]
        assert given.finish_reason == "length"
    steps = read_steps(folder / "steady.jsonl")[before:]
    assert steps
    for step in steps:
        lasts_s = profile.iteration_s(step["decodes"], step["chunk"], step["kv"], step["context"])
        assert lasts_s <= 0.2 + 1e-6  # no tier allows more


def test_a_best_effort_stream_gives_way_and_goes_on(gateway: tuple[str, str], steady: VllmEngine) -> None:
    """One that came too late runs on the idle engine until one in time takes that from it; neither loses a token."""
    late, urgent = (prompt(500, 200), 150), (prompt(501, 100), 20)
    own = [ask(steady.url, "steady", *each) for each in (late, urgent)]
    before = steady.metric("vllm:prompt_tokens_total")
    claims: list[Answer] = []
    claim = threading.Thread(
        target=lambda: claims.append(ask(gateway[0], "steady", *urgent, headers=slo_headers(8000, 100)))
    )
    given = ask(gateway[0], "steady", *late, headers=slo_headers(0.001, 100), on_first=claim.start)
    claim.join()
    assert [given.token_ids, claims[0].token_ids] == [answer.token_ids for answer in own]
    assert (given.is_done, given.finish_reason) == (True, "length")
    computed = steady.metric("vllm:prompt_tokens_total") - before
    assert computed > 2 * len(late[0]) + len(urgent[0])  # the rest came with its prompt, once more


def test_a_full_kv_cache_preempts_and_loses_no_token(frail: VllmEngine, steady: VllmEngine) -> None:
    """Requests that don't fit into memory together are preempted and computed again, to the same tokens."""
    prompts = [prompt(100 + k, 700) for k in range(6)]
    own = ask_all([partial(ask, steady.url, "steady", ids, 100) for ids in prompts])
    told = {"tpot_ms": 400, "first_due_ms": 60_000}
    given = ask_all([partial(ask, frail.url, "frail", ids, 100, told=told) for ids in prompts])
    assert frail.metric("vllm:num_preemptions_total") > 0
    assert [answer.is_done for answer in given] == [True] * 6
    assert [answer.token_ids for answer in given] == [answer.token_ids for answer in own]


def test_an_engine_at_half_speed_is_seen(gateway: tuple[str, str], frail: VllmEngine) -> None:
    """The user gets every token, late; the gateway's metrics say by how much the engine is slower than believed."""
    url, metrics = gateway
    calls = [
        partial(ask, url, "frail", prompt(200 + k, 60), 40, headers=slo_headers(5000, 100)) for k in range(3)
    ]  # fmt: skip
    answers = ask_all(calls)
    assert [len(answer.token_ids) for answer in answers] == [40] * 3
    assert slowness(metrics) > 1.5


def test_a_frozen_engine_is_noticed_by_its_silence(gateway: tuple[str, str], frail: VllmEngine) -> None:
    """/health of a frozen engine says 200. Its stream is cut after the idle timeout; thawed, it serves again."""
    url, _ = gateway
    try:
        answer = ask(url, "frail", prompt(300, 60), 400, headers=slo_headers(5000, 100), on_first=frail.freeze)
        assert frail.health() == 200
    finally:
        frail.thaw()
    assert 0 < len(answer.token_ids) < 400
    assert answer.is_cut
    again = until_served(url)
    assert len(again.token_ids) == 8


def test_a_killed_engine_ends_its_streams_with_an_error(gateway: tuple[str, str], frail: VllmEngine) -> None:
    """An engine that dies says 200, then an error event, then [DONE]; the gateway passes that on and sends no more."""
    url, _ = gateway
    answer = ask(url, "frail", prompt(400, 60), 400, headers=slo_headers(5000, 100), on_first=frail.kill_core)
    assert answer.status == 200
    assert 0 < len(answer.token_ids) < 400
    assert answer.finish_reason is None
    assert answer.error is not None or answer.is_cut
    after = ask(url, "frail", prompt(401, 60), 8, headers=slo_headers(5000, 100))
    assert after.status in (502, 503)
    assert after.error is not None


def until_served(url: str) -> Answer:
    """Ask until a look at the engine has found it healthy again."""
    for _ in range(60):
        answer = ask(url, "frail", prompt(301, 60), 8, headers=slo_headers(5000, 100))
        if answer.status == 200 and answer.is_done:
            return answer
        threading.Event().wait(0.5)
    raise AssertionError(f"the engine was not taken back: {answer}")


def slowness(metrics_url: str) -> float:
    """Return how much slower than believed the frail engine is, by the gateway's metrics."""
    return read_metric(metrics_url, "polyslo_slowness_ratio", 'model="frail"')[0]
