"""How goodput holds up when something differs from the usual case: a table a topic and mode."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.claims.cases import family
from polyslo.claims.disturbances import USUAL
from polyslo.claims.markdown import bold, code, listed, opening, plain, table
from polyslo.claims.numbers import target_text
from polyslo.claims.results import Claims, Disturbed
from polyslo.report.notation import MISSING, mode_text, percent_cell_text, rate_text

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
    "cold start": (
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
    return "\n\n".join(parts)


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
