"""What the evaluation runs on: a workload with its SLO mix on a fleet, and how long its runs must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyslo.sim.fleet import FleetConfig
from polyslo.sim.setting import Setting

OURS = "polyserve"
MODES = ("co", "pd")
TARGETS = (0.99, 0.90)
WORKLOADS = (
    "sharegpt", "azure2023-code", "azure2023-conv", "mooncake-conversation", "mooncake-toolagent", "burstgpt",
    "servegen-mlarge", "uniform-512-512", "uniform-4096-1024",
)  # fmt: skip
RECORDED = ", recorded"  # ends the name of a workload whose arrivals are a trace's own
TRACES = ("azure2023_code", "azure2023_conv", "mooncake_conversation", "servegen_mlarge_1h")

RESIDENCES = 5.0  # a run's length in residences of a mean request in the loosest tier: the warm-up holds one
USUAL_S = 120.0
ENOUGH_REQUESTS = 40_000  # in a run at the fluid optimum: it may be shorter then
LEAST_REQUESTS = 12_000
QUICK_RATIO = 0.3

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Case:
    """All of an experiment but policy, rate and seed. Plain data, so that it can travel and be a key."""

    workload: str  # a shipped one's name, or the path of a trace, whose arrivals are kept
    mode: str
    slo: str = "default"  # an SLO mix's name
    arrivals: str | None = None
    num_instances: int = 20
    fleet: tuple[tuple[str, Value], ...] = ()  # further fields of `FleetConfig`

    @property
    def is_recorded(self) -> bool:
        """Tell whether arrivals are a trace's own."""
        return self.workload.endswith(".parquet")

    @property
    def name(self) -> str:
        """Name of the workload, as tables show it."""
        return f"{Path(self.workload).stem}{RECORDED}" if self.is_recorded else self.workload

    def having(self, **fields: Value) -> Case:
        """Return the case with other fields of its fleet."""
        return replace(self, fleet=tuple(sorted({**dict(self.fleet), **fields}.items())))

    def setting(self) -> Setting:
        """Resolve the case. Raises `InputError` and its kinds, as `Setting.of`."""
        fields: dict[str, Any] = dict(self.fleet)
        return Setting.of(
            workload=None if self.is_recorded else self.workload,
            trace=self.workload if self.is_recorded else None,
            slo=self.slo,
            mode=self.mode,
            instances=self.num_instances,
            arrivals=self.arrivals,
            fleet=FleetConfig(**fields),
        )


def cells(traces: Path | None = None) -> list[Case]:
    """Return every workload in every mode; with the recorded arrivals of the traces in a folder, where given."""
    found = [Case(workload, mode) for mode in MODES for workload in WORKLOADS]
    if traces is not None:
        files = [traces / f"{name}.parquet" for name in TRACES]
        found += [Case(str(file), mode) for mode in MODES for file in files if file.is_file()]
    return found


def run_length_s(setting: Setting, *, quick: bool = False) -> float:
    """Return how long the runs of a setting last, so that they are steady when scored and have requests enough."""
    residence_s = setting.mean_output_tokens() * setting.mix.tpots_s[-1]
    optimum = setting.optimum_rps()
    wanted_s = min(USUAL_S, ENOUGH_REQUESTS / optimum)
    needed_s = max(wanted_s, RESIDENCES * residence_s, LEAST_REQUESTS / optimum)
    return round(needed_s * (QUICK_RATIO if quick else 1.0), 1)


def family(policy: str) -> str:
    """Return a policy's name without its options."""
    return policy.partition(":")[0]


def with_option(policy: str, option: str) -> str:
    """Return a policy with one more option."""
    return f"{policy}{',' if ':' in policy else ':'}{option}"


def families(policies: Sequence[str]) -> list[str]:
    """Return the names of policies without options, each once, in order."""
    return list(dict.fromkeys(map(family, policies)))
