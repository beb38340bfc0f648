"""Measure an engine from outside: batches of known size and context, and prompts beside one decode.

A decode gets its token at the end of each iteration, so the gaps of one stream are iteration times, prompt or no
prompt: nothing of HTTP, queues and tokenizing is in them. A prompt's iterations are the last gaps before its first
token. The engine must serve nobody else, keep a constant chunk, and let decodes share iterations with prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from polyslo.measure.document import noise_of
from polyslo.measure.doubt import Found, doubtful_tasks, lesser
from polyslo.measure.endpoint import Bench
from polyslo.measure.notebook import Notebook
from polyslo.measure.plan import AGAIN, NUM_PREFIXES, PROBE_TOKENS, SETTLE_STEPS, MeasurePlan
from polyslo.measure.steps import BlurredError, decode_step, middle
from polyslo.measure.track import Track

LONGEST_SEARCH_TOKENS = 32_768  # of the prompt by which the chunk is found
PROBE_OUTPUT_TOKENS = 1024  # so that its own attention stays small
MAX_DOUBTS = 3
MAX_BLURS = 4  # of a task: a busy machine's tokens come in heaps now and then
NUM_SEARCH_REPEATS = 4
NUM_MIXED_REPEATS = 3

Task = tuple[str, float, Callable[[], Awaitable[Found]]]
Tell = Callable[[float, float], None]


class Measurement:
    """One measurement of an engine; what is in the notebook is not measured again."""

    def __init__(self, bench: Bench, plan: MeasurePlan, notebook: Notebook, tell: Tell) -> None:
        self._bench = bench
        self._plan = plan
        self._notebook = notebook
        self._tell = tell
        self._probe: Track | None = None
        self._most_decodes = plan.max_decodes
        self._chunk_tokens = plan.chunk_tokens or 0

    @property
    def warnings(self) -> list[str]:
        """Say what makes a finished measurement doubtful."""
        return [*noise_of(self._notebook.done).warnings, *self._unsplit()]

    async def run(self) -> None:
        """Measure everything that the notebook lacks."""
        try:
            if not self._chunk_tokens:
                await self._do("chunk", self._find_chunk)
                self._chunk_tokens = self._notebook.done["chunk"]
            tasks = self._tasks()
            total = sum(weight for _, weight, _ in tasks)
            done = 0.0
            for name, weight, work in tasks:
                self._tell(done, total)
                await self._do(name, work)
                done += weight
            self._tell(total, total)
            await self._settle_doubts(tasks)
        finally:
            self._close_probe()

    def _tasks(self) -> list[Task]:
        """Return (name, about how much work, what to do), in their order."""
        plan, chunk_tokens = self._plan, self._chunk_tokens
        tasks: list[Task] = []
        for chunk in plan.chunks(chunk_tokens):
            tasks.append((f"chunk of {chunk}", plan.num_repeats * (chunk + 1000), partial(self._chunk, chunk)))
        for full, tail in self._long_prompts():
            weight = plan.num_repeats * (full * chunk_tokens + tail + 1000)
            tasks.append((f"{full} chunks and {tail}", weight, partial(self._long_prompt, full, tail)))
        for context in plan.contexts():
            batches = plan.batches(context)
            weight = batches[0] * context + len(batches) * plan.num_steps * 400
            tasks.append((f"context of {context}", weight, partial(self._column, context)))
        first_chunk, first_column = tasks[0], next(task for task in tasks if task[0].startswith("context"))
        return [*tasks, *((AGAIN + name, weight, work) for name, weight, work in (first_chunk, first_column))]

    def _long_prompts(self) -> list[tuple[int, int]]:
        """Return (full chunks, tail) of the prompts that show attention to what was prefilled before."""
        most = self._plan.full_chunks(self._chunk_tokens)
        if most < 1 or self._chunk_tokens > self._plan.max_context_tokens / 2:
            return []
        room = self._plan.max_context_tokens - 2 - most * (self._chunk_tokens - 1)
        tails = [tail for tail in (64, 512, 2048) if tail < self._chunk_tokens / 1.5]
        shorter = {max(1, most // 3), most - 1, most} - {0}
        return [(full, tail) for full in sorted(shorter) for tail in tails if full < most or tail <= room]

    async def _do(self, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        if name not in self._notebook.done:
            self._notebook.write(name, await _seen_clearly(work))

    async def _settle_doubts(self, tasks: Sequence[Task]) -> None:
        """Measure what can't be right once more, the lesser times kept; what then still is doubtful stays so."""
        works = {name: work for name, _, work in tasks if not name.startswith(AGAIN)}
        for _ in range(MAX_DOUBTS):
            done = self._notebook.done
            doubtful = doubtful_tasks({name: done[name] for name in works})
            for name in sorted(doubtful):
                with contextlib.suppress(BlurredError):  # then what was found at first stays
                    self._notebook.write(name, lesser(done[name], await works[name]()))
            if not doubtful:
                return

    # Prompts beside one decode.

    async def _find_chunk(self) -> int:
        """Return how many tokens an iteration may carry: the most that one takes beside the probe, and the probe."""
        longest = self._longest_search_tokens
        alone = await self._num_steps(1, NUM_SEARCH_REPEATS)
        num_chunks = await self._num_steps(longest, NUM_SEARCH_REPEATS) - alone + 1
        if num_chunks <= 1:
            return longest + 1
        low, high = math.ceil(longest / num_chunks), math.ceil(longest / (num_chunks - 1)) - 1
        while low < high:
            half = (low + high + 1) // 2
            if await self._num_steps(half, NUM_SEARCH_REPEATS, enough=alone) <= alone:
                low = half
            else:
                high = half - 1
        return low + 1

    @property
    def _longest_search_tokens(self) -> int:
        return min(self._plan.max_context_tokens - 2, LONGEST_SEARCH_TOKENS)

    def _unsplit(self) -> list[str]:
        """Warn where no prompt was split: most engines' chunks are smaller than their longest prompts."""
        longest = self._longest_search_tokens
        if self._notebook.done.get("chunk", 0) <= longest:
            return []
        return [
            f"a prompt of {longest:,} tokens was computed between two tokens of a decode: the chunk is no smaller, or "
            "decodes wait for whole prompts (SGLang without --enable-mixed-chunk), and few TPOTs can be kept"
        ]

    async def _num_steps(self, tokens: int, num_repeats: int, enough: int = 0) -> int:
        """Return how many iterations end between a prompt's being sent and its first token, at least.

        A prompt that the engine hears of late waits for one more: the least of several counts, up to `enough`.
        """
        least = 1 << 30
        for _ in range(num_repeats):
            probe, track = await self._prefill(tokens)
            least = min(least, probe.tokens_nearest(track.first_token_s) - probe.tokens_by(track.sent_s))
            if least <= enough:
                break
        return least

    async def _chunk(self, chunk: int) -> Found:
        """Measure a prompt that one iteration prefills; the decode beside it is one more token of the batch."""
        gaps_s = []
        for _ in range(self._plan.num_repeats):
            probe, track = await self._prefill(chunk)
            gaps_s += probe.steps_back_s(track.first_token_s, 1)
        found = middle(gaps_s)
        return {"prefill": [[chunk + 1, 0, 1e3 * found.time_s, found.spread_ratio]]}

    async def _long_prompt(self, full: int, tail: int) -> Found:
        """Measure full chunks one after the other, and a smaller one behind them."""
        piece = self._chunk_tokens - 1
        repeats = []
        for _ in range(self._plan.num_repeats):
            probe, track = await self._prefill(full * piece + tail)
            repeats.append(probe.steps_back_s(track.first_token_s, full + 1))
        rows = []
        chosen = {round(k * (full - 1) / (NUM_PREFIXES - 1)) for k in range(NUM_PREFIXES)} if full > 1 else {0}
        for index in sorted(chosen | {full}):
            found = middle([gaps_s[index] for gaps_s in repeats if len(gaps_s) == full + 1])
            chunk = tail + 1 if index == full else self._chunk_tokens
            rows.append([chunk, index * piece, 1e3 * found.time_s, found.spread_ratio])
        return {"prefill": rows}

    async def _prefill(self, tokens: int) -> tuple[Track, Track]:
        """Send a prompt just behind a token of the probe; return the probe and the prompt's track at its end."""
        steps = tokens // max(1, self._chunk_tokens - 1) + 16 if self._chunk_tokens else 256
        probe = await self._fresh_probe(steps)
        await probe.until(probe.num_tokens + 2)
        track = self._bench.open(tokens, 1)
        try:
            await track.until(1)
            await probe.until(probe.tokens_nearest(track.first_token_s) + 1)
        finally:
            track.close()
        return probe, track

    async def _fresh_probe(self, steps: int) -> Track:
        """Return a decode with so many tokens to go."""
        room = min(PROBE_OUTPUT_TOKENS, self._plan.max_context_tokens - PROBE_TOKENS)
        if self._probe is None or self._probe.is_over or self._probe.num_tokens + steps > room:
            self._close_probe()
            self._probe = self._bench.open(PROBE_TOKENS, room)
            await self._probe.until(1)
        return self._probe

    def _close_probe(self) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    # Batches.

    async def _column(self, context: int) -> Found:
        """Measure batches of one context, the largest first, and prompts beside them."""
        self._close_probe()
        batches = [n for n in self._plan.batches(context) if n <= self._most_decodes]
        tracks = await self._batch(context, batches[0])
        found: Found = {"decode": [], "mixed": []}
        try:
            for decodes in sorted({len(tracks), *(n for n in batches if n <= len(tracks))}, reverse=True):
                for track in tracks[decodes:]:
                    track.close()
                del tracks[decodes:]
                found["decode"].append(await self._decode(tracks))
                for chunk in self._plan.mixed_chunks(context, self._chunk_tokens, decodes):
                    found["mixed"].append(await self._mixed(tracks, chunk))
        finally:
            for track in tracks:
                track.close()
        return found

    async def _batch(self, context: int, decodes: int) -> list[Track]:
        """Bring a batch to decode; fewer where the engine runs no more at a time, and then never ask for more."""
        prefill_steps = math.ceil(decodes * context / max(1, self._chunk_tokens - decodes)) + 8
        patience = 2 * prefill_steps + 16
        output_tokens = min(self._plan.spare_tokens + patience, self._plan.max_context_tokens - context)
        tracks = [self._bench.open(context, output_tokens) for _ in range(decodes)]
        everyone = asyncio.gather(*(track.until(1) for track in tracks))
        long_enough = asyncio.ensure_future(tracks[0].until(min(patience, output_tokens)))
        try:
            waits: list[asyncio.Future[Any]] = [everyone, long_enough]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if everyone.done():
                everyone.result()
            started = [track for track in tracks if track.num_tokens]
            if len(started) < decodes:
                self._most_decodes = len(started)
            for track in tracks:
                if not track.num_tokens:
                    track.close()
            return started
        finally:
            await _drop(everyone, long_enough)

    async def _decode(self, tracks: Sequence[Track]) -> list[float]:
        num_steps = self._plan.num_steps
        marks = [track.num_tokens + SETTLE_STEPS for track in tracks]
        await asyncio.gather(*(track.until(mark + num_steps) for track, mark in zip(tracks, marks, strict=True)))
        step = decode_step(tracks, marks, num_steps)
        contexts = [track.input_tokens + mark + num_steps / 2 for track, mark in zip(tracks, marks, strict=True)]
        return [len(tracks), round(sum(contexts) / len(contexts)), 1e3 * step.time_s, step.spread_ratio]

    async def _mixed(self, tracks: Sequence[Track], chunk: int) -> list[float]:
        gaps_s = []
        kv_tokens = 0
        for _ in range(NUM_MIXED_REPEATS):
            await tracks[0].until(tracks[0].num_tokens + 2)
            prompt = self._bench.open(chunk, 1)
            try:
                await prompt.until(1)
                await tracks[0].until(tracks[0].tokens_nearest(prompt.first_token_s) + 1)
            finally:
                prompt.close()
            gaps_s += tracks[0].steps_back_s(prompt.first_token_s, 1)
            kv_tokens = sum(track.kv_tokens for track in tracks)
        found = middle(gaps_s)
        return [chunk, len(tracks), round(kv_tokens / len(tracks)), 1e3 * found.time_s, found.spread_ratio]


async def _seen_clearly(work: Callable[[], Awaitable[Any]]) -> Any:
    """Do a task, again where its iterations could not be told apart; raises `BlurredError` when they never can."""
    for _ in range(MAX_BLURS):
        with contextlib.suppress(BlurredError):
            return await work()
    return await work()


async def _drop(*waits: asyncio.Future[Any]) -> None:
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
