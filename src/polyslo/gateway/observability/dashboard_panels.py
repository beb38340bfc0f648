"""What the Grafana dashboard shows: its panels, row by row, each a few expressions over the gateway's metrics."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = 'model=~"$model"'
WINDOW = "[$__rate_interval]"
TARGET = "max(polyslo_slo_attainment_target_ratio)"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel: `unit` as Grafana names it, `width` in 24ths of the page."""

    title: str
    meaning: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    is_stacked: bool = False
    is_number: bool = False  # one value instead of a curve


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, by: str = "", **labels: str) -> str:
    """Return the rate of a counter of the chosen models, summed by labels."""
    chosen = ", ".join([MODEL, *(f'{name}="{value}"' for name, value in labels.items())])
    return f"{_sum(by)}(rate({metric}{{{chosen}}}{WINDOW}))"


def gauge(metric: str, by: str = "", how: str = "sum") -> str:
    """Return a gauge of the chosen models, summed (or else) by labels."""
    return f"{_sum(by, how)}({metric}{{{MODEL}}})"


def quantile(share: float, histogram: str, by: str) -> str:
    """Return a quantile of a histogram of the chosen models."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'{by}, le')})"


def _sum(by: str, how: str = "sum") -> str:
    return f"{how} by ({by}) " if by else how


def _quantiles(histogram: str, by: str = "slo_tier") -> tuple[Query, ...]:
    return tuple(Query(quantile(share, histogram, by), f"{{{{{by}}}}} p{100 * share:g}") for share in (0.5, 0.99))


ATTAINED, COUNTED = "polyslo_slo_attained_total", "polyslo_slo_requests_total"
ATTAINMENT = f"{rate(ATTAINED)} / {rate(COUNTED)}"

ROWS = (
    Row(
        "Promises",
        (
            Panel("Attainment", "Share of the requests whose every token was on time.", "percentunit",
                  (Query(ATTAINMENT, "attainment"),), 4, is_number=True),
            Panel("Goodput", "Requests a second that attained.", "reqps", (Query(rate(ATTAINED), "goodput"),), 4,
                  is_number=True),
            Panel("Ready instances", "Instances that take requests.", "short",
                  (Query(gauge("polyslo_ready_endpoints"), "ready"),), 4, is_number=True),
            Panel("Budget burn over an hour", "Misses over those that the target allows; above 1 it is missed.",
                  "short", (Query(
                      f"(1 - sum by (slo_tier) (increase({ATTAINED}{{{MODEL}}}[1h])) / sum by (slo_tier) "
                      f"(increase({COUNTED}{{{MODEL}}}[1h]))) / (1 - scalar({TARGET}))", "{{slo_tier}}"),), 12),
            Panel("Attainment by tier", "Against the target.", "percentunit", (
                Query(f"{rate(ATTAINED, 'slo_tier')} / {rate(COUNTED, 'slo_tier')}", "{{slo_tier}}"),
                Query(TARGET, "target"))),
            Panel("Goodput by tier", "Requests a second that attained, and all that came.", "reqps", (
                Query(rate(ATTAINED, "slo_tier"), "{{slo_tier}}"),
                Query(rate("polyslo_request_total"), "offered"))),
            Panel("Requests by outcome", "Attained, late by what was late, and those that got no answer.", "reqps", (
                Query(rate(ATTAINED), "attained"),
                Query(rate("polyslo_request_slo_violation_total", "type"), "late: {{type}}"),
                Query(rate("polyslo_request_error_total", "outcome"), "{{outcome}}"),
                Query(f"sum by (reason) (rate(polyslo_turned_away_total{WINDOW}))", "turned away: {{reason}}")),
                is_stacked=True),
        ),
    ),
    Row(
        "Times",
        (
            Panel("TTFT", "Arrival to first token, of streams.", "s", _quantiles("polyslo_request_ttft_seconds")),
            Panel("TPOT", "Mean time per output token, of streams, and what each tier keeps.", "s", (
                *_quantiles("polyslo_request_streaming_tpot_seconds"),
                Query(gauge("polyslo_tier_tpot_seconds", "slo_tier", "min"), "{{slo_tier}} kept"))),
            Panel("Time between tokens", "Of a sample of streams, means over a second.", "s",
                  _quantiles("polyslo_request_streaming_itl_seconds", "model")),
            Panel("TTFT: foreseen and seen", "Medians. The profile is right where they agree.", "s", (
                Query(quantile(0.5, "polyslo_request_predicted_ttft_seconds", "slo_tier"), "{{slo_tier}} foreseen"),
                Query(quantile(0.5, "polyslo_request_ttft_seconds", "slo_tier"), "{{slo_tier}} seen"))),
            Panel("TPOT: foreseen and seen", "Foreseen are decodes alone; prompts beside them take longer.", "s", (
                Query(quantile(0.5, "polyslo_request_predicted_tpot_seconds", "slo_tier"), "{{slo_tier}} foreseen"),
                Query(quantile(0.5, "polyslo_request_streaming_tpot_seconds", "slo_tier"), "{{slo_tier}} seen"))),
            Panel("TTFT: error of the forecast", "Seen minus foreseen; late ones are above zero.", "s",
                  _quantiles("polyslo_request_ttft_error_seconds")),
            Panel("Wait for a dispatch", "Arrival to the first dispatch, 99 of 100.", "s", (
                Query(quantile(0.99, "polyslo_flow_control_request_queue_duration_seconds", "slo_tier"),
                      "{{slo_tier}}"),)),
            Panel("Whole requests", "Arrival to last token.", "s", _quantiles("polyslo_request_duration_seconds")),
            Panel("Tokens", "A second, prompts and outputs of requests that ended.", "short", (
                Query(rate("polyslo_prompt_tokens_total"), "prompt"),
                Query(rate("polyslo_output_tokens_total"), "output"))),
        ),
    ),
    Row(
        "Load",
        (
            Panel("Under way", "Requests at instances or pending.", "short",
                  (Query(gauge("polyslo_request_running", "model"), "{{model}}"),)),
            Panel("Pending", "By tier, and best-effort ones that wait.", "short",
                  (Query(gauge("polyslo_flow_control_queue_size", "slo_tier"), "{{slo_tier}}"),), is_stacked=True),
            Panel("Instances by tier", "And those that are idle.", "short",
                  (Query(gauge("polyslo_tier_instances", "slo_tier"), "{{slo_tier}}"),), is_stacked=True),
            Panel("Load of instances", "Iteration over the TPOT of its tier; idle ones are 0.", "percentunit", (
                Query(gauge("polyslo_instance_load_ratio", how="max"), "most"),
                Query(gauge("polyslo_instance_load_ratio", how="avg"), "mean"),
                Query(f"quantile(0.1, polyslo_instance_load_ratio{{{MODEL}}})", "tail"))),
            Panel("Slack of instances", "What their iterations leave of the TPOT.", "s", (
                Query(gauge("polyslo_instance_slack_seconds", how="min"), "least"),
                Query(gauge("polyslo_instance_slack_seconds", how="avg"), "mean"))),
            Panel("KV cache", "Tokens believed over capacity.", "percentunit",
                  (Query(gauge("polyslo_average_kv_cache_utilization", "model", "avg"), "{{model}}"),)),
            Panel("Placements", "Dispatches by rung of the ladder.", "reqps",
                  (Query(rate("polyslo_placements_total", "rung"), "{{rung}}"),), is_stacked=True),
            Panel("Promotions", "From which tier to whose instances.", "reqps",
                  (Query(rate("polyslo_promotions_total", "slo_tier, host_tier"), "{{slo_tier}} at {{host_tier}}"),)),
            Panel("Tiers grow and shrink", "Instances a second.", "short",
                  (Query(rate("polyslo_scale_events_total", "slo_tier, event"), "{{slo_tier}} {{event}}"),)),
            Panel("Relegated", "Requests that could not be served in time.", "reqps",
                  (Query(rate("polyslo_relegations_total", "slo_tier"), "{{slo_tier}}"),), 12),
            Panel("Why", "Tests that relegated and refused requests failed.", "reqps",
                  (Query(rate("polyslo_refusals_total", "reason"), "{{reason}}"),), 12),
        ),
    ),
    Row(
        "Instances",
        (
            Panel("Taking requests", "1, or 0 where it is closed.", "short",
                  (Query(gauge("polyslo_instance_up", "engine", "min"), "{{engine}}"),)),
            Panel("Slowness", "Iteration time seen over foreseen; should be near 1.", "short",
                  (Query(gauge("polyslo_slowness_ratio", "engine", "max"), "{{engine}}"),)),
            Panel("Requests", "Sent to each.", "short",
                  (Query(gauge("polyslo_inflight_requests", "engine"), "{{engine}}"),)),
            Panel("Prompts queued", "At each, as believed.", "short",
                  (Query(gauge("polyslo_per_endpoint_queue_size", "engine"), "{{engine}}"),)),
            Panel("KV tokens", "At each, as believed.", "short",
                  (Query(gauge("polyslo_inflight_tokens", "engine"), "{{engine}}"),)),
            Panel("Failures", "Tries that an instance failed, and what happened to instances.", "reqps", (
                Query(rate("polyslo_request_retries_total"), "failed tries"),
                Query(rate("polyslo_health_events_total", "event"), "{{event}}"))),
        ),
    ),
    Row(
        "Gateway",
        (
            Panel("CPU", "Cores; one is all that its loop can use.", "short", (
                Query(f"rate(process_cpu_seconds_total{WINDOW}) and on (job, instance) polyslo_client_connections",
                      "{{instance}}"),)),
            Panel("Loop lag", "How late its calls come, 99 of 100. Every stream waits for it.", "s", (
                Query(f"histogram_quantile(0.99, sum by (instance, le) "
                      f"(rate(polyslo_event_loop_lag_seconds_bucket{WINDOW})))", "{{instance}}"),)),
            Panel("Decisions", "How long the decision about an arrival takes.", "s",
                  _quantiles("polyslo_scheduler_e2e_duration_seconds", "model")),
            Panel("Memory", "Resident.", "bytes", (
                Query("process_resident_memory_bytes and on (job, instance) polyslo_client_connections",
                      "{{instance}}"),)),
            Panel("Places", "Taken and waited for, and how many there are.", "short", (
                Query("sum by (state) (polyslo_places)", "{{state}}"),
                Query("sum by (state) (polyslo_places_limit)", "{{state}}, at most"))),
            Panel("Connections", "Of clients.", "short",
                  (Query("sum by (instance) (polyslo_client_connections)", "{{instance}}"),)),
            Panel("Requests by tenant", "The ten with most.", "reqps", (
                Query(f"topk(10, sum by (tenant) (rate(polyslo_tenant_requests_total{WINDOW})))", "{{tenant}}"),), 12),
            Panel("Tokens by tenant", "The ten with most, prompts and outputs, a second.", "short", (
                Query(f"topk(10, sum by (tenant) (rate(polyslo_tenant_tokens_total{WINDOW})))", "{{tenant}}"),), 12),
        ),
    ),
)  # fmt: skip
