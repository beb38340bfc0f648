"""One page for a plan: the smallest fleet of each policy, and what its tiers own of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from polyslo.errors import InputError
from polyslo.report import markup
from polyslo.report.curves import OURS, is_ours
from polyslo.report.data import plain
from polyslo.report.glossary import OF_PLAN
from polyslo.report.notation import (
    amount_text,
    count_text,
    mode_text,
    percent_text,
    rate_text,
    share_text,
    tier_name,
)
from polyslo.report.plan_figure import owned_parts, plan_figure, tpots_of
from polyslo.sim.plan import PlanResult

INDENT = "\N{EM SPACE}"


def plan_page(results: Sequence[PlanResult], notes: Sequence[str] = ()) -> str:
    """Write the fleets of one plan, and sentences that their reader must know, as one self-contained HTML page."""
    if not results:
        raise InputError("plan has no fleets to report; plan for at least one policy")
    found = plan_headline(results)
    parts = [
        markup.heading(found),
        markup.paragraph(_lead(results), "lead"),
        markup.paragraph(_facts(results), "facts"),
        markup.section("Fleets", _table(results), _figure(results)),
        markup.section("Setting", markup.definitions(_setting(results)), *markup.notes(notes)),
        markup.section("Definitions", markup.definitions(OF_PLAN)),
        _data_section(results),
    ]
    return markup.document(found.rstrip("."), "plan", "\n".join(parts))


def plan_headline(results: Sequence[PlanResult]) -> str:
    """Say how small a fleet is enough, with which policy, and what the next best policy needs more."""
    first, *others = sorted(results, key=lambda r: (r.num_instances, r.policy != OURS))
    alike = [r.policy for r in others if r.num_instances == first.num_instances]
    more = [r for r in others if r.num_instances > first.num_instances]
    holds = "instance holds" if first.num_instances == 1 else "instances hold"
    text = (
        f"{first.num_instances:,} {holds} {percent_text(first.target)} attainment at "
        f"{rate_text(first.rate_rps)} requests/s with {first.policy}"
    )
    if alike:
        text += f" as with {' and '.join(alike)}"
    if more:
        fewer = more[0].num_instances - first.num_instances
        text += f", {fewer:,} fewer than the next best policy ({more[0].policy})"
    return text + "."


def _lead(results: Sequence[PlanResult]) -> str:
    """Name the yardstick, and what polyserve owns of its fleet; its loss, where another needs fewer."""
    least = min(r.num_instances for r in results)
    text = f"The fluid optimum needs {amount_text(results[0].fluid_instances)} instances"
    for ours in (r for r in results if r.policy == OURS):
        owned = amount_text(ours.num_instances - ours.mean_idle_instances())
        text += f"; of the {ours.num_instances:,} of {OURS}, {owned} are in use on average"
        if ours.num_instances > least:
            text += f". {OURS} needs {ours.num_instances - least:,} more than the best policy"
    return text + "."


def _facts(results: Sequence[PlanResult]) -> str:
    first = results[0]
    run = first.runs[0]
    tiers = "/".join(f"{tpot_ms:g}" for tpot_ms in tpots_of(results))
    return (
        f"{run.workload} · {run.profile} · {run.mode.upper()} · {rate_text(first.rate_rps)} requests/s · "
        f"tiers {tiers} ms · {count_text(len(first.runs), 'seed')}"
    )


def _table(results: Sequence[PlanResult]) -> str:
    caption = (
        "The smallest fleet, then what each tier owns of it on average. Attainment of a fleet is its worst seed's; "
        "cost is in instance-seconds per 1,000 attained requests, a tier's in those that it owned and its own requests"
    )
    if not all(result.has_tiers for result in results):
        caption += "; any: every instance serves all tiers"
    head = ["Policy and tier", "Instances", "Attainment", "Cost"]
    return markup.table(caption, head, [row for result in results for row in _rows(result, tpots_of(results))])


def _rows(result: PlanResult, tpots_ms: Sequence[float]) -> Iterator[markup.Row]:
    cells = [f"{result.num_instances:,}", share_text(result.attainment), amount_text(result.cost())]
    yield markup.Row(result.policy, cells, (), is_ours(result.policy))
    for k, tier in enumerate(result.runs[0].tiers):
        owned, cost = "any", ""
        if result.has_tiers:
            owned, cost = amount_text(result.mean_instances(k)), amount_text(result.tier_cost(k))
        yield markup.Row(INDENT + tier_name(tier.tpot_ms), [owned, share_text(result.tier_attainment(k)), cost])
    for part in owned_parts(result, tpots_ms):
        if part.role in ("prefill", "idle"):
            yield markup.Row(INDENT + part.name, [amount_text(part.instances), "", ""])


def _figure(results: Sequence[PlanResult]) -> str:
    described = "; ".join(
        f"{result.policy} {result.num_instances:,}: "
        + ", ".join(f"{part.name} {amount_text(part.instances)}" for part in owned_parts(result, tpots_of(results)))
        for result in results
    )
    return markup.figure(
        "fleets",
        "Instances of the smallest fleet, by who owns them on average: tiers from tight to loose, then what is "
        "idle and free for other work. Shorter is better; the line is what the fluid optimum needs.",
        f"Stacked bars: instances of each policy by owner. {described}.",
        lambda width_px: plan_figure(results, width_px),
    )


def _setting(results: Sequence[PlanResult]) -> Iterator[tuple[str, str]]:
    first = results[0]
    run = first.runs[0]
    yield "Workload", run.workload
    yield "Profile", run.profile
    yield "Mode", mode_text(run.mode)
    yield "Tiers", ", ".join(map(tier_name, tpots_of(results)))
    yield "Policies", ", ".join(result.policy for result in results)
    yield "Rate", f"{rate_text(first.rate_rps)} requests/s"
    yield "Target", f"{share_text(first.target)} in every seed"
    yield "Seeds", ", ".join(str(r.seed) for r in first.runs) + "; the same for every policy"
    yield "Fluid optimum", f"{amount_text(first.fluid_instances)} instances"


def _data_section(results: Sequence[PlanResult]) -> str:
    text = json.dumps(plain(list(results)), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return markup.section(
        "Raw numbers",
        markup.download(markup.attachment_href(text), "polyslo-plan.json.gz", "Download every fleet and run as JSON"),
    )
