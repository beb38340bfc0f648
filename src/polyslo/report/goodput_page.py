"""One page for bisected goodputs: who serves what, of the fluid optimum, and what each seed says."""

from __future__ import annotations

from collections.abc import Iterator

from polyslo.errors import InputError
from polyslo.report import markup
from polyslo.report.compared import compared_facts, compared_rows
from polyslo.report.curves import OURS, goodput_of, is_ours, num_seeds, optimum_of, targets_of
from polyslo.report.data import to_json
from polyslo.report.glossary import OF_GOODPUT
from polyslo.report.goodput_section import goodput_section
from polyslo.report.notation import (
    MISSING,
    count_text,
    goodput_text,
    percent_text,
    rate_text,
    share_text,
)
from polyslo.report.verdict import headline, verdicts
from polyslo.sim.results import Comparison, GoodputResult


def goodput_page(comparison: Comparison) -> str:
    """Write goodputs at one target, as `polyslo.sim.goodput.as_comparison` gives them, as one HTML page."""
    if not comparison.goodputs:
        raise InputError("no goodputs to report; bisect for at least one policy")
    found = goodput_headline(comparison)
    parts = [
        markup.heading(found),
        *(markup.paragraph(headline(comparison), "lead") for _ in verdicts(comparison)),
        markup.paragraph(_facts(comparison), "facts"),
        goodput_section(comparison),
        *_seed_section(comparison),
        markup.section("Setting", markup.definitions(_setting(comparison)), *markup.notes(comparison.notes)),
        markup.section("Definitions", markup.definitions(OF_GOODPUT)),
        markup.section(
            "Raw numbers",
            markup.download(
                markup.attachment_href(to_json(comparison)), "polyslo-goodput.json.gz", "Download the goodputs as JSON"
            ),
        ),
    ]
    return markup.document(found.rstrip("."), "goodput", "\n".join(parts))


def goodput_headline(comparison: Comparison) -> str:
    """Say what polyserve serves at the target, or else the best policy; then the best of the others."""
    (target,) = targets_of(comparison)
    reached = [g for p in comparison.policies if (g := goodput_of(comparison, p, target))]
    if not reached:
        return f"No policy reaches {percent_text(target)} attainment at any rate on {comparison.workload}."
    first, *others = sorted(reached, key=lambda g: (g.policy != OURS, -g.rate_rps))
    text = f"{first.policy} serves {goodput_text(first)} requests/s at {percent_text(target)} attainment"
    text += _of_optimum(first, "{} of the fluid optimum")
    if others:
        text += f"; {others[0].policy} {goodput_text(others[0])}{_of_optimum(others[0], '{}')}"
    return text + "."


def _of_optimum(goodput: GoodputResult, words: str) -> str:
    share = goodput.rate_rps / goodput.optimum_rps if goodput.optimum_rps else None
    return f" ({words.format(percent_text(share))})" if share else ""


def _facts(comparison: Comparison) -> str:
    return f"{compared_facts(comparison)} · {count_text(num_seeds(comparison), 'seed')}"


def _seed_section(comparison: Comparison) -> Iterator[str]:
    """Show what the mean and its interval were made from; one seed is already told."""
    if num_seeds(comparison) == 1:
        return
    head = ["Policy", *(f"Seed {seed}" for seed in range(num_seeds(comparison)))]
    rows = [
        markup.Row(g.policy, [rate_text(rate) if rate else MISSING for rate in g.per_seed_rps], (), is_ours(g.policy))
        for g in comparison.goodputs
    ]
    caption = "Goodput in requests per second; all policies see the same requests"
    if any(0.0 in g.per_seed_rps for g in comparison.goodputs):
        caption += f"; {MISSING} target never reached, counted as 0"
    yield markup.section("Seed by seed", markup.table(caption, head, rows))


def _setting(comparison: Comparison) -> Iterator[tuple[str, str]]:
    optimum = optimum_of(comparison)
    yield from compared_rows(comparison)
    yield "Target", ", ".join(share_text(target) for target in targets_of(comparison))
    yield "Seeds", ", ".join(map(str, range(num_seeds(comparison)))) + "; the same for every policy"
    if optimum:
        yield "Fluid optimum", f"{rate_text(optimum)} requests/s"
