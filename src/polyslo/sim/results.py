"""What a simulated run says: values that reports print, pages draw and DataFrames hold.

Shares are of all requests that arrived inside the scored window (warm-up and cool-down are not scored).
Times are seconds, rates requests per second. Everything here is plain data: no arrays of the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from polyslo.core.extent import Extent


@dataclass(frozen=True, slots=True)
class TierResult:
    """One tier of one run. `num_requests = num_attained + num_missed + num_relegated + num_refused`.

    Of the relegated, `num_served_late` were served in the end, as best-effort work; TTFT and TPOT are those of
    the attained and missed.
    """

    tpot_ms: float
    num_requests: int
    num_attained: int
    num_missed: int
    num_relegated: int
    num_refused: int
    num_served_late: int
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    instance_seconds: float

    @property
    def attainment(self) -> float:
        """Share of arrived requests that attained their SLO, in [0, 1]; 1.0 when none arrived."""
        return self.num_attained / self.num_requests if self.num_requests else 1.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """State of a run at `num_samples` evenly spaced moments; every inner tuple has that length.

    `instances[k]` and `pending[k]` follow tier k, `attainment[k]` scores the requests of tier k that
    arrived in the interval up to the moment (NaN where none did). `idle` counts the idle pool and
    `prefill` the prefill instances (PD only). `loads[s]` is the load gradient at sample s: one
    (tier, load_ratio) pair per instance in a tier, most loaded first, load_ratio = expected
    iteration time over the tier's TPOT.
    """

    time_s: tuple[float, ...]
    instances: tuple[tuple[int, ...], ...]
    idle: tuple[int, ...]
    prefill: tuple[int, ...]
    pending: tuple[tuple[int, ...], ...]
    attainment: tuple[tuple[float, ...], ...]
    loads: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True, slots=True)
class RunResult:
    """One policy on one workload at one rate with one seed."""

    policy: str
    mode: str  # "co" or "pd"
    profile: str
    workload: str
    rate_rps: float
    seed: int
    num_instances: int
    span_s: float  # length of the scored window
    tiers: tuple[TierResult, ...]
    instance_seconds: float  # owned by tiers, prefill (PD) or kept warm in the idle pool, inside the scored window
    num_iterations: int
    num_preemptions: int
    placements_by_rung: dict[str, int] = field(default_factory=dict)
    refusals_by_reason: dict[str, int] = field(default_factory=dict)
    standby_seconds: float = 0.0  # of `instance_seconds`: in the idle pool, kept warm because starting takes time
    num_ttft_raised: int = 0  # requests whose drawn TTFT was out of reach even alone
    notices: tuple[str, ...] = ()  # what was done to the workload's rows (sorted, dropped, repeated); extrapolations
    largest: Extent | None = None  # the largest iterations
    timeline: Timeline | None = None

    @property
    def num_requests(self) -> int:
        """Requests that arrived inside the scored window."""
        return sum(t.num_requests for t in self.tiers)

    @property
    def num_attained(self) -> int:
        """Requests of the scored window that attained their SLO."""
        return sum(t.num_attained for t in self.tiers)

    @property
    def attainment(self) -> float:
        """Share of arrived requests that attained their SLO, in [0, 1]."""
        return self.num_attained / self.num_requests if self.num_requests else 1.0

    @property
    def prefill_seconds(self) -> float:
        """Instance-seconds that the prefill side owned; 0 when co-located."""
        return self.instance_seconds - self.standby_seconds - sum(tier.instance_seconds for tier in self.tiers)

    @property
    def cost(self) -> float:
        """`instance_seconds` per 1,000 attained requests (inf when none attained)."""
        return 1000 * self.instance_seconds / self.num_attained if self.num_attained else float("inf")


@dataclass(frozen=True, slots=True)
class GoodputResult:
    """The highest offered rate at which a policy's attainment is at least `target`."""

    policy: str
    target: float
    rate_rps: float  # mean over seeds
    low_rps: float  # 95% confidence interval of that mean
    high_rps: float
    per_seed_rps: tuple[float, ...]
    optimum_rps: float | None = None  # fluid optimum of the same fleet and workload
    is_lower_bound: bool = False  # some seed still attained the target at the highest rate that was run
    largest: Extent | None = None  # the largest iterations at the rates found, where these were run


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every run of `polyslo compare`, with the goodputs that were interpolated from them; or goodputs alone, bisected.

    `rates_rps` are all rates that any policy was run at; the highest may be without runs of some policies.
    """

    workload: str
    profile: str
    mode: str
    num_instances: int
    tpots_ms: tuple[float, ...]
    rates_rps: tuple[float, ...]
    policies: tuple[str, ...]
    runs: tuple[RunResult, ...]
    goodputs: tuple[GoodputResult, ...]
    optimum_rps: float | None = None
    notes: tuple[str, ...] = ()  # sentences that a reader of the numbers must know

    def runs_of(self, policy: str, rate_rps: float | None = None) -> Sequence[RunResult]:
        """Runs of one policy, of all rates or of one, in order of rate and seed."""
        return [r for r in self.runs if r.policy == policy and rate_rps in (None, r.rate_rps)]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, ready for JSON."""
        return asdict(self)

    def to_dataframe(self) -> Any:
        """One row a run and tier, as a pandas DataFrame (needs the extra `polyslo[dataframe]`)."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "policy": run.policy,
                    "rate_rps": run.rate_rps,
                    "seed": run.seed,
                    "attainment": tier.attainment,
                    "run_attainment": run.attainment,
                    **asdict(tier),
                }
                for run in self.runs
                for tier in run.tiers
            ]
        )
