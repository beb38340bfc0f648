"""How loaded an instance is: the iteration that runs there, as believed, against the pace of the tier that owns it."""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.core.state import Fleet


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """An instance's iteration, and its tier's TPOT: None in the idle pool and on the prefill side."""

    iteration_s: float
    tpot_s: float | None

    @property
    def load_ratio(self) -> float:
        """Share of the pace that the iteration takes."""
        return self.iteration_s / self.tpot_s if self.tpot_s else 0.0

    @property
    def slack_s(self) -> float:
        """What is left of the pace."""
        return self.tpot_s - self.iteration_s if self.tpot_s else 0.0


def instance_load(fleet: Fleet, i: int) -> InstanceLoad:
    """Return the load of an instance."""
    record = fleet.instances[i]
    group, iteration_s = int(record["group"]), 0.0
    if record["busy"]:
        decodes, chunk = int(record["num_decodes"]), int(record["chunk"])
        iteration_s = float(fleet.profile.iteration_s(decodes, chunk, float(record["decode_kv_tokens"]), 0.0))
    return InstanceLoad(iteration_s, float(fleet.tpots_s[group]) if group < len(fleet.tpots_s) else None)
