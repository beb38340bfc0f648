"""The units of work that a sweep is made of: plain data in, plain data out, in whatever process.

A unit is a key: equal units give equal answers on equal code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from polyslo.claims.cases import TARGETS, Case
from polyslo.claims.search import crossings
from polyslo.sim.bounded import attainment_or_bound
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.results import RunResult
from polyslo.sim.setting import Setting

TOLERANCE_RATIO = 0.02  # of the fluid optimum, in what is scored; the crossing itself is interpolated
GUESSES = (0.9, 1.0)  # of the fluid optimum, one a target
LEAST_GUESS = 0.1
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
class Found:
    """What a search found: requests per second at each target, and what it saw on the way."""

    rates_rps: tuple[float, ...]
    seen: tuple[tuple[float, float], ...]  # (rate, attainment, below `LEAST_TOLD` a bound of it), rising


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to."""

    attainment: float
    mean_instances: float  # owned by tiers and by the prefill side, or kept warm
    tier_requests: tuple[int, ...]
    tier_attained: tuple[int, ...]
    num_preemptions: int


Unit = Search | Trial
Answer = Found | Outcome


def do(unit: Unit) -> Answer:
    """Do one unit of work."""
    return _search(unit) if isinstance(unit, Search) else _try(unit)


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
        tier_requests=tuple(tier.num_requests for tier in run.tiers),
        tier_attained=tuple(tier.num_attained for tier in run.tiers),
        num_preemptions=run.num_preemptions,
    )


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
