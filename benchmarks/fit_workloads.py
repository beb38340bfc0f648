"""Fit the workload models that ship with the package.

    python benchmarks/fit_workloads.py TRACES [OUT]

TRACES is a folder with the Parquet traces named in `FITTED`; OUT is the package's models folder unless
given. Models from published statistics and by definition need no trace. Prints how near a sample of each
model is to its source.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from polyslo.workload.lengths import Lengths, Quantiles, spearman
from polyslo.workload.model import WorkloadModel
from polyslo.workload.readers import read_trace
from polyslo.workload.trace import Trace

MODELS = Path(__file__).parents[1] / "src" / "polyslo" / "workload" / "models"
LENGTHS_ONLY = "Lengths only: the source has no arrival times."
AZURE = "Azure/AzurePublicDataset, AzureLLMInferenceTrace_{}.csv, 2023-11-16 (the Splitwise traces)"

# model name -> (trace file, source, licence of the source, conditions)
FITTED = {
    "azure2023-conv": (
        "azure2023_conv",
        AZURE.format("conv"),
        "CC-BY-4.0",
        "One hour of a conversation service; smooth arrivals with a slow drift.",
    ),
    "azure2023-code": (
        "azure2023_code",
        AZURE.format("code"),
        "CC-BY-4.0",
        "One hour of a code completion service; on/off arrivals, tiny outputs.",
    ),
    "mooncake-conversation": (
        "mooncake_conversation",
        "kvcache-ai/Mooncake, FAST25-release conversation_trace.jsonl",
        "Apache-2.0",
        "Long context. Arrival times were in steps of 3 s and are jittered in [0, 3) s, seed 0. "
        "Prompts are whole prompts: reuse of prefixes is not modelled.",
    ),
    "servegen-mlarge": (
        "servegen_mlarge_1h",
        "alibaba/ServeGen, m-large: an hour of 147 clients, sampled from published fits per client",
        "Apache-2.0",
        "A large fleet (294 requests/s): at a lower rate its slow drift is stretched over hours.",
    ),
    "sharegpt": (
        "lengths_sharegpt_8k",
        "project-etalon/etalon, sharegpt_8k_filtered_stats_llama2_tokenizer.csv",
        "Apache-2.0",
        LENGTHS_ONLY + " Conversations up to 8k tokens, Llama-2 tokenizer.",
    ),
    "arxiv-summarization": (
        "lengths_arxiv_summ",
        "microsoft/vidur, arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
        "MIT",
        LENGTHS_ONLY + " Prompt and output together stay below 4,096 tokens, Llama-2 tokenizer.",
    ),
}
JITTER_S = {"mooncake-conversation": 3.0}


def main(traces: Path, out: Path) -> None:
    """Write every shipped model into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, (file, source, licence, conditions) in FITTED.items():
        trace = read_trace(traces / f"{file}.parquet")
        if name in JITTER_S:
            trace = trace.jittered(JITTER_S[name], seed=0)
        model = WorkloadModel.fit(trace, name, source, licence, conditions)
        model.save(out / f"{name}.json")
        sample = model.sample(max(50_000, min(len(trace), 200_000)), 10.0, seed=1)
        print(f"{name:22} source {summary(trace)}\n{'':22} sample {summary(sample)}")
    conversation = WorkloadModel.load(out / "mooncake-conversation.json")
    for model in (tool_agent(conversation), burst_gpt(), uniform(512), uniform(4096, 1024)):
        model.save(out / f"{model.name}.json")
        print(f"{model.name:22} sample {summary(model.sample(50_000, 10.0, seed=1))}")


def tool_agent(conversation: WorkloadModel) -> WorkloadModel:
    """Mooncake tool-agent from its published statistics."""
    known = conversation.lengths.input
    scale = 8596 / known.mean
    inputs = Quantiles(known.probabilities, tuple(round(max(1.0, t * scale), 1) for t in known.tokens))
    outputs = with_mean(182, {0.0: 1, 0.5: 30, 0.99: 890, 1.0: 2000}, free=0.8)
    return WorkloadModel(
        "mooncake-toolagent",
        "kvcache-ai/Mooncake, tool-agent trace: its published statistics, not the trace",
        "Apache-2.0",
        "Published: 23,608 requests in an hour, mean input 8,596, output mean 182, P50 30, P99 890. Ours: "
        "the shape of the inputs (mooncake-conversation's, scaled to the mean), the longest output (2,000), "
        "outputs log-linear between those points, P80 set for the mean, independent of the inputs, Poisson.",
        0,
        Lengths(inputs, (outputs,), (0.0,)),
        rate_rps=round(23_608 / 3600, 3),
    )


def burst_gpt() -> WorkloadModel:
    """BurstGPT from its published statistics."""
    inputs = with_mean(374, {0.0: 4, 0.5: 74, 0.9: 1291, 0.99: 3023, 1.0: 4000}, free=0.7)
    outputs = with_mean(122, {0.0: 1, 0.5: 14, 0.9: 401, 0.99: 757, 1.0: 1500}, free=0.7)
    return WorkloadModel(
        "burstgpt",
        "HPMLL/BurstGPT: its published statistics, not the trace",
        "statistics only",
        "Published: input mean 374, P50 74, P90 1,291, P99 3,023; output mean 122, P50 14, P90 401, P99 757. "
        "Ours: the shortest and longest lengths, log-linear between those points, P70 set for the mean, "
        "output independent of input, Poisson: the bursts that gave the trace its name are not here.",
        0,
        Lengths(inputs, (outputs,), (0.0,)),
    )


def uniform(mean_input: int, mean_output: int | None = None) -> WorkloadModel:
    """PolyServe's uniform workloads."""
    means = (mean_input, mean_output or mean_input)
    inputs, outputs = (Quantiles((0.0, 1.0), (0.5, 2 * mean - 0.5)) for mean in means)
    return WorkloadModel(
        f"uniform-{means[0]}-{means[1]}",
        "PolyServe, arXiv:2507.17769, uniform workloads",
        "a definition",
        f"Input uniform in 1 to {2 * means[0] - 1:,}, output in 1 to {2 * means[1] - 1:,} "
        f"(means {means[0]:,} and {means[1]:,}), independent; that the paper's range is 1 to twice the "
        "mean is our reading.",
        0,
        Lengths(inputs, (outputs,), (0.0,)),
    )


def with_mean(mean: float, points: dict[float, float], free: float) -> Quantiles:
    """Quantiles through `points`, log-linear between, whose value at rank `free` is set to give the mean."""
    below = max(p for p in points if p < free)
    above = min(p for p in points if p > free)
    low, high = points[below], points[above]
    for _ in range(60):
        middle = (low + high) / 2
        quantiles = log_linear(points | {free: middle})
        low, high = (middle, high) if quantiles.mean < mean else (low, middle)
    if not abs(quantiles.mean / mean - 1) < 0.01:
        raise SystemExit(f"no value at rank {free} gives mean {mean}: {points}, nearest: {quantiles.mean:.0f}")
    return quantiles


def log_linear(points: dict[float, float]) -> Quantiles:
    """Interpolate log(tokens) between `points` {rank: tokens} on a grid of ranks that holds them all."""
    ranks = sorted(points)
    grid = sorted({*ranks, *(round(0.02 * step, 2) for step in range(51)), 0.995, 0.998})
    tokens = np.exp(np.interp(grid, ranks, np.log([points[rank] for rank in ranks])))
    return Quantiles(tuple(grid), tuple(round(float(value), 1) for value in tokens))


def summary(trace: Trace) -> str:
    """One line: means, medians and P99 of both lengths, their rank correlation, the CV of the gaps."""
    parts = [
        f"{label} {tokens.mean():8,.1f} / {np.median(tokens):6,.0f} / {np.quantile(tokens, 0.99):7,.0f}"
        for label, tokens in (("in", trace.input_tokens), ("out", trace.output_tokens))
    ]
    parts.append(f"rho {spearman(trace.input_tokens, trace.output_tokens):+.3f}")
    if trace.has_arrivals:
        gaps = np.diff(trace.arrival_s)
        parts.append(f"cv {gaps.std() / gaps.mean():.2f}")
    return "  ".join(parts)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else MODELS)
