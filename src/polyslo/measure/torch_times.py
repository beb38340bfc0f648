"""Time a model's steps in PyTorch on a grid of batches, contexts, chunks and prefixes.

On a GPU each step is captured as a CUDA graph and replayed, as engines do with decodes: what is timed is the GPU's
work, and the host's is told apart as what it is not. On a CPU steps run as they are: for tests, and for tiny models.
"""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from polyslo.measure.doubt import Found
from polyslo.measure.notebook import Notebook
from polyslo.measure.plan import AGAIN, KV_SHARE
from polyslo.measure.steps import Measured, middle
from polyslo.measure.torch_decoder import Batch, Decoder

WARM_UP_STEPS = 3
_ASKED = "clocks.sm,clocks.mem,clocks.max.sm,power.limit,driver_version"

Tell = Callable[[float, float], None]


@dataclass(frozen=True, slots=True)
class TorchPlan:
    """The grid. Tokens of context are those that a step's attention reads of a sequence."""

    max_decodes: int = 256
    max_context_tokens: int = 32_768
    max_chunk_tokens: int = 8192
    max_kv_tokens: int = 400_000
    num_repeats: int = 20

    def contexts(self) -> list[int]:
        """Return the contexts of batches: from 64 tokens on, each four times the last."""
        return _powers(64, self.max_context_tokens, 4)

    def batches(self, context: int) -> list[int]:
        """Return the batches at a context: powers of two that fit into memory."""
        return [n for n in _powers(1, self.max_decodes, 2) if n * context <= KV_SHARE * self.max_kv_tokens]

    def chunks(self) -> list[int]:
        """Return the chunks: from 16 tokens on, each twice the last."""
        return _powers(16, self.max_chunk_tokens, 2)

    def prefixes(self, chunk: int) -> list[int]:
        """Return what was prefilled before a chunk: nothing, and from 1,024 tokens on each four times the last."""
        longest = min(self.max_context_tokens, int(KV_SHARE * self.max_kv_tokens)) - chunk
        return [0, *(p for p in _powers(256, self.max_context_tokens, 4) if p <= longest)]


class TorchMeasurement:
    """Times a decoder; what is in the notebook is not timed again."""

    def __init__(self, decoder: Decoder, plan: TorchPlan, notebook: Notebook, tell: Tell) -> None:
        self._decoder = decoder
        self._plan = plan
        self._notebook = notebook
        self._tell = tell

    def run(self) -> None:
        """Time everything that the notebook lacks, then some of it again, to tell how far times repeat."""
        tasks = list(self._tasks())
        again = [(AGAIN + name, weight, work) for name, weight, work in (tasks[0], tasks[-1])]
        total = sum(weight for _, weight, _ in [*tasks, *again])
        done = 0.0
        for name, weight, work in [*tasks, *again]:
            self._tell(done, total)
            if name not in self._notebook.done:
                self._notebook.write(name, work())
            done += weight
        self._tell(total, total)

    def _tasks(self) -> Iterator[tuple[str, float, Callable[[], Found]]]:
        plan = self._plan
        for context in plan.contexts():
            if plan.batches(context):
                yield f"context of {context}", 10.0 * len(plan.batches(context)), partial(self._context, context)
        for chunk in plan.chunks():
            yield f"chunk of {chunk}", len(plan.prefixes(chunk)) * (10 + chunk / 100), partial(self._chunk, chunk)

    def _context(self, context: int) -> Found:
        """Time batches of one context, and some of them with a chunk beside."""
        found: Found = {"decode": [], "mixed": []}
        for decodes in self._plan.batches(context):
            found["decode"].append([decodes, context, *_row(self._time(decodes, context, 0, 0))])
            for chunk in (128, 512, 2048):
                fits = (decodes + 1) * context <= self._plan.max_kv_tokens and chunk <= self._plan.max_chunk_tokens
                if decodes >= 8 and chunk <= context and fits:
                    found["mixed"].append([chunk, decodes, context, *_row(self._time(decodes, context, chunk, 0))])
        return found

    def _chunk(self, chunk: int) -> Found:
        rows = [[chunk, prefix, *_row(self._time(0, 0, chunk, prefix))] for prefix in self._plan.prefixes(chunk)]
        return {"prefill": rows}

    def _time(self, decodes: int, context: int, chunk: int, prefix: int) -> Measured:
        batch = self._decoder.batch(decodes, context, chunk, prefix)
        step = _captured(self._decoder, batch) if self._decoder.device.type == "cuda" else None
        return middle(list(self._times_s(step or partial(self._decoder.forward, batch))))

    def _times_s(self, step: Callable[[], Any]) -> Iterator[float]:
        on_gpu = self._decoder.device.type == "cuda"
        for number in range(WARM_UP_STEPS + self._plan.num_repeats):
            took_s = _timed_on_gpu(step) if on_gpu else _timed(step)
            if number >= WARM_UP_STEPS:
                yield took_s


def conditions(device: Any, decoder: Decoder) -> str:
    """Say on what and with what was timed: GPU, clocks, versions, kernels."""
    parts = [f"torch {torch.__version__}", f"decode attention: {decoder.attention}"]
    if device.type != "cuda":
        return ", ".join(
            [f"CPU {platform.processor() or platform.machine()}", f"{torch.get_num_threads()} threads", *parts]
        )
    parts += [f"CUDA {torch.version.cuda}", "CUDA graphs", "no engine around it"]
    try:
        query = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader", "-i", str(device.index or 0)]
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        parts.append(f"{_ASKED}: {told}")
    except (OSError, subprocess.SubprocessError):
        parts.append("clocks unknown: no nvidia-smi")
    return ", ".join([torch.cuda.get_device_name(device), *parts])


def _captured(decoder: Decoder, batch: Batch) -> Callable[[], Any]:
    """Capture a step as a CUDA graph; replaying it launches everything at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            decoder.forward(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoder.forward(batch)
    replay: Callable[[], Any] = graph.replay
    return replay


def _timed_on_gpu(step: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) * 1e-3


def _timed(step: Callable[[], Any]) -> float:
    begin_s = time.perf_counter()
    step()
    return time.perf_counter() - begin_s


def _row(measured: Measured) -> tuple[float, float]:
    return 1e3 * measured.time_s, measured.spread_ratio


def _powers(first: int, last: int, ratio: int) -> list[int]:
    found = []
    while first <= last:
        found.append(first)
        first *= ratio
    return found
