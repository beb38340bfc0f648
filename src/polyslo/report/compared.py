"""What a comparison compared: one line under the heading, and the rows that every setting begins with."""

from __future__ import annotations

from collections.abc import Iterator

from polyslo.report.notation import mode_text, tier_name
from polyslo.sim.results import Comparison


def compared_facts(comparison: Comparison) -> str:
    """Name workload, profile, mode, fleet and tiers in one line."""
    tiers = "/".join(f"{tpot_ms:g}" for tpot_ms in comparison.tpots_ms)
    return (
        f"{comparison.workload} · {comparison.profile} · {comparison.mode.upper()} · "
        f"{comparison.num_instances} instances · tiers {tiers} ms"
    )


def compared_rows(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Give the same as terms and what they are, and the policies."""
    yield "Workload", comparison.workload
    yield "Profile", comparison.profile
    yield "Mode", mode_text(comparison.mode)
    yield "Instances", str(comparison.num_instances)
    yield "Tiers", ", ".join(tier_name(tpot_ms) for tpot_ms in comparison.tpots_ms)
    yield "Policies", ", ".join(comparison.policies)
