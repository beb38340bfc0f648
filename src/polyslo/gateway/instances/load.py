"""How loaded an instance is: the iteration that runs there, as believed, against the pace of the tier that owns it."""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.core.state import Fleet


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """An instance's iteration, the longest one that it may have, and its tier's TPOT; None where there is none."""

    iteration_s: float
    pace_s: float | None
    tpot_s: float | None

    @property
    def load_ratio(self) -> float:
        """Share of the pace that the iteration takes."""
        return self.iteration_s / self.pace_s if self.pace_s else 0.0

    @property
    def slack_s(self) -> float:
        """What is left of the TPOT."""
        return self.tpot_s - self.iteration_s if self.tpot_s else 0.0


def instance_load(fleet: Fleet, i: int) -> InstanceLoad:
    """Return the load of an instance."""
    record = fleet.instances[i]
    group, iteration_s = int(record["group"]), 0.0
    if record["busy"]:
        decodes, chunk = int(record["num_decodes"]), int(record["chunk"])
        nominal_s = fleet.profile.iteration_s(decodes, chunk, float(record["decode_kv_tokens"]), 0.0)
        iteration_s = float(record["slowness"]) * nominal_s
    num_tiers = len(fleet.tpots_s)
    tpot_s = float(fleet.tpots_s[group]) if group < num_tiers else None
    pace_s = float(fleet.settings["prefill_budget_s"][0]) if group == num_tiers else tpot_s
    return InstanceLoad(iteration_s, pace_s, tpot_s)
