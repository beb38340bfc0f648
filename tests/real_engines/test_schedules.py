"""What polyslo's scheduler makes of vLLM's, step by step; no model computes, so nothing depends on time."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vllm_environment import CHECKOUT, VllmEnvironment

from polyslo.core.profile import Profile
from polyslo.profiles.library import load_profile

PROFILE = "llama-3.1-8b-h200-tp1"
OURS = {"profile": PROFILE}


def asks(input_tokens: int, output_tokens: int, at_step: int = 0, **told: float) -> dict[str, Any]:
    """Return a request; `told` is what it tells, without the prefix."""
    tells = {f"polyslo_{name}": value for name, value in told.items()}
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, "at_step": at_step, "tells": tells or None}


def crowd(seed: int, tells: bool) -> dict[str, dict[str, Any]]:
    """Return 40 requests of all sizes that come one after the other; with `tells` three in four have an SLO."""
    rng = np.random.default_rng(seed)
    requests = {}
    for k in range(40):
        told = {}
        if tells and rng.random() < 0.75:
            told = {"tpot_ms": float(rng.choice([20, 30, 50])), "first_due_ms": float(rng.integers(10**6, 10**7))}
            if rng.random() < 0.2:
                told["best_effort"] = 1
        step = int(rng.integers(0, 60))
        requests[f"r{k:02}"] = asks(int(rng.integers(1, 900)), int(rng.integers(1, 60)), step, **told)
    return requests


EIGHT = {f"d{k}": asks(100, 60, tpot_ms=100, first_due_ms=10**6) for k in range(8)}
TIGHT_MEMORY = {"kv_tokens": 2048, "max_num_seqs": 32}

SCENARIOS: dict[str, dict[str, Any]] = {
    "stock": {"requests": crowd(1, False)},
    "without SLOs": {"requests": crowd(1, False), "polyslo": OURS},
    "stock, little memory": {"requests": crowd(2, False), **TIGHT_MEMORY},
    "without SLOs, little memory": {"requests": crowd(2, False), "polyslo": OURS, **TIGHT_MEMORY},
    "stock, async": {"requests": crowd(1, False), "async": True},
    "without SLOs, async": {"requests": crowd(1, False), "polyslo": OURS, "async": True},
    "without a profile": {"requests": crowd(1, True), "polyslo": {"steps_file": os.devnull}},
    "stock, told": {"requests": crowd(1, True)},
    "tightest": {
        "polyslo": OURS, "token_limit": 8192,
        "requests": EIGHT
        | {"long": asks(30_000 // 4, 2, 5, tpot_ms=100, first_due_ms=10**6)}
        | {"tight": asks(64, 8, 6, tpot_ms=15, first_due_ms=10**5)},
    },
    "pace": {
        "polyslo": OURS, "token_limit": 8192,
        "requests": EIGHT | {"long": asks(7500, 2, 5, tpot_ms=100, first_due_ms=10**6, pace_ms=20)},
    },
    "margin": {
        "polyslo": OURS | {"margin_ratio": 0.5}, "token_limit": 8192,
        "requests": EIGHT | {"long": asks(7500, 2, 5, tpot_ms=100, first_due_ms=10**6)},
    },
    "deadlines": {
        "polyslo": OURS,
        "requests": {
            "third": asks(3000, 2, tpot_ms=30, first_due_ms=300_000),
            "first": asks(3000, 2, 1, tpot_ms=30, first_due_ms=100_000),
            "second": asks(3000, 2, 1, tpot_ms=30, first_due_ms=200_000),
            "nobody": asks(3000, 2),
        },
    },
    "relegated": {
        "polyslo": OURS,
        "requests": {
            "relegated": asks(3000, 2, tpot_ms=30, first_due_ms=-5000, best_effort=1, pace_ms=30),
            "own": asks(3000, 2, 1, tpot_ms=30, first_due_ms=60_000, pace_ms=30),
        },
    },
    "relegated alone": {
        "polyslo": OURS,
        "requests": {"a": asks(3000, 4, tpot_ms=30, first_due_ms=-5000, best_effort=1, pace_ms=20)},
    },
    "yields time": {
        "polyslo": OURS,
        "requests": {f"b{k}": asks(2000, 100) for k in range(20)}
        | {"own": asks(100, 200, 20, tpot_ms=6, first_due_ms=10**6)}, "num_steps": 70,
    },
    "yields slots": {
        "polyslo": OURS, "max_num_seqs": 4,
        "requests": {f"b{k}": asks(50, 500) for k in range(4)}
        | {"own": asks(50, 5, 5, tpot_ms=30, first_due_ms=10**6)},
        "num_steps": 20,
    },
    "yields memory": {
        "polyslo": OURS, "kv_tokens": 4096,
        "requests": {f"b{k}": asks(900, 500) for k in range(4)}
        | {"own": asks(2000, 5, 5, tpot_ms=30, first_due_ms=10**6)}, "num_steps": 40,
    },
    "does not fit yet": {
        "polyslo": OURS, "kv_tokens": 4096,
        "requests": {
            "holds": asks(3000, 5, tpot_ms=30, first_due_ms=200_000),
            "urgent": asks(3500, 5, 1, tpot_ms=30, first_due_ms=100_000),
        },
    },
    "cached": {
        "polyslo": OURS, "prefix_caching": True,
        "requests": {
            "a": asks(6000, 2, tpot_ms=20, first_due_ms=10**6) | {"shared_tokens": 5600},
            "b": asks(6000, 30, 12, tpot_ms=20, first_due_ms=10**6) | {"shared_tokens": 5600},
        },
    },
    "malformed": {"polyslo": OURS, "requests": {"a": asks(100, 3) | {"tells": {"polyslo_tpot_ms": "fast"}}}},
    "unknown key": {"polyslo": OURS | {"sped": 2}, "requests": {}},
    "nothing to do": {"polyslo": {}, "requests": {}},
    "other policy": {"polyslo": OURS, "policy": "priority", "requests": {}},
}  # fmt: skip
for seed in range(8):
    memory = TIGHT_MEMORY if seed % 2 else {}
    SCENARIOS[f"crowd {seed}"] = {"polyslo": OURS, "requests": crowd(seed, True), "async": seed > 3, **memory}


@pytest.fixture(scope="session")
def schedules(vllm_environment: VllmEnvironment) -> dict[str, Any]:
    """What became of every scenario."""
    script = Path(__file__).with_name("schedules.py")
    quiet = {
        "PYTHONPATH": str(CHECKOUT / "src"), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(vllm_environment.cache),
    }  # fmt: skip
    done = subprocess.run(
        [str(vllm_environment.python), str(script), str(vllm_environment.models / "nano")],
        input=json.dumps(SCENARIOS), capture_output=True, text=True, check=False, timeout=600,
        env=os.environ | quiet,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # vLLM may have logged before
    return results


@pytest.fixture(scope="session")
def profile() -> Profile:
    """What the scheduler goes by."""
    return load_profile(PROFILE).profile


def durations_s(scenario: str, steps: list[dict[str, int]], profile: Profile) -> list[float]:
    """Return how long each step would last by the profile, where nobody is preempted."""
    inputs = {name: asked["input_tokens"] for name, asked in SCENARIOS[scenario]["requests"].items()}
    done: Counter[str] = Counter()
    lasted = []
    for step in steps:
        decodes = [name for name in step if done[name] >= inputs[name]]
        prompts = {name: tokens for name, tokens in step.items() if name not in decodes}
        chunk = sum(prompts.values())
        pairs = sum(tokens * (done[name] + tokens / 2) for name, tokens in prompts.items())
        kv = sum(done[name] for name in decodes)
        lasted.append(profile.iteration_s(len(decodes), chunk, kv, pairs / chunk if chunk else 0.0))
        done.update(step)
    return lasted


@pytest.mark.parametrize("kind", ["", ", little memory", ", async"])
def test_without_slos_schedules_are_vllms_own(schedules: dict[str, Any], kind: str) -> None:
    """While nobody tells an SLO, every step and every preemption is what stock vLLM does."""
    assert schedules[f"without SLOs{kind}"] == schedules[f"stock{kind}"]
    if kind == ", little memory":
        assert schedules[f"stock{kind}"]["preempted"]


def test_without_a_profile_schedules_are_vllms_own(schedules: dict[str, Any]) -> None:
    """A scheduler that is to record steps only changes none, whatever requests tell."""
    assert schedules["without a profile"] == schedules["stock, told"]


def test_chunks_follow_the_tightest_tpot(schedules: dict[str, Any], profile: Profile) -> None:
    """Steps fill the tightest TPOT inside: 100 ms, 15 ms while a tight request decodes, then 100 ms again."""
    steps = schedules["tightest"]["steps"]
    lasts_s = durations_s("tightest", steps, profile)
    tight = [k for k, step in enumerate(steps) if "tight" in step]
    full = [k for k, step in enumerate(steps) if step.get("long", 0) > 1]
    assert set(tight) & set(full)
    for k in full[1:-1]:
        assert 0.97 * 0.015 < lasts_s[k] <= 0.015 if k in tight else lasts_s[k] <= 0.1
    assert max(step.get("long", 0) for step in steps) > 3 * max(steps[k].get("long", 0) for k in tight)


def test_the_routers_pace_goes_before_tpots(schedules: dict[str, Any], profile: Profile) -> None:
    """A pace of 20 ms holds though every TPOT is 100 ms."""
    steps = schedules["pace"]["steps"]
    lasts_s = durations_s("pace", steps, profile)
    full = [k for k, step in enumerate(steps) if step.get("long", 0) > 1]
    assert len(full) > 3
    assert all(0.97 * 0.020 < lasts_s[k] <= 0.020 for k in full[:-1])


def test_a_margin_is_kept_of_tpots(schedules: dict[str, Any], profile: Profile) -> None:
    """With a margin of a half a TPOT of 100 ms makes steps of 50 ms."""
    steps = schedules["margin"]["steps"]
    lasts_s = durations_s("margin", steps, profile)
    full = [k for k, step in enumerate(steps) if step.get("long", 0) > 1]
    assert all(0.97 * 0.050 < lasts_s[k] <= 0.050 for k in full[:-1])


def test_prompts_run_by_deadline(schedules: dict[str, Any]) -> None:
    """The earliest deadline runs first, even before a prompt that is under way; without an SLO comes last."""
    steps = schedules["deadlines"]["steps"]
    assert list(steps[0]) == ["third"]
    ended = {
        name: max(k for k, step in enumerate(steps) if name in step) for name in SCENARIOS["deadlines"]["requests"]
    }
    assert sorted(ended, key=ended.__getitem__) == ["first", "second", "third", "nobody"]


def test_relegated_requests_come_last(schedules: dict[str, Any]) -> None:
    """A relegated prompt, though due long ago, waits for one with an SLO that comes later."""
    steps = schedules["relegated"]["steps"]
    assert list(steps[0]) == ["relegated"]
    own_began = next(k for k, step in enumerate(steps) if "own" in step)
    own_first = next(k for k in range(own_began, len(steps)) if steps[k].get("own") == 1)
    assert own_began == 1
    assert all("relegated" not in step for step in steps[own_began : own_first - 1])


def test_relegated_requests_among_themselves_keep_the_pace(schedules: dict[str, Any], profile: Profile) -> None:
    """An idle instance that works on relegated requests keeps to the pace that a claim would wait for."""
    steps = schedules["relegated alone"]["steps"]
    assert len(steps) > 4
    assert max(durations_s("relegated alone", steps, profile)) <= 0.020


def test_best_effort_decodes_sit_out_steps_without_time(schedules: dict[str, Any], profile: Profile) -> None:
    """Of twenty best-effort decodes only those join a step that leave a tight request its TPOT."""
    steps = schedules["yields time"]["steps"]
    lasts_s = durations_s("yields time", steps, profile)
    shared = [k for k, step in enumerate(steps) if step.get("own") == 1]
    assert max(len(step) for step in steps) > max(len(steps[k]) for k in shared)
    assert all(lasts_s[k] <= 0.006 for k in shared)
    assert all(len(steps[k]) > 1 for k in shared)


def test_best_effort_gives_up_its_slot(schedules: dict[str, Any]) -> None:
    """When the batch is full of best-effort work, one of it makes room for a request with an SLO."""
    result = schedules["yields slots"]
    assert "own" in result["steps"][6]
    assert len(result["preempted"]) == 1


def test_best_effort_gives_up_its_memory(schedules: dict[str, Any]) -> None:
    """When best-effort work holds the KV cache, as much of it goes as a request with an SLO needs."""
    result = schedules["yields memory"]
    assert "own" not in result["unfinished"]
    assert 1 <= len(set(result["preempted"])) < 4


def test_who_holds_memory_gets_on(schedules: dict[str, Any]) -> None:
    """An urgent prompt that does not fit beside one under way does not stop it for good."""
    result = schedules["does not fit yet"]
    assert result["unfinished"] == []
    empty = sum(not step for step in result["steps"])
    assert empty <= 2


def test_cached_prefixes_count_as_context(schedules: dict[str, Any], profile: Profile) -> None:
    """A prompt whose prefix is cached attends to it: its chunk is what fits after that."""
    steps = schedules["cached"]["steps"]
    fresh = sum(step["b"] for step in steps if step.get("b", 1) > 1)
    assert fresh <= 6000 - 5600 + 16
    assert schedules["cached"]["unfinished"] == []


@pytest.mark.parametrize("seed", range(8))
def test_everyone_is_served_whole(schedules: dict[str, Any], seed: int) -> None:
    """With SLOs and without, in step and async, with memory and without: all get exactly their tokens."""
    result = schedules[f"crowd {seed}"]
    assert result["unfinished"] == []
    scheduled: Counter[str] = Counter()
    for step in result["steps"]:
        scheduled.update(step)
    for name, asked in SCENARIOS[f"crowd {seed}"]["requests"].items():
        whole = asked["input_tokens"] + asked["output_tokens"] - 1
        assert scheduled[name] == whole or (name in result["preempted"] and scheduled[name] > whole)


def test_malformed_slos_count_as_none(schedules: dict[str, Any]) -> None:
    """What a scheduler can't refuse any more it serves as best-effort."""
    assert schedules["malformed"]["unfinished"] == []


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("unknown key", "additional-config: polyslo: unknown key 'sped'; did you mean 'speed'?"),
        ("nothing to do", "nothing to do; set profile"),
        ("other policy", "--scheduling-policy priority: polyslo's scheduler orders by deadline"),
    ],
)
def test_wrong_settings_are_told(schedules: dict[str, Any], scenario: str, words: str) -> None:
    """A scheduler that is set up wrongly does not start, and says why."""
    assert words in schedules[scenario]["error"]
