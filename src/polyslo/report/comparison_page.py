"""One page for a comparison: what it found, the numbers, the figures, the setting and the raw data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from polyslo.errors import InputError
from polyslo.report import markup
from polyslo.report.compared import compared_facts, compared_rows
from polyslo.report.curve_figures import attainment_figure, cost_figure
from polyslo.report.curves import (
    curve,
    is_ours,
    point_at,
    telling_rate,
)
from polyslo.report.data import to_json
from polyslo.report.glossary import OF_COMPARISON
from polyslo.report.goodput_section import goodput_section
from polyslo.report.notation import (
    amount_text,
    count_text,
    rate_text,
    share_text,
    tier_name,
)
from polyslo.report.run_figures import instances_figure
from polyslo.report.tier_figure import tier_figure
from polyslo.report.verdict import (
    BEHIND_SHARE,
    USABLE_SHARE,
    headline,
    losses,
    optimum_sentence,
    verdicts,
)
from polyslo.sim.results import Comparison, RunResult

NUM_LOSSES_SHOWN = 4  # more are folded away, not left out


def comparison_page(comparison: Comparison) -> str:
    """Write a comparison as one self-contained HTML page."""
    if not comparison.runs:
        raise InputError("comparison has no runs to report; run at least one policy at one rate")
    found = headline(comparison)
    parts = [
        markup.heading(found),
        *(markup.paragraph(text, "lead") for text in [optimum_sentence(comparison)] if text),
        markup.paragraph(_facts(comparison), "facts"),
        goodput_section(comparison),
        *_loss_section(comparison),
        _load_section(comparison),
        _tier_section(comparison),
        *_run_section(comparison),
        markup.section("Setting", markup.definitions(_setting(comparison)), *markup.notes(comparison.notes)),
        markup.section("Definitions", markup.definitions(OF_COMPARISON)),
        _data_section(comparison),
    ]
    return markup.document(found.rstrip("."), "comparison", "\n".join(parts))


def _facts(comparison: Comparison) -> str:
    rates, seeds = count_text(len(comparison.rates_rps), "rate"), count_text(len(_seeds(comparison)), "seed")
    return f"{compared_facts(comparison)} · {rates} · {seeds}"


def _loss_section(comparison: Comparison) -> Iterator[str]:
    if not verdicts(comparison):
        return
    found = losses(comparison)
    if found:
        rest = found[NUM_LOSSES_SHOWN:]
        shown = [markup.bullets(found[:NUM_LOSSES_SHOWN])]
        if rest:
            shown.append(markup.details(f"and {len(rest)} more", markup.bullets(rest)))
        yield markup.section("Where polyserve loses", *shown)
    else:
        yield markup.section(
            "Where polyserve loses",
            markup.paragraph(
                "Nowhere that was measured: no baseline has a clear lead in goodput, nor at any rate one in "
                f"attainment of more than {BEHIND_SHARE:g}, nor is one cheaper while it attains "
                f"{USABLE_SHARE:.2f} or more."
            ),
        )


def _load_section(comparison: Comparison) -> str:
    points = [(p, point) for p in comparison.policies for point in curve(comparison, p)]
    described = "; ".join(f"{p} {share_text(x.attainment)} at {rate_text(x.rate_rps)}" for p, x in points)
    costs = "; ".join(
        f"{p} {amount_text(x.cost)} at {rate_text(x.rate_rps)}" for p, x in points if x.attainment >= USABLE_SHARE
    )
    return markup.section(
        "As load grows",
        markup.figure(
            "attainment",
            "Attainment against the offered rate. A policy's goodput is where its line crosses a dotted "
            "target; the band spans the seeds. The later a line bends, the better.",
            f"Lines: attainment of each policy by rate. {described}.",
            lambda width_px: attainment_figure(comparison, width_px),
        ),
        markup.figure(
            "cost",
            "What 1,000 attained requests cost in instance-seconds. A low line at light load means that "
            "unneeded instances were given back. "
            f"Lines end where attainment falls under {USABLE_SHARE:.2f}.",
            f"Lines: cost of each policy by rate. {costs}.",
            lambda width_px: cost_figure(comparison, width_px),
        ),
    )


def _tier_section(comparison: Comparison) -> str:
    rate = telling_rate(comparison)
    return markup.section(
        "Who is served",
        markup.figure(
            "tiers",
            f"Attainment of each tier at {rate_text(rate)} requests/s, where the load begins to tell. "
            "An even row is a fair one: no tier pays for another.",
            f"Matrix: attainment by tier and policy at {rate_text(rate)} requests per second. "
            + "; ".join(_tier_words(comparison, policy, rate) for policy in comparison.policies),
            lambda width_px: tier_figure(comparison, rate, width_px),
        ),
    )


def _tier_words(comparison: Comparison, policy: str, rate_rps: float) -> str:
    point = point_at(comparison, policy, rate_rps)
    if point is None:
        return f"{policy}: not run"
    pairs = zip(comparison.tpots_ms, point.tier_attainments, strict=True)
    return f"{policy}: " + ", ".join(f"{tier_name(tpot_ms)} {share_text(share)}" for tpot_ms, share in pairs)


def _run_section(comparison: Comparison) -> Iterator[str]:
    """Show how one run shared out its instances, when a run near the telling rate recorded it."""
    run = _told_run(comparison)
    if run is None:
        return
    yield markup.section(
        "Inside one run",
        markup.figure(
            "instances",
            f"Who owns the {run.num_instances} instances during {run.policy} at {rate_text(run.rate_rps)} "
            f"requests/s (seed {run.seed}): tiers grow and shrink instance by instance, and what is idle is "
            "free for other work.",
            f"Stacked areas: instances owned by each tier over time, of {run.num_instances}.",
            lambda width_px: instances_figure(run, width_px),
        ),
    )


def _told_run(comparison: Comparison) -> RunResult | None:
    wanted = telling_rate(comparison)
    told = [run for run in comparison.runs if run.timeline and run.timeline.time_s]
    return min(told, key=lambda run: (not is_ours(run.policy), abs(run.rate_rps - wanted)), default=None)


def _setting(comparison: Comparison) -> Iterator[tuple[str, str]]:
    raised = sum(run.num_ttft_raised for run in comparison.runs)
    asked = sum(run.num_requests for run in comparison.runs)
    yield from compared_rows(comparison)
    yield "Rates", ", ".join(rate_text(rate) for rate in comparison.rates_rps) + " requests/s"
    yield "Seeds", ", ".join(str(seed) for seed in _seeds(comparison)) + "; the same for every policy"
    yield (
        "Scored",
        f"{asked:,} requests in {len(comparison.runs):,} runs; warm-up and cool-down are not scored",
    )
    if raised:
        yield "TTFTs raised", f"{raised:,} requests whose drawn TTFT no idle instance could meet"


def _data_section(comparison: Comparison) -> str:
    head = [
        "Policy",
        "Rate",
        "Attainment",
        "Lowest",
        "Highest",
        "Cost",
        "Instances",
        *_tier_heads(comparison),
    ]
    rows = [
        markup.Row(
            policy,
            [
                rate_text(point.rate_rps),
                *map(share_text, (point.attainment, point.lowest_attainment, point.highest_attainment)),
                amount_text(point.cost),
                amount_text(point.mean_instances),
                *map(share_text, point.tier_attainments),
            ],
            is_ours=is_ours(policy),
        )
        for policy in comparison.policies
        for point in curve(comparison, policy)
    ]
    caption = "Means over seeds, with the lowest and highest seed; the last columns are attainment by tier"
    bare = replace(comparison, runs=tuple(replace(run, timeline=None) for run in comparison.runs))
    href = markup.attachment_href(to_json(bare))
    return markup.section(
        "Raw numbers",
        markup.download(href, "polyslo-comparison.json.gz", "Download every run as JSON (without timelines)"),
        markup.details("Every policy at every rate", markup.table(caption, head, rows)),
    )


def _tier_heads(comparison: Comparison) -> list[str]:
    return [tier_name(tpot_ms) for tpot_ms in comparison.tpots_ms]


def _seeds(comparison: Comparison) -> list[int]:
    return sorted({run.seed for run in comparison.runs})
