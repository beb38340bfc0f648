"""How goodput holds up when something differs from the usual case: a table a topic and mode."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.claims.cases import family
from polyslo.claims.disturbances import USUAL
from polyslo.claims.markdown import bold, code, listed, opening, plain, table
from polyslo.claims.numbers import target_text
from polyslo.claims.results import Claims, ColdStart, Disturbed
from polyslo.claims.side_runs import COLD_START_RUN_S, COLD_START_SHARE, LARGE, RIVALS
from polyslo.report.notation import MISSING, amount_text, mode_text, percent_cell_text, rate_text, share_text

COLD_START = "cold start"  # the topic that has a table of its own besides
UNDISTURBED = "nothing"  # the topic of the usual case, which heads every other topic's table

# What requests that missed have shown, by topic.
REASONS = {
    "iteration noise": (
        "`polyserve` packs: some instances use every deadline to the last, so iterations that are longer than foreseen "
        "make whole batches late. A margin (`margin_ratio`) as large as the noise mends that."
    ),
    "profile error": (
        "Engines that are slower than their profile make batches late in the same way. The router of these runs keeps "
        "to its profile; the gateway learns the speed of each instance from its streams."
    ),
    "output lengths": (
        "Where lengths are known, forecasts count on decodes that end. Told half of the lengths, those that miss have "
        "a first token that is some hundredths of a second late, since decodes stay that were to leave; no request is "
        "preempted."
    ),
    "telemetry delay": (
        "Disaggregated, the router must hear of a prefill's end before it sends the KV on. With news that is 500 ms "
        "late the second token comes as much later than the first, so that only those attain whose first token "
        "was that early, whatever the policy."
    ),
    "instances": (
        f"Beyond {LARGE} instances `{RIVALS[1]}` is left out: it asks each instance about each request, and past what "
        "it can serve its runs would take hours."
    ),
    COLD_START: (
        "Instances that were given back stay warm for as long as a start takes; they count as owned meanwhile. A run "
        "begins with all of them warm."
    ),
}


def sensitivity_section(claims: Claims) -> str:
    """Tabulate goodput as a share of each level's own fluid optimum; empty where nothing was disturbed."""
    if not claims.disturbed:
        return ""
    topics = [topic for topic in dict.fromkeys(d.topic for d in claims.disturbed) if topic != UNDISTURBED]
    parts = [
        "## When things differ from the usual case",
        f"The usual case is {code(USUAL)} on {claims.num_instances} instances. Goodput with the first seed, as a "
        "share of the level's own fluid optimum, which knows of sizes, tiers and mixes but of no disturbance; the "
        "best of a level in bold. Baselines keep the parameters that are best in the usual case.",
    ]
    for topic in topics or [UNDISTURBED]:
        parts.append(f"### {plain(opening(topic))}")
        parts += [REASONS[topic]] if topic in REASONS else []
        for mode in dict.fromkeys(d.mode for d in claims.disturbed):
            levels = [d for d in claims.disturbed if d.mode == mode and d.topic in (UNDISTURBED, topic)]
            if any(d.topic == topic for d in levels):
                parts += [_heading(mode, levels), _table(levels, claims.targets)]
        parts += _cold_starts(claims) if topic == COLD_START else []
    return "\n\n".join(parts)


def _cold_starts(claims: Claims) -> list[str]:
    """Tabulate attainment and instances where load is light: near the optimum hardly an instance is ever started."""
    if not claims.cold_starts:
        return []
    first, modes = claims.targets[0], list(dict.fromkeys(c.mode for c in claims.cold_starts))
    header = ["cold start"]
    for mode in modes:
        header += [f"{mode.upper()} attainment", "owned or kept warm", "of these warm"]
    rows = []
    for start_s in dict.fromkeys(c.cold_start_s for c in claims.cold_starts):
        found = {c.mode: c for c in claims.cold_starts if c.cold_start_s == start_s}
        cells = [text for mode in modes for text in _cold_start_cells(found.get(mode), first)]
        rows.append([f"{start_s:g} s", *cells])
    need = amount_text(claims.cold_starts[0].fluid_instances)
    parts = [
        f"Near the optimum hardly an instance is given back, so goodput tells little of cold starts. At "
        f"{COLD_START_SHARE:.0%} of the fluid optimum, in runs of {COLD_START_RUN_S:,.0f} s with the first seed, "
        f"`polyserve` attains and has, on average (the fluid need is {need} instances; attainment below "
        f"{target_text(first)} in bold):",
        table(header, rows, "l" + "r" * (len(header) - 1)),
    ]
    late = [c for c in claims.cold_starts if c.attainment < first]
    if late:
        names = [f"{c.cold_start_s:g} s ({c.mode.upper()}, {share_text(c.attainment)})" for c in late]
        parts.append(f"Attainment is below {target_text(first)} at this light load with {listed(names)}.")
    return parts


def _cold_start_cells(found: ColdStart | None, target: float) -> list[str]:
    if found is None:
        return [MISSING] * 3
    attained = share_text(found.attainment)
    amounts = [amount_text(found.mean_instances), amount_text(found.warm_instances)]
    return [bold(attained) if found.attainment < target else attained, *amounts]


def _heading(mode: str, levels: Sequence[Disturbed]) -> str:
    """Name the mode and the parameters that baselines have in it."""
    names = [name for name in dict.fromkeys(name for d in levels for name in d.policies) if ":" in name]
    tuned = f" ({listed([code(name) for name in names])})" if names else ""
    return bold(opening(mode_text(mode))) + tuned


def _table(levels: Sequence[Disturbed], targets: Sequence[float]) -> str:
    names = list(dict.fromkeys(family(policy) for level in levels for policy in level.policies))
    header = ["level", "fluid optimum", *(f"{code(name)} at {target_text(t)}" for t in targets for name in names)]
    rows = []
    for level in levels:
        cells = [text for k in range(len(targets)) for text in _cells(level, names, k)]
        rows.append([plain(level.level), rate_text(level.optimum_rps), *cells])
    return table(header, rows, "l" + "r" * (len(header) - 1))


def _cells(level: Disturbed, names: Sequence[str], k: int) -> list[str]:
    rates = {family(policy): found[k] for policy, found in zip(level.policies, level.rates_rps, strict=True)}
    texts = [percent_cell_text(rates[name] / level.optimum_rps) if name in rates else MISSING for name in names]
    best = percent_cell_text(max(rates.values()) / level.optimum_rps)
    return [bold(text) if text == best and max(rates.values()) > 0 else text for text in texts]
