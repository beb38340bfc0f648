"""The evaluation, stage by stage: tune the baselines, score on further seeds, weigh the load; then the side runs.

The best variants of a baseline are found by short runs of the first seed, and the best of them, and of its defaults,
is chosen by that seed's run at full length. It counts in the score, too: where that favours anyone, it is the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path

from polyslo.claims.cases import OURS, TARGETS, Case, cells, families, family, run_length_s
from polyslo.claims.draft import Draft
from polyslo.claims.results import Cell, Claims, Load, TierRow, Tried
from polyslo.claims.search import HIGHEST_RATIO
from polyslo.claims.side_runs import SideRuns
from polyslo.claims.sweep import Sweep
from polyslo.claims.tuning import refinements, variants, without_relegation
from polyslo.claims.verdict import LEAST_SHARE
from polyslo.claims.work import TOLERANCE_RATIO, Found, Inspection, Misses, Outcome, Search, Trial
from polyslo.sim.results import GoodputResult
from polyslo.sim.statistics import confidence_interval

SEEDS, QUICK_SEEDS = 3, 2
LOADS = (0.2, 0.4, 0.6, 0.8)
# Share of the fluid optimum to which the searches that choose narrow the rate; what they interpolate then is about a
# third of that off (P95).
TUNING_TOLERANCE = 0.03
LEADING = 2  # variants of a policy at each target that are run at full length, beside its defaults
CONTENDING_RATIO = 0.9  # of the best baseline's goodput: with less in the first seed a baseline is not the best


def evaluate(sweep: Sweep, *, quick: bool = False, traces: Path | None = None, finished: bool = False) -> Claims:
    """Run everything that has not been run yet; see the module.

    `finished`: run no more side runs, and leave out what is not whole.
    """
    seeds = tuple(range(QUICK_SEEDS if quick else SEEDS))
    drafts = [_draft(case, quick) for case in cells(traces)]
    _tune(sweep, drafts, quick)
    _try_chosen(sweep, drafts, quick)
    goodputs = _score(sweep, drafts, seeds, quick)
    loads = _weigh(sweep, drafts)
    tiers = _by_tier(sweep, drafts, goodputs)
    misses = _inspect(sweep, drafts, goodputs)
    side = SideRuns.skipped(drafts) if quick else SideRuns.of(sweep, drafts, finished)
    found = [
        Cell(
            workload=draft.case.name,
            mode=draft.case.mode,
            optimum_rps=draft.optimum_rps,
            duration_s=draft.duration_s,
            tpots_ms=draft.setting.tpots_ms,
            raised_ratio=_raised_ratio(draft),
            goodputs=tuple(goodputs[k]),
            tuned=_as_tried(draft.tuned),
            tried=_as_tried(draft.tried),
            loads=tuple(loads[k]),
            tiers=tuple(tiers[k]),
            misses=misses[k],
            ablations=side.ablations[k],
            costs=side.costs[k],
        )
        for k, draft in enumerate(drafts)
    ]
    usual = drafts[0].setting
    return Claims(
        cells=tuple(found),
        disturbed=side.disturbed,
        cold_starts=side.cold_starts,
        targets=TARGETS,
        seeds=seeds,
        is_quick=quick,
        num_unablated=side.num_unablated,
        num_undisturbed=side.num_undisturbed,
        profile=usual.named.name,
        num_instances=usual.config.num_instances,
        date=date.today().isoformat(),
        machines=sweep.machines,
        version=version("polyslo"),
        took_s=sweep.took_s,
    )


def _draft(case: Case, quick: bool) -> Draft:
    setting = case.setting()
    return Draft(case, setting, setting.optimum_rps(), run_length_s(setting, quick=quick), {}, {}, {})


def _as_tried(found: Mapping[str, Found]) -> tuple[Tried, ...]:
    return tuple(Tried(policy, answer.rates_rps, answer.seen) for policy, answer in found.items())


def _tune(sweep: Sweep, drafts: Sequence[Draft], quick: bool) -> None:
    """Compare variants in short runs; relegation off is one more for those that are best at first."""
    _compare(sweep, "tuning", drafts, lambda d: [OURS, *variants(d.setting, quick=quick)], quick)
    if not quick:
        _compare(sweep, "refining", drafts, lambda d: refinements(d.setting, _rates(d.tuned, TARGETS[0])), quick)
        _compare(sweep, "relegation off", drafts, _best_without_relegation, quick)


def _best_without_relegation(draft: Draft) -> list[str]:
    return [
        without_relegation(policy)
        for (name, target), policy in draft.chosen.items()
        if name != OURS and target == TARGETS[0]
    ]


def _compare(
    sweep: Sweep, stage: str, drafts: Sequence[Draft], policies: Callable[[Draft], list[str]], quick: bool
) -> None:
    pairs = [(draft, policy) for draft in drafts for policy in policies(draft)]
    tolerance = TOLERANCE_RATIO if quick else TUNING_TOLERANCE  # quick: these are the scores, too
    units = [
        Search(d.case, policy, 0, d.tuning_length_s(quick=quick), tolerance_ratio=tolerance) for d, policy in pairs
    ]
    answers = sweep.do(stage, units)
    for (draft, policy), found in zip(pairs, answers, strict=True):
        draft.tuned[policy] = found
    for draft in drafts:
        _choose(draft, draft.tuned)


def _choose(draft: Draft, found: Mapping[str, Found]) -> None:
    """Choose each policy's best variant at each target, by what was found of each."""
    for name, target in product(families(list(found)), TARGETS):
        draft.chosen[name, target] = _ranked(found, name, target)[0]


def _ranked(found: Mapping[str, Found], name: str, target: float) -> list[str]:
    """Return a policy's variants, that with the highest goodput at a target first."""
    rates = _rates(found, target)
    return sorted((p for p in found if family(p) == name), key=lambda p: rates[p], reverse=True)


def _rates(found: Mapping[str, Found], target: float) -> dict[str, float]:
    return {policy: answer.rates_rps[TARGETS.index(target)] for policy, answer in found.items()}


def _try_chosen(sweep: Sweep, drafts: Sequence[Draft], quick: bool) -> None:
    """Search at full length for what could be best, near what the short runs gave, and choose by that.

    Quick: the runs were at full length.
    """
    pairs = [(draft, policy) for draft in drafts for policy in (draft.chosen.values() if quick else _likely(draft))]
    pairs = list(dict.fromkeys(pairs))
    if quick:
        found = [draft.tuned[policy] for draft, policy in pairs]
    else:
        units = [Search(d.case, policy, 0, d.duration_s, d.tuned[policy].rates_rps) for d, policy in pairs]
        found = sweep.do("first seed", units)
    for (draft, policy), answer in zip(pairs, found, strict=True):
        draft.tried[policy] = answer
    for draft in drafts:
        _choose(draft, draft.tried)


def _likely(draft: Draft) -> list[str]:
    """Return the variants of each policy that lead in short runs at a target, and those without any option."""
    names = families(list(draft.tuned))
    leading = [p for name, target in product(names, TARGETS) for p in _ranked(draft.tuned, name, target)[:LEADING]]
    return [*leading, *(name for name in names if name in draft.tuned)]


def _score(sweep: Sweep, drafts: Sequence[Draft], seeds: Sequence[int], quick: bool) -> list[list[GoodputResult]]:
    """Search with the further seeds, near what the first one gave, for all that could be best."""
    units = [
        _further(draft, policy, seed) for seed in seeds[1:] for draft in drafts for policy in _contenders(draft, quick)
    ]
    found = dict(zip(units, sweep.do("scoring", units), strict=True))
    results = []
    for draft in drafts:
        mine = []
        for (_, target), policy in draft.chosen.items():
            further = [_further(draft, policy, seed) for seed in seeds[1:]]
            searches = [draft.tried[policy], *(found[unit] for unit in further if unit in found)]
            rates = tuple(search.rates_rps[TARGETS.index(target)] for search in searches)
            at_end = max(rates) >= HIGHEST_RATIO * draft.optimum_rps
            mine.append(GoodputResult(policy, target, *confidence_interval(rates), rates, draft.optimum_rps, at_end))
        results.append(mine)
    return results


def _contenders(draft: Draft, quick: bool) -> list[str]:
    """Return polyserve and the baselines that could be best at a target, by the first seed; quick: those that are."""
    found = [OURS]
    for k, target in enumerate(TARGETS):
        rates = {
            policy: draft.tried[policy].rates_rps[k]
            for (name, at), policy in draft.chosen.items()
            if name != OURS and at == target
        }
        least = (1.0 if quick else CONTENDING_RATIO) * max(rates.values())
        found += [policy for policy, rate in rates.items() if rate >= least]
    return list(dict.fromkeys(found))


def _further(draft: Draft, policy: str, seed: int) -> Search:
    return Search(draft.case, policy, seed, draft.duration_s, draft.tried[policy].rates_rps)


def _weigh(sweep: Sweep, drafts: Sequence[Draft]) -> list[list[Load]]:
    """See what polyserve owns where less is needed."""
    units = [Trial(d.case, OURS, 0, d.duration_s, share * d.optimum_rps) for d in drafts for share in LOADS]
    outcomes = iter(sweep.do("light load", units))
    return [
        [
            Load(
                share=share,
                attainment=outcome.attainment,
                mean_instances=outcome.mean_instances,
                fluid_instances=share * draft.case.num_instances,
                owners=outcome.owner_instances,
                owner_needs=tuple((share * draft.optimum_rps * draft.setting.need_per_rps()).tolist()),
            )
            for share, outcome in zip(LOADS, [next(outcomes) for _ in LOADS], strict=True)
        ]
        for draft in drafts
    ]


def _by_tier(sweep: Sweep, drafts: Sequence[Draft], goodputs: Sequence[Sequence[GoodputResult]]) -> list[list[TierRow]]:
    """Look at each tier at the rate that polyserve serves, with every baseline as it is best."""
    wanted: list[list[Trial]] = []
    for d, mine in zip(drafts, goodputs, strict=True):
        rate = _ours_rps(mine) or d.optimum_rps
        chosen = [policy for (_, target), policy in d.chosen.items() if target == TARGETS[0]]
        wanted.append([Trial(d.case, policy, 0, d.duration_s, round(rate, 3)) for policy in chosen])
    outcomes = iter(sweep.do("tier by tier", [unit for units in wanted for unit in units]))
    return [[TierRow(unit.policy, _shares(next(outcomes))) for unit in units] for units in wanted]


def _inspect(sweep: Sweep, drafts: Sequence[Draft], goodputs: Sequence[Sequence[GoodputResult]]) -> list[Misses | None]:
    """Look at who misses at the least share that polyserve should serve, where it serves less."""
    wanted = [
        Inspection(d.case, 0, d.duration_s, round(LEAST_SHARE * d.optimum_rps, 3))
        if _ours_rps(mine) < LEAST_SHARE * d.optimum_rps
        else None
        for d, mine in zip(drafts, goodputs, strict=True)
    ]
    found = iter(sweep.do("who misses", [unit for unit in wanted if unit]))
    return [next(found) if unit else None for unit in wanted]


def _ours_rps(goodputs: Sequence[GoodputResult]) -> float:
    """Return polyserve's goodput at the first target."""
    return next(g.rate_rps for g in goodputs if g.policy == OURS)


def _raised_ratio(draft: Draft) -> float:
    workload = draft.setting.workload(draft.optimum_rps, 0, duration_s=draft.duration_s)
    return workload.num_ttft_raised / len(workload)


def _shares(outcome: Outcome) -> tuple[float, ...]:
    pairs = zip(outcome.tier_attained, outcome.tier_requests, strict=True)
    return tuple(attained / arrived if arrived else 1.0 for attained, arrived in pairs)
