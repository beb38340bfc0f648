"""The comparison with real GPUs as a section of a page, in Markdown. The prose states no number of its own."""

from __future__ import annotations

from collections.abc import Sequence

from polyslo.claims.markdown import table
from polyslo.claims.silicon import ErrorSummary, Part, SiliconResult

NUM_WORST = 8
_HEAD = ("rows", "TPOT mean", "median", "bias", "TTFT mean", "median", "bias")


def silicon_markdown(result: SiliconResult) -> str:
    """Return the section: what was compared, errors by engine, model and concurrency, the worst rows, what is left."""
    blocks = (
        "## Against silicon",
        _introduction(result),
        _table("half", (Part("scored", result.scored), Part("fitted", result.fitted))),
        "Of the scored half, by engine and GPU, by model, and by concurrency:",
        _table("engine", result.by_engine),
        _table("model", result.by_model),
        _table("concurrency", result.by_concurrency),
        _unstated(result.unstated),
        f"The {min(NUM_WORST, len(result.rows))} scored rows that are worst in TPOT:",
        _worst(result),
        "Not simulated:",
        table(("rows", "why"), [(f"{count:,}", why) for why, count in result.uncovered], "ll"),
    )
    return "\n\n".join(block for block in blocks if block) + "\n"


def _introduction(result: SiliconResult) -> str:
    engines = ", ".join(f"{engine} {host_s * 1e3:.2f} ms" for engine, host_s in result.host_s_by_engine)
    return (
        f"Of {result.num_rows:,} end-to-end measurements of real engines (`silicon_sample.csv` of the PyPI "
        f"package `aiconfigurator-core`), shipped profiles cover "
        f"{result.num_covered:,}. Each of these is simulated as it was measured: a closed loop on one engine at the "
        "row's concurrency. The one fitted constant is the engine's own time per step, the same for all: "
        f"{result.host_s * 1e3:.2f} ms (for themselves the engines would ask for: {engines}). It is fitted on half "
        "of the rows that state their precision and scored on the other half. "
        "Errors are simulated over measured, less one: the mean and the median of their size, and their mean with its "
        "sign (bias)."
    )


def _unstated(errors: ErrorSummary | None) -> str:
    if errors is None:
        return ""
    return (
        f"{errors.num_rows} more rows don't say their precision. Taken as that of the checkpoint they name, and with "
        f"the same constant, their TPOT is off by {errors.tpot_mean_abs:.1%} (bias {errors.tpot_bias:+.1%}), their "
        f"TTFT by {errors.ttft_mean_abs:.0%} ({errors.ttft_bias:+.0%})."
    )


def _table(what: str, parts: Sequence[Part]) -> str:
    head = (what, *_HEAD)
    return table(head, [(part.name, *_cells(part.errors)) for part in parts], "l" * len(head))


def _cells(errors: ErrorSummary) -> tuple[str, ...]:
    return (
        str(errors.num_rows),
        f"{errors.tpot_mean_abs:.1%}",
        f"{errors.tpot_median_abs:.1%}",
        f"{errors.tpot_bias:+.1%}",
        f"{errors.ttft_mean_abs:.0%}",
        f"{errors.ttft_median_abs:.0%}",
        f"{errors.ttft_bias:+.0%}",
    )


def _worst(result: SiliconResult) -> str:
    worst = sorted(result.rows, key=lambda row: -abs(row.tpot_error))[:NUM_WORST]
    head = ("profile", "engine", "tokens", "clients", "TPOT, ms", "simulated", "TTFT, ms", "simulated")
    cells = [
        (
            found.profile,
            found.row.engine,
            f"{found.row.input_tokens} + {found.row.output_tokens}",
            str(found.row.concurrency),
            f"{found.row.tpot_s * 1e3:.1f}",
            f"{found.tpot_s * 1e3:.1f} ({found.tpot_error:+.0%})",
            f"{found.row.ttft_s * 1e3:.0f}",
            f"{found.ttft_s * 1e3:.0f}",
        )
        for found in worst
    ]
    return table(head, cells, "l" * len(head))
