"""A real vLLM whose steps and events have several tokens each: speculation, and `--stream-interval`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from asking import Answer, ask, ask_all, prompt
from gateway_process import read_metric, serving
from vllm_engine import VllmEngine
from vllm_environment import VllmEnvironment

INTERVAL = 3
SPECULATION = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
PROFILE = "llama-3.1-8b-h200-tp1"
# Tokens of prompts and answers. The long one repeats itself, so that some of what is guessed is right.
LENGTHS = [(300, 40), (20, 361), (700, 25), (64, 1)]
SLO = {"x-llm-d-slo-ttft-ms": "60000", "x-llm-d-slo-tpot-ms": "5000"}
GATEWAY = """
[server]
port = 0
metrics_port = 0

[tiers]
tpots_ms = [5000]

[[models]]
name = "several"
profile = "{profile}"
speed = 0.1
dynamic_chunking = true
chunk_limit_tokens = 2048
endpoints = [{{ url = "{url}" }}]
"""


@pytest.fixture(scope="module")
def engine(vllm_environment: VllmEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """An engine that tells of three tokens at a time, and guesses the next ones."""
    folder = tmp_path_factory.mktemp("several")
    engine = VllmEngine(
        vllm_environment, folder / "several.log", name="several",
        polyslo={"profile": PROFILE, "speed": 0.1, "steps_file": str(folder / "several.jsonl")},
        more=("--stream-interval", str(INTERVAL), "--speculative-config", json.dumps(SPECULATION)),
    )  # fmt: skip
    try:
        engine.wait()
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="module")
def gateway(engine: VllmEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway before it: its address, and that of its metrics."""
    with serving(GATEWAY.format(profile=PROFILE, url=engine.url), tmp_path_factory.mktemp("gateway")) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def alone(engine: VllmEngine) -> list[Answer]:
    """What the engine answers to each prompt alone, with nothing told."""
    return [ask(engine.url, "several", prompt(k, inputs), outputs) for k, (inputs, outputs) in enumerate(LENGTHS)]


def test_steps_have_several_tokens_and_events_too(engine: VllmEngine, alone: list[Answer]) -> None:
    """Else what follows would say nothing."""
    assert [len(answer.token_ids) for answer in alone] == [outputs for _, outputs in LENGTHS]
    assert engine.metric("vllm:spec_decode_num_accepted_tokens_total") > 0
    assert sum(answer.num_events for answer in alone) < sum(outputs for _, outputs in LENGTHS) / 2


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"return_token_ids": True}, id="ids"),
        pytest.param({"stream_options": {"include_usage": True, "continuous_usage_stats": True}}, id="running usage"),
        pytest.param({"stream_options": {"include_usage": True}}, id="usage at the end"),
        pytest.param({}, id="nothing said"),
    ],
)
def test_the_gateway_counts_tokens_and_not_events(
    gateway: tuple[str, str], alone: list[Answer], more: dict[str, Any]
) -> None:
    """However streams tell how many tokens they have; where one says nothing it is told by what those before had."""
    url, metrics = gateway
    if not more:
        ask_mix(url, {"stream_options": {"include_usage": True}})
        settled(metrics)
    before = counted(metrics)
    answers = ask_mix(url, more)
    assert [(answer.status, answer.is_done, answer.finish_reason) for answer in answers] == [(200, True, "length")] * 4
    if "return_token_ids" in more:
        assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]
    requests, attained, tokens = (now - then for now, then in zip(settled(metrics), before, strict=True))
    assert (requests, attained) == (len(LENGTHS), len(LENGTHS))
    total = sum(outputs for _, outputs in LENGTHS)
    assert abs(tokens - total) <= (0 if more else 0.25 * total)


def ask_mix(url: str, more: dict[str, Any]) -> list[Answer]:
    """Ask for all at once, with more in the bodies."""
    asked = {"return_token_ids": False} | more
    return ask_all(
        [
            partial(ask, url, "several", prompt(k, inputs), outputs, headers=SLO, **asked)
            for k, (inputs, outputs) in enumerate(LENGTHS)
        ]
    )


def counted(metrics_url: str) -> tuple[float, float, float]:
    """Return, by the gateway's metrics, the requests that are over, those that attained, and their tokens."""
    names = ("slo_requests", "slo_attained", "output_tokens")
    requests, attained, tokens = (sum(read_metric(metrics_url, f"polyslo_{name}_total")) for name in names)
    return requests, attained, tokens


def settled(metrics_url: str) -> tuple[float, float, float]:
    """Return the same once nothing is under way for the gateway, either."""
    for _ in range(100):
        if not any(read_metric(metrics_url, "polyslo_inflight_requests")):
            return counted(metrics_url)
        time.sleep(0.1)
    raise AssertionError("requests are under way for the gateway, and for nobody else")
