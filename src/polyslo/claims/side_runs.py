"""What the main tables do without: polyserve without each mechanism, and everybody where something is not as usual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyslo.claims.cases import MODES, OURS, TARGETS, Case, family, run_length_s
from polyslo.claims.disturbances import COLD_STARTS_S, USUAL, Disturbance, cold_starts, disturbances
from polyslo.claims.draft import Draft
from polyslo.claims.mechanisms import ablations
from polyslo.claims.results import Ablation, ColdStart, CostWithout, Disturbed
from polyslo.claims.sweep import Sweep
from polyslo.claims.work import Search, Trial
from polyslo.sim.run import WARMUP_RATIO
from polyslo.sim.setting import Setting

# Share of the fluid optimum to which a search without a mechanism narrows the rate; what it interpolates then is about
# a third of that off (P95).
ABLATION_TOLERANCE = 0.04
COST_SHARES = (0.4, 0.8)  # of the fluid optimum: where cost is looked at without each mechanism
COLD_START_SHARE = 0.3  # of the fluid optimum: where cold starts are looked at beside goodput
COLD_START_RUN_S = 2 * max(COLD_STARTS_S) / WARMUP_RATIO  # a run begins with all warm; the warm-up sees the last go
LONGER = ("mix that moves", "cold start")  # these take time to show
MOST_INSTANCE_S, LEAST_LARGE_S = 16_000.0, 50.0  # runs of large fleets are shorter, down to this
LARGE = 500  # instances: beyond, the rival that asks each of them is left out; past the knee that takes hours
RIVALS = ("static-tiers", "slo-least-load")  # in disturbed settings, with the parameters that were best in the usual


@dataclass(frozen=True, slots=True)
class SideRuns:
    """What they found, the first two by cell."""

    ablations: tuple[tuple[Ablation, ...], ...]
    costs: tuple[tuple[CostWithout, ...], ...]
    disturbed: tuple[Disturbed, ...]
    cold_starts: tuple[ColdStart, ...]
    num_unablated: int  # cells whose ablations were still to be run
    num_undisturbed: int  # levels of disturbances likewise

    @classmethod
    def skipped(cls, drafts: Sequence[Draft]) -> SideRuns:
        """Return what a quick evaluation has of them: nothing, and nothing is still to be run."""
        return cls(((),) * len(drafts), ((),) * len(drafts), (), (), 0, 0)

    @classmethod
    def of(cls, sweep: Sweep, drafts: Sequence[Draft], finished: bool) -> SideRuns:
        """Run them, or (`finished`) take those that are whole."""
        ablated, costs = _ablate(sweep, drafts, finished), _ablate_cost(sweep, drafts, finished)
        disturbed, cold_starts = _disturb(sweep, drafts, finished), _start_cold(sweep, finished)
        num_levels = len(MODES) * len(COLD_STARTS_S) + sum(len(disturbances(mode)) for mode in MODES)
        weighed = [bool(cost) or draft.case.is_recorded for draft, cost in zip(drafts, costs, strict=True)]
        return cls(
            ablations=tuple(map(tuple, ablated)),
            costs=tuple(map(tuple, costs)),
            disturbed=tuple(disturbed),
            cold_starts=tuple(cold_starts),
            num_unablated=sum(not (found and has) for found, has in zip(ablated, weighed, strict=True)),
            num_undisturbed=num_levels - len(disturbed) - len(cold_starts),
        )


def _ablate(sweep: Sweep, drafts: Sequence[Draft], finished: bool) -> list[list[Ablation]]:
    """Switch each mechanism off, in short runs; search near what the whole policy gave in runs as short."""
    wanted = [
        [
            Search(d.case, policy, 0, d.tuning_length_s(), d.tuned[OURS].rates_rps, ABLATION_TOLERANCE)
            for policy in ablations().values()
        ]
        for d in drafts
    ]
    wanted = [units if not finished or sweep.has(units) else [] for units in wanted]
    found = iter(sweep.do("ablations", [unit for units in wanted for unit in units]))
    return [[Ablation(name, next(found).rates_rps) for name in ablations()] if units else [] for units in wanted]


def _ablate_cost(sweep: Sweep, drafts: Sequence[Draft], finished: bool) -> list[list[CostWithout]]:
    """See what polyserve owns at each share with all mechanisms and without each, where arrivals are drawn.

    At full length: in short runs fleets are still growing while they are scored, and own up to 16% less. They take two
    minutes in all.
    """
    policies = [(None, OURS), *ablations().items()]
    runs = [(share, mechanism, policy) for share in COST_SHARES for mechanism, policy in policies]
    wanted = [
        [Trial(d.case, policy, 0, d.duration_s, share * d.optimum_rps) for share, _, policy in runs]
        if not d.case.is_recorded
        else []
        for d in drafts
    ]
    wanted = [units if not finished or sweep.has(units) else [] for units in wanted]
    outcomes = iter(sweep.do("ablations, cost", [unit for units in wanted for unit in units]))
    return [
        [
            CostWithout(share, mechanism, outcome.attainment, outcome.mean_instances)
            for (share, mechanism, _), outcome in zip(runs, [next(outcomes) for _ in units], strict=True)
        ]
        if units
        else []
        for units in wanted
    ]


def _disturb(sweep: Sweep, drafts: Sequence[Draft], finished: bool) -> list[Disturbed]:
    """Disturb the usual case, with the rivals as they were best in it."""
    levels = [level for mode in MODES for level in disturbances(mode)]
    settings = [level.case.setting() for level in levels]
    wanted = [
        [
            Search(level.case, policy, 0, length_s, _usual_guesses(drafts, level, policy, setting.optimum_rps()))
            for policy in _rivals(drafts, level)
        ]
        for level, setting in zip(levels, settings, strict=True)
        for length_s in [_disturbed_length_s(level, setting)]
    ]
    rows = [row for row in zip(levels, settings, wanted, strict=True) if not finished or sweep.has(row[2])]
    found = iter(sweep.do("disturbances", [unit for _, _, units in rows for unit in units]))
    return [
        Disturbed(
            topic=level.topic,
            level=level.level,
            mode=level.case.mode,
            optimum_rps=setting.optimum_rps(),
            policies=tuple(unit.policy for unit in units),
            rates_rps=tuple(next(found).rates_rps for _ in units),
        )
        for level, setting, units in rows
    ]


def _start_cold(sweep: Sweep, finished: bool) -> list[ColdStart]:
    """See what polyserve owns, keeps warm and attains where load is light and instances take time to start."""
    levels = [(start_s, case) for mode in MODES for start_s, case in cold_starts(mode)]
    optima_rps = {mode: Case(USUAL, mode).setting().optimum_rps() for mode in MODES}
    wanted = [
        (start_s, Trial(case, OURS, 0, COLD_START_RUN_S, COLD_START_SHARE * optima_rps[case.mode]))
        for start_s, case in levels
    ]
    wanted = [(start_s, unit) for start_s, unit in wanted if not finished or sweep.has([unit])]
    outcomes = sweep.do("cold starts", [unit for _, unit in wanted])
    return [
        ColdStart(
            mode=unit.case.mode,
            cold_start_s=start_s,
            attainment=outcome.attainment,
            mean_instances=outcome.mean_instances,
            warm_instances=max(0.0, outcome.mean_instances - sum(outcome.owner_instances)),
            fluid_instances=COLD_START_SHARE * unit.case.num_instances,
        )
        for (start_s, unit), outcome in zip(wanted, outcomes, strict=True)
    ]


def _usual(drafts: Sequence[Draft], level: Disturbance) -> Draft:
    return next(d for d in drafts if d.case.workload == level.case.workload and d.case.mode == level.case.mode)


def _usual_guesses(drafts: Sequence[Draft], level: Disturbance, policy: str, optimum_rps: float) -> tuple[float, ...]:
    """Return what short runs of the usual case gave, scaled by the optimum: disturbances that do little end soon.

    The usual case itself is then the very search that has scored it.
    """
    usual = _usual(drafts, level)
    scale, found = optimum_rps / usual.optimum_rps, usual.tuned.get(policy)
    return tuple(scale * rate for rate in found.rates_rps) if found else ()


def _rivals(drafts: Sequence[Draft], level: Disturbance) -> list[str]:
    usual = _usual(drafts, level)
    names = RIVALS if level.case.num_instances <= LARGE else RIVALS[:1]
    rivals = [usual.chosen[name, TARGETS[0]] for name in names]
    # a split of 20 instances says nothing about other sizes
    return [OURS, *(family(r) if "prefill=" in r and level.case.num_instances != 20 else r for r in rivals)]


def _disturbed_length_s(level: Disturbance, setting: Setting) -> float:
    length_s = run_length_s(setting)
    if level.topic in LONGER:
        return 2 * length_s
    return min(length_s, max(LEAST_LARGE_S, MOST_INSTANCE_S / level.case.num_instances))
