"""The units of work that a sweep is made of: plain data in, plain data out, in whatever process.

A unit is a key: equal units give equal answers on equal code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from polyslo.claims.cases import OURS, TARGETS, Case
from polyslo.claims.search import crossings
from polyslo.core.state import FIRST_TOKEN
from polyslo.sim.bounded import attainment_or_bound
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import RunResult
from polyslo.sim.run import build_world, run_world, scored_requests, simulate, summarize
from polyslo.sim.setting import Setting
from polyslo.sim.world import ATTAINED, RELEGATED_OUT
from polyslo.workload.slo import RAISED_TO_IDLE
from polyslo.workload.workload import Workload

TOLERANCE_RATIO = 0.02  # of the fluid optimum, in what is scored; the crossing itself is interpolated
GUESSES = (0.9, 1.0)  # of the fluid optimum, one a target
LEAST_GUESS = 0.1
RELAXED_RATIO = 2.0  # TTFTs of an inspection's second run, over those of the first
LEAST_TOLD = 0.5  # attainment: how far below it is says nothing about goodput


@dataclass(frozen=True, slots=True)
class Search:
    """Find a policy's goodput at every target with one seed."""

    case: Case
    policy: str
    seed: int
    duration_s: float
    guesses_rps: tuple[float, ...] = ()  # one a target, where a similar search has been made
    tolerance_ratio: float = TOLERANCE_RATIO


@dataclass(frozen=True, slots=True)
class Trial:
    """Run a policy once at a rate."""

    case: Case
    policy: str
    seed: int
    duration_s: float
    rate_rps: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """Run polyserve once at a rate and look at the requests that miss."""

    case: Case
    seed: int
    duration_s: float
    rate_rps: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: requests per second at each target, and what it saw on the way."""

    rates_rps: tuple[float, ...]
    seen: tuple[tuple[float, float], ...]  # (rate, attainment, below `LEAST_TOLD` a bound of it), rising


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to."""

    attainment: float
    mean_instances: float  # owned by tiers and by the prefill side, or kept warm
    owner_instances: tuple[float, ...]  # of `mean_instances`: one number a tier, then the prefill side's (0 in CO)
    tier_requests: tuple[int, ...]
    tier_attained: tuple[int, ...]
    num_preemptions: int


@dataclass(frozen=True, slots=True)
class Misses:
    """What an inspection saw.

    Tight: a TTFT of at most `RAISED_TO_IDLE` times what the prompt takes alone. In a burst: the second around its
    arrival brings more prompt tokens than a second at the fluid optimum does on average.
    """

    tier_requests: tuple[int, ...]
    tier_missed: tuple[int, ...]
    num_unpromised: int  # of those that missed: never placed, as no instance could promise to be in time
    num_first_token: int  # of these: some instance could not promise the first token
    num_tight: int
    num_tight_missed: int
    num_burst: int
    num_burst_missed: int
    prompt_tokens: float  # median
    missed_prompt_tokens: float  # median; 0 where none missed
    left_for_prefill: float  # instances, mean, that decode tiers did not own (PD)
    prefill_need: float  # what the fluid optimum would give the prefill side; 0 in CO
    relaxed_attainment: float  # of the same requests with TTFTs `RELAXED_RATIO` times as long


Unit = Search | Trial | Inspection
Answer = Found | Outcome | Misses


def do(unit: Unit) -> Answer:
    """Do one unit of work."""
    match unit:
        case Search():
            return _search(unit)
        case Trial():
            return _try(unit)
        case Inspection():
            return _inspect(unit)


def _search(unit: Search) -> Found:
    setting = resolved(unit.case)
    spec, optimum = PolicySpec.parse(unit.policy), setting.optimum_rps()
    rates, seen = crossings(
        lambda rate: _attainment(setting, spec, rate, unit.seed, unit.duration_s),
        TARGETS,
        [max(guess, LEAST_GUESS * optimum) for guess in unit.guesses_rps or [ratio * optimum for ratio in GUESSES]],
        scale=optimum,
        tolerance=unit.tolerance_ratio,
    )
    return Found(tuple(rates), tuple(sorted(seen.items())))


def _try(unit: Trial) -> Outcome:
    run = _run(resolved(unit.case), PolicySpec.parse(unit.policy), unit.rate_rps, unit.seed, unit.duration_s)
    return Outcome(
        attainment=run.attainment,
        mean_instances=run.instance_seconds / run.span_s,
        owner_instances=_owner_instances(run),
        tier_requests=tuple(tier.num_requests for tier in run.tiers),
        tier_attained=tuple(tier.num_attained for tier in run.tiers),
        num_preemptions=run.num_preemptions,
    )


def _owner_instances(run: RunResult) -> tuple[float, ...]:
    owned_s = (*(tier.instance_seconds for tier in run.tiers), run.prefill_seconds)
    return tuple(seconds / run.span_s for seconds in owned_s)


def _inspect(unit: Inspection) -> Misses:
    setting, spec = resolved(unit.case), PolicySpec.parse(OURS)
    workload = setting.workload(unit.rate_rps, unit.seed, duration_s=unit.duration_s)
    profile = setting.named.profile
    relaxed = replace(workload, ttft_s=RELAXED_RATIO * workload.ttft_s)
    world = build_world(workload, profile, spec, setting.config, seed=unit.seed)
    run_world(world)
    scored, outcome = scored_requests(world, workload), world.jobs["outcome"]
    missed = scored & (outcome != ATTAINED)
    unpromised = missed & (outcome == RELEGATED_OUT)
    tight = workload.ttft_s <= (1 + 1e-9) * RAISED_TO_IDLE * profile.idle_ttft_s(workload.input_tokens)
    burst = _tokens_around_s(workload) > workload.input_tokens.mean() * setting.optimum_rps()
    run = summarize(world, workload, spec, setting.config, seed=unit.seed, profile_name=setting.named.name)
    return Misses(
        tier_requests=tuple(tier.num_requests for tier in run.tiers),
        tier_missed=tuple(tier.num_requests - tier.num_attained for tier in run.tiers),
        num_unpromised=int(unpromised.sum()),
        num_first_token=int((world.fleet.requests["reasons"][unpromised] & (1 << FIRST_TOKEN) != 0).sum()),
        num_tight=int((scored & tight).sum()),
        num_tight_missed=int((missed & tight).sum()),
        num_burst=int((scored & burst).sum()),
        num_burst_missed=int((missed & burst).sum()),
        prompt_tokens=float(np.median(workload.input_tokens[scored])),
        missed_prompt_tokens=float(np.median(workload.input_tokens[missed])) if missed.any() else 0.0,
        left_for_prefill=setting.config.num_instances - sum(_owner_instances(run)[:-1]),
        prefill_need=float(unit.rate_rps * setting.need_per_rps()[-1]),
        relaxed_attainment=simulate(relaxed, profile, spec, setting.config, seed=unit.seed).attainment,
    )


def _tokens_around_s(workload: Workload) -> npt.NDArray[np.int64]:
    """Return the prompt tokens that arrive in the second around each arrival, shape (n,)."""
    tokens = np.concatenate([[0], np.cumsum(workload.input_tokens, dtype=np.int64)])
    first, last = (np.searchsorted(workload.arrival_s, workload.arrival_s + shift_s) for shift_s in (-0.5, 0.5))
    return np.asarray(tokens[last] - tokens[first])


def _attainment(setting: Setting, spec: PolicySpec, rate_rps: float, seed: int, duration_s: float) -> float:
    workload = setting.workload(rate_rps, seed, duration_s=duration_s)
    profile, config = setting.named.profile, setting.config
    return attainment_or_bound(workload, profile, spec, config, seed=seed, least=LEAST_TOLD)


def _run(setting: Setting, spec: PolicySpec, rate_rps: float, seed: int, duration_s: float) -> RunResult:
    (run,) = setting.run([spec], rate_rps, seed, duration_s)
    return run


@lru_cache(maxsize=8)
def resolved(case: Case) -> Setting:
    """Resolve a case; a process works on few at a time."""
    return case.setting()
