"""What an engine's steps carried and how long they took; and, as far as it is asked to, how long they are to take.

Reads vLLM's scheduler output (vllm/v1/core/sched/output.py); `vllm.py` says when a step begins and ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from polyslo.core.profile import Profile
from polyslo.engines.scheduler_settings import SchedulerSettings
from polyslo.engines.step_clock import StepClock
from polyslo.engines.step_file import StepFacts, StepFile
from polyslo.engines.step_plan import Decodes


class Steps:
    """Records an engine's steps and paces them, as far as it is asked to."""

    def __init__(
        self, engine: Any, settings: SchedulerSettings, profile: Profile | None, complain: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._profile = profile
        self._pace = settings.pace
        self._clock = StepClock(time.monotonic, time.sleep)
        self._begun: deque[tuple[Any, StepFacts, float]] = deque(maxlen=64)
        self._file: StepFile | None = None
        if settings.steps_file is not None:
            self._file = StepFile(settings.steps_file, settings.steps_max_bytes, complain)

    @property
    def is_on(self) -> bool:
        """Tell whether anybody wants to know."""
        return self._file is not None or self._pace is not None

    def begun(self, output: Any, under_way: set[str], asked_s: float) -> None:
        """A step was decided on; `under_way` are the prompts that had begun before."""
        if not self.is_on:
            return
        prompts = under_way | {r.req_id for r in output.scheduled_new_reqs}
        prompts |= set(output.scheduled_cached_reqs.resumed_req_ids)
        decodes, pairs, chunk = Decodes(), 0.0, 0
        for key, tokens in output.num_scheduled_tokens.items():
            done = self._engine.requests[key].num_computed_tokens - tokens  # vLLM has counted them already
            if key in prompts:
                chunk += tokens
                pairs += tokens * (done + 0.5 * tokens)
            else:
                decodes.add(done, tokens)
        facts = StepFacts(decodes.num, chunk, decodes.kv_tokens, pairs / chunk if chunk else 0.0)
        self._begun.append((output, facts, asked_s))

    def ended(self, output: Any) -> None:
        """A step was computed and its tokens are known: wait for its time, and write it down."""
        while self._begun:
            begun, facts, asked_s = self._begun.popleft()
            if begun is output:
                break
        else:
            return
        if facts.decodes == 0 and facts.chunk == 0:
            self._clock.idle()
            return
        step_s = self._clock.end(asked_s, self._engine.get_num_unfinished_requests() > 0, self._lasts_s(facts))
        if self._file is not None:
            self._file.write(facts.line(time.time(), step_s))

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _lasts_s(self, facts: StepFacts) -> float | None:
        if self._pace is None or self._profile is None:
            return None
        return self._profile.iteration_s(facts.decodes, facts.chunk, facts.kv_tokens, facts.context) / self._pace
