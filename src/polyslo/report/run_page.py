"""One page for a run: who attained, where requests were placed, and how the fleet moved over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from polyslo.report import markup
from polyslo.report.data import to_json
from polyslo.report.glossary import OF_RUN
from polyslo.report.notation import (
    amount_text,
    mode_text,
    ms_text,
    percent_cell_text,
    percent_text,
    rate_text,
    share_text,
    tier_name,
)
from polyslo.report.run_figures import (
    gradient_figure,
    instances_figure,
    moment_text,
    pending_figure,
    rolling_attainment_figure,
)
from polyslo.sim.results import RunResult, TierResult, Timeline

MAX_ATTACHMENT_BYTES = 400_000  # of the page's megabyte; a timeline that would pass it is left out


def run_page(run: RunResult) -> str:
    """Write a run as one self-contained HTML page."""
    found = run_headline(run)
    parts = [
        markup.heading(found),
        markup.paragraph(_facts(run), "facts"),
        markup.section("By tier", _tier_table(run)),
        *_time_sections(run),
        *_count_section("Placements", "Requests by the rung of the ladder that placed them", run.placements_by_rung),
        *_count_section("Refusals", "Instances that turned a request down, by reason", run.refusals_by_reason),
        markup.section(
            "Setting",
            markup.definitions(_setting(run)),
            *markup.notes(f"{notice[0].upper()}{notice[1:]}." for notice in run.notices),
        ),
        markup.section("Definitions", markup.definitions(OF_RUN)),
        _data_section(run),
    ]
    return markup.document(found.rstrip("."), "run", "\n".join(parts))


def run_headline(run: RunResult) -> str:
    """Say in one sentence how a run went, and which tier fared worst when one fell behind."""
    text = (
        f"{run.policy} attains the SLO of {percent_text(run.attainment)} of {run.num_requests:,} requests at "
        f"{rate_text(run.rate_rps)} requests/s on {run.num_instances} instances"
    )
    worst = min(run.tiers, key=lambda tier: tier.attainment)
    if run.attainment - worst.attainment > 0.005:
        text += f"; the {tier_name(worst.tpot_ms)} tier fares worst, with {percent_text(worst.attainment)}"
    return text + "."


def _facts(run: RunResult) -> str:
    owned = amount_text(run.instance_seconds / run.span_s) if run.span_s else "-"
    return (
        f"{run.workload} · {run.profile} · {run.mode.upper()} · seed {run.seed} · "
        f"{owned} instances owned on average · {amount_text(run.cost)} instance-seconds per 1,000 attained"
    )


def _tier_table(run: RunResult) -> str:
    head = ["Tier", "Requests", "Attained", "Missed", "Relegated", "of those served late", "Refused", "Attainment"]
    head += ["TTFT p50", "p99", "TPOT p50", "p99", "Instance-s"]
    rows = [markup.Row(tier_name(tier.tpot_ms), _tier_cells(tier)) for tier in run.tiers]
    totals = [run.num_requests, run.num_attained]
    totals += [
        sum(getattr(tier, f"num_{name}") for tier in run.tiers)
        for name in ("missed", "relegated", "served_late", "refused")
    ]
    cells = [
        *(f"{n:,}" for n in totals),
        share_text(run.attainment),
        "",
        "",
        "",
        "",
        f"{run.instance_seconds:,.0f}",
    ]
    rows.append(markup.Row("all", cells))
    return markup.table("Requests that arrived in the scored window; times in milliseconds", head, rows)


def _tier_cells(tier: TierResult) -> list[str]:
    counts = [tier.num_requests, tier.num_attained, tier.num_missed]
    counts += [tier.num_relegated, tier.num_served_late, tier.num_refused]
    times_s = (tier.ttft_p50_s, tier.ttft_p99_s, tier.tpot_p50_s, tier.tpot_p99_s)
    return [
        *(f"{count:,}" for count in counts),
        share_text(tier.attainment),
        *map(ms_text, times_s),
        f"{tier.instance_seconds:,.0f}",
    ]


def _time_sections(run: RunResult) -> Iterator[str]:
    if run.timeline is None or not run.timeline.time_s:
        yield markup.section("Over time", markup.paragraph("No timeline was recorded for this run."))
        return
    yield markup.section(
        "The fleet over time",
        markup.figure(
            "instances",
            "Who owns the instances: tiers from tight (bottom) to loose, the idle pool on top. Steps are "
            "instances that change hands; what is idle is free for other work.",
            "Stacked areas: instances owned by each tier and idle, over time.",
            lambda width_px: instances_figure(run, width_px),
        ),
        markup.figure(
            "gradient",
            f"The load of every owned instance at {moment_text(run)}, the most loaded of each tier first. "
            "A slope is intended: the last instance of a tier drains and can be given back.",
            f"Bars: load of each instance at {moment_text(run)}, by tier.",
            lambda width_px: gradient_figure(run, None, width_px),
        ),
    )
    yield markup.section(
        "Requests over time",
        _pending_part(run, run.timeline),
        markup.figure(
            "attainment",
            "Attainment of the requests that arrived in each interval, by tier, at its lowest. The dotted "
            "line is 0.99; gaps are intervals without arrivals.",
            "Lines: attainment of each tier over time.",
            lambda width_px: rolling_attainment_figure(run, width_px),
        ),
    )


def _pending_part(run: RunResult, timeline: Timeline) -> str:
    if not any(any(counts) for counts in timeline.pending):
        return markup.paragraph("No request was found pending: each had room at once.")
    return markup.figure(
        "pending",
        "Requests that wait for room, by tier, on one scale; each column is the peak of its interval. "
        "Short spikes are absorbed, plateaus are overload.",
        "Areas: pending requests of each tier over time.",
        lambda width_px: pending_figure(run, width_px),
    )


def _count_section(title: str, caption: str, counts: dict[str, int]) -> Iterator[str]:
    if not counts:
        return
    total = sum(counts.values()) or 1
    rows = [markup.Row(name, [f"{count:,}", percent_cell_text(count / total)]) for name, count in counts.items()]
    yield markup.section(title, markup.table(caption, ["", "Count", "Share"], rows))


def _setting(run: RunResult) -> Iterator[tuple[str, str]]:
    yield "Policy", run.policy
    yield "Workload", run.workload
    yield "Profile", run.profile
    yield "Mode", mode_text(run.mode)
    yield "Instances", str(run.num_instances)
    yield "Rate", f"{rate_text(run.rate_rps)} requests/s"
    yield "Seed", str(run.seed)
    yield "Scored", f"{amount_text(run.span_s)} s; warm-up and cool-down are not scored"
    yield "Iterations", f"{run.num_iterations:,}"
    yield "Preemptions", f"{run.num_preemptions:,}"
    if run.num_ttft_raised:
        yield "TTFTs raised", f"{run.num_ttft_raised:,} requests whose drawn TTFT no idle instance could meet"


def _data_section(run: RunResult) -> str:
    href, left_out = markup.attachment_href(to_json(run)), ""
    if len(href) > MAX_ATTACHMENT_BYTES:
        href, left_out = (
            markup.attachment_href(to_json(replace(run, timeline=None))),
            " (without its timeline)",
        )
    return markup.section(
        "Raw numbers", markup.download(href, "polyslo-run.json.gz", f"Download this run as JSON{left_out}")
    )
