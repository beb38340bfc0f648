"""What a replay says: plain values, scored from its records.

Shares are of all requests whose scheduled arrival was inside the scored window: what was refused, failed or did not
end counts as a miss. Times are seconds of the workload, that is, scaled back where the endpoint ran slower; only
the generator's own lags and `wall_s` are those of the wall clock. TTFT is measured from the scheduled arrival, and
TTFT and TPOT are those of the attained and missed, as in the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from polyslo.load.plan import LoadPlan
from polyslo.load.records import ATTAINED, FAILED, MISSED, REFUSED, UNFINISHED, Records
from polyslo.load.target import Target
from polyslo.load.watch import GeneratorHealth


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of the seconds of some requests; NaN when there are none."""

    p50_s: float
    p90_s: float
    p99_s: float

    @classmethod
    def of(cls, times_s: NDArray[np.float64]) -> Percentiles:
        """Interpolate linearly between the nearest ranks."""
        if not len(times_s):
            return cls(float("nan"), float("nan"), float("nan"))
        return cls(*(float(x) for x in np.quantile(times_s, (0.5, 0.9, 0.99))))


@dataclass(frozen=True, slots=True)
class LoadScore:
    """One tier, or all of them. `num_requests` is the sum of attained, missed, refused, failed and unfinished."""

    tpot_ms: float | None  # of the tier; None for all
    num_requests: int
    num_attained: int
    num_missed: int
    num_refused: int
    num_failed: int
    num_unfinished: int
    attainment: float  # in [0, 1]; 1.0 when no request arrived
    goodput_rps: float  # attained requests per second of the window
    ttft: Percentiles
    tpot: Percentiles
    lateness_s: float  # of the latest token of all; negative: all were early
    tokens_per_s: float  # that the window's requests received, per second of the window
    errors: dict[str, int] = field(default_factory=dict)  # requests by kind of refusal or failure


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One replay against one target."""

    workload: str
    urls: tuple[str, ...]
    model: str
    endpoint: str
    output_lengths: str
    rate_rps: float  # offered, in the workload's time
    speed: float
    window_s: float  # scored, in the workload's time
    wall_s: float  # from the first request to the last answer
    total: LoadScore
    tiers: tuple[LoadScore, ...]
    generator_limited: bool
    generator: GeneratorHealth
    token_counting: str  # "events", "usage" or "mixed"
    num_disagreeing: int  # answers whose events were not one a token
    num_sent: int  # in all, scored or not
    num_ttft_raised: int
    error_examples: dict[str, str] = field(default_factory=dict)  # what the first of each kind said
    notices: tuple[str, ...] = ()  # sentences that a reader of the numbers must know

    @property
    def attainment(self) -> float:
        """Share of the scored requests that attained their SLO."""
        return self.total.attainment


def score(plan: LoadPlan, target: Target, model: str, records: Records, generator: GeneratorHealth) -> LoadResult:
    """Score the requests of the plan's window."""
    workload = plan.workload
    tiers = tuple(
        _score(plan, records, plan.is_scored & (workload.tier == k), round(1e3 * tpot_s, 6))
        for k, tpot_s in enumerate(workload.tpots_s)
    )
    ends_s = np.concatenate((records.last_token_s, records.sent_s))
    return LoadResult(
        workload=workload.name,
        urls=target.urls,
        model=model,
        endpoint=target.endpoint,
        output_lengths=target.output_lengths,
        rate_rps=workload.rate_rps,
        speed=plan.speed,
        window_s=plan.window_s,
        wall_s=float(np.nanmax(ends_s)) if np.isfinite(ends_s).any() else 0.0,
        total=_score(plan, records, plan.is_scored, None),
        tiers=tiers,
        generator_limited=generator.is_limited,
        generator=generator,
        token_counting=_counting(records),
        num_disagreeing=records.num_disagreeing,
        num_sent=int(np.isfinite(records.sent_s).sum()),
        num_ttft_raised=workload.num_ttft_raised,
        error_examples=dict(records.examples),
        notices=(*workload.notices, *_notices(plan, target, records)),
    )


def _score(plan: LoadPlan, records: Records, chosen: NDArray[np.bool_], tpot_ms: float | None) -> LoadScore:
    outcome = records.outcome[chosen]
    num_requests = len(outcome)
    num_attained = int((outcome == ATTAINED).sum())
    served = chosen & ((records.outcome == ATTAINED) | (records.outcome == MISSED))
    several = served & (records.num_tokens > 1)
    paces_s = (records.last_token_s - records.first_token_s)[several] / (records.num_tokens[several] - 1)
    lateness_s = records.lateness_s[chosen & np.isfinite(records.lateness_s)]
    return LoadScore(
        tpot_ms=tpot_ms,
        num_requests=num_requests,
        num_attained=num_attained,
        num_missed=int((outcome == MISSED).sum()),
        num_refused=int((outcome == REFUSED).sum()),
        num_failed=int((outcome == FAILED).sum()),
        num_unfinished=int((outcome == UNFINISHED).sum()),
        attainment=num_attained / num_requests if num_requests else 1.0,
        goodput_rps=_per_s(num_attained, plan),
        ttft=Percentiles.of(plan.speed * (records.first_token_s - plan.send_s)[served]),
        tpot=Percentiles.of(plan.speed * paces_s),
        lateness_s=plan.speed * float(lateness_s.max()) if len(lateness_s) else float("nan"),
        tokens_per_s=_per_s(int(records.num_tokens[chosen].sum()), plan),
        errors=_errors(records, chosen),
    )


def _per_s(amount: int, plan: LoadPlan) -> float:
    return amount / plan.window_s if plan.window_s > 0 else float("nan")


def _errors(records: Records, chosen: NDArray[np.bool_]) -> dict[str, int]:
    """Count requests by kind of error, most frequent first."""
    counts = np.bincount(records.kind[chosen], minlength=len(records.kinds))
    order = sorted(range(1, len(records.kinds)), key=lambda k: (-counts[k], records.kinds[k]))
    return {records.kinds[k]: int(counts[k]) for k in order if counts[k]}


def _counting(records: Records) -> str:
    if records.num_by_usage and records.num_by_events:
        return "mixed"
    return "usage" if records.num_by_usage else "events"


def _notices(plan: LoadPlan, target: Target, records: Records) -> list[str]:
    """Say what the numbers rest on."""
    found = []
    if plan.speed != 1:
        found.append(
            f"the endpoint runs at {plan.speed:g} of the speed of what it stands for: arrivals and SLOs were "
            f"stretched by {1 / plan.speed:g}, times are scaled back"
        )
    if plan.workload.num_ttft_raised:
        found.append(f"{plan.workload.num_ttft_raised:,} TTFTs were out of reach of an idle instance and raised")
    counting = _counting(records)
    if counting == "usage":
        found.append("tokens are counted by the usage in each event")
    else:
        found.append("tokens are counted as events, trued up by the final usage")
        if target.exact_tokens:
            found.append(f"usage in each event was asked for, and missing in {records.num_by_events:,} answers")
    if records.num_disagreeing:
        found.append(
            f"{records.num_disagreeing:,} answers had events that were not one token each: their deadlines were "
            "checked against other tokens; add --exact-tokens"
        )
    return found
