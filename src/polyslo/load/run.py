"""A replay from its plan to its result: reach the servers, send, score."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from polyslo.load.endpoint import ServedModel, ask_model
from polyslo.load.letters import Headers, Letters
from polyslo.load.plan import LoadPlan
from polyslo.load.records import Records
from polyslo.load.replay import Limits, Progress, Replay
from polyslo.load.result import LoadResult, score
from polyslo.load.target import Target
from polyslo.wire.client import Origin

Notify = Callable[[str], object]


def run_load(
    plan: LoadPlan,
    target: Target,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    records: Records | None = None,
) -> LoadResult:
    """Replay `plan` against `target` and score it, on an event loop of its own (uvloop's, where it is installed).

    `progress` is called with (done, total), `notify` with sentences before the first request is sent. What happened
    to each request is written into `records`, blank ones as long as the plan, where they are given. Raises
    `InputError` where a server can't be reached or its model isn't known.
    """
    with _calm_collector(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(load(plan, target, limits=limits, progress=progress, notify=notify, records=records))


async def load(
    plan: LoadPlan,
    target: Target,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    notify: Notify | None = None,
    records: Records | None = None,
) -> LoadResult:
    """Do what `run_load` does, on the running event loop."""
    limits = limits or Limits()
    origins = {a.origin: Origin(a.origin, max_idle=limits.max_in_flight) for a in target.addresses}
    try:
        model = await _reach(origins, target)
        for notice in _notices_before(plan, model):
            if notify is not None:
                notify(notice)
        servers = [(origins[a.origin], (a.prefix + target.path).encode()) for a in target.addresses]
        letters = Letters(plan, target, model.name)
        replay = Replay(plan, target, letters, servers, limits=limits, progress=progress, records=records)
        records = await replay.run()
    finally:
        for origin in origins.values():
            await origin.close()
    send_lags_s = records.sent_s - plan.send_s
    health = replay.watch.health(send_lags_s[np.isfinite(send_lags_s)], plan.tightest_tpot_s)
    result = score(plan, target, model.name, records, health)
    return replace(result, notices=(*result.notices, *_notices_before(plan, model)))


async def _reach(origins: dict[str, Origin], target: Target) -> ServedModel:
    """Ask every server for its model; the first one's is the target's, unless the target names it."""
    headers: Headers = []
    if target.api_key is not None:
        headers.append((b"authorization", b"Bearer " + target.api_key.encode()))
    models = [await ask_model(origins[a.origin], a, headers, target.model) for a in target.addresses]
    return models[0]


def _notices_before(plan: LoadPlan, model: ServedModel) -> list[str]:
    if model.max_context_tokens is None:
        return []
    total = plan.workload.input_tokens.astype(np.int64) + plan.workload.output_tokens
    num_too_long = int((total > model.max_context_tokens).sum())
    if not num_too_long:
        return []
    return [
        f"{num_too_long:,} of {len(plan):,} requests have more than the {model.max_context_tokens:,} tokens that "
        f"{model.name} takes: the endpoint will reject them"
    ]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if importlib.util.find_spec("uvloop") is None:  # it does not exist for every system
        return asyncio.new_event_loop
    import uvloop

    factory: Any = uvloop.new_event_loop
    return factory


@contextmanager
def _calm_collector() -> Iterator[None]:
    """Keep what lives already out of garbage collections: walking a compiler's objects takes a token's time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
