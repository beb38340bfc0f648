"""The metrics of requests: what Prometheus knows of them, by what names and in which buckets.

Leaf names as in the llm-d router, with the label that its users ask for, `slo_tier`; seconds everywhere. Labels have a
bounded number of values: models, tiers, rungs, reasons; what clients choose is bounded by `LabelValues`.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
TPOT_BUCKETS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0)
DURATION_BUCKETS_S = (0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
QUEUE_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DECISION_BUCKETS_S = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.05)
ERROR_BUCKETS_S = (-1.0, -0.3, -0.1, -0.03, -0.01, 0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # below 0: sooner than foreseen


class RequestFamilies:
    """The metrics of all models' requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        model, tier = ["model"], ["model", "slo_tier"]
        make: dict[str, Any] = {"registry": registry}
        self.requests = Counter("polyslo_request", "Requests taken in.", tier, **make)
        self.errors = Counter(
            "polyslo_request_error", "Requests that got no answer, by why.", [*tier, "outcome"], **make
        )
        self.over = Counter(
            "polyslo_slo_requests", "Requests that count for attainment and are over, whatever became of them.", tier,
            **make,
        )  # fmt: skip
        self.met = Counter("polyslo_slo_attained", "Requests whose every token was on time.", tier, **make)
        self.violations = Counter(
            "polyslo_request_slo_violation", "Answers that were late, by what was.", [*tier, "type"], **make
        )
        self.ttft = _histogram("request_ttft", "Arrival to first token.", tier, TTFT_BUCKETS_S, **make)
        self.tpot = _histogram("request_streaming_tpot", "Mean time per output token.", tier, TPOT_BUCKETS_S, **make)
        self.itl = _histogram(
            "request_streaming_itl", "Time between tokens of a sample of the streams under way, means over a second.",
            model, TPOT_BUCKETS_S, **make,
        )  # fmt: skip
        self.foreseen_ttft = _histogram("request_predicted_ttft", "TTFT as foreseen.", tier, TTFT_BUCKETS_S, **make)
        self.foreseen_tpot = _histogram(
            "request_predicted_tpot", "Longest decode iteration foreseen, without prompts beside it.", tier,
            TPOT_BUCKETS_S, **make,
        )  # fmt: skip
        self.error = _histogram(
            "request_ttft_error",
            "TTFT seen minus TTFT foreseen; below 0 it came sooner.",
            tier,
            ERROR_BUCKETS_S,
            **make,
        )
        self.duration = _histogram("request_duration", "Arrival to last token.", tier, DURATION_BUCKETS_S, **make)
        self.queued = _histogram(
            "flow_control_request_queue_duration", "Arrival to the first dispatch, or to the end without one.",
            [*tier, "outcome"], QUEUE_BUCKETS_S, **make,
        )  # fmt: skip
        self.queue_outcomes = Counter(
            "polyslo_flow_control_requests", "Requests by how they left the queue.", ["outcome"], **make
        )
        self.decision = _histogram(
            "scheduler_e2e_duration",
            "Time that the decision about an arrival takes.",
            model,
            DECISION_BUCKETS_S,
            **make,
        )
        self.placements = Counter("polyslo_placements", "Dispatches by rung of the ladder.", [*tier, "rung"], **make)
        self.promotions = Counter(
            "polyslo_promotions", "Dispatches to an instance of a tighter tier, `host_tier`.", [*tier, "host_tier"],
            **make,
        )  # fmt: skip
        self.transfers = Counter("polyslo_transfers", "Prefilled requests sent to a decode instance.", tier, **make)
        self.prefill = _histogram(
            "prefill", "From sending a prefill to its answer, where prefill is apart from decode.", tier,
            TTFT_BUCKETS_S, **make,
        )  # fmt: skip
        self.relegations = Counter("polyslo_relegations", "Requests that became best-effort.", tier, **make)
        self.refusals = Counter(
            "polyslo_refusals",
            "Requests relegated or refused, by each reason why instances refused them.",
            [*tier, "reason"],
            **make,
        )
        self.retries = Counter("polyslo_request_retries", "Tries that an instance failed.", tier, **make)
        self.scaled = Counter(
            "polyslo_scale_events",
            "Instances that a tier gained (up from the pool, taken_over from another tier) or lost (down to the pool, "
            "moved to another tier).",
            [*tier, "event"],
            **make,
        )
        self.health = Counter(
            "polyslo_health_events",
            "Instances that joined, left, became unhealthy, recovered or drain.",
            [*model, "event"],
            **make,
        )
        self.prompt_tokens = Counter("polyslo_prompt_tokens", "Prompt tokens of answered requests.", tier, **make)
        self.output_tokens = Counter("polyslo_output_tokens", "Tokens passed to clients.", tier, **make)
        self.tenants = Counter("polyslo_tenant_requests", "Requests that are over.", ["tenant", "outcome"], **make)
        self.tenant_tokens = Counter("polyslo_tenant_tokens", "Prompt and output tokens.", ["tenant"], **make)
        self.named = Counter("polyslo_requested_models", "Requests by the model that they name.", ["requested"], **make)


def _histogram(leaf: str, meaning: str, labels: list[str], buckets: tuple[float, ...], **make: Any) -> Histogram:
    return Histogram(f"polyslo_{leaf}_seconds", meaning, labels, buckets=buckets, **make)
