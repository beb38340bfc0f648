"""vLLM's scheduler with SLOs: `vllm serve --scheduler-cls polyslo.engines.vllm.Scheduler` (docs/engines.md).

Around vLLM's own `schedule()` it sets the step's token budget (`step_plan.py`, with the core's rule) and the order
of `running` and `waiting`: decodes, prompts by deadline, best-effort last. Whoever sits a step out stays where it
is and is skipped by vLLM (`next_decode_eligible_step`). While no request inside has told an SLO, nothing is touched
and steps are vLLM's own. Settings are `scheduler_settings.py`, what is relied on `vllm_seam.py`.

Leaves batching, memory, prefix cache and preemption to vLLM. Only this file imports it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import vllm
from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler as VllmAsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler
from vllm.v1.request import Request, RequestStatus

from polyslo.core.profile import Profile
from polyslo.engines.scheduler_settings import SchedulerSettings
from polyslo.engines.step_plan import Decodes, Prompt, StepPlan, StepPlanner
from polyslo.engines.steps import Steps
from polyslo.engines.told import NOTHING, Told, read_told
from polyslo.engines.vllm_seam import check_classes, check_policy, check_scheduler, check_version

logger = init_logger("vllm.polyslo")  # below vllm, so that it is shown like vLLM's own


class Scheduler(VllmScheduler):  # type: ignore[misc]
    """vLLM's scheduler with SLOs, in step with the model: on CPUs, or with `--no-async-scheduling`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what vLLM's takes; raises `ConfigError` when set up wrongly."""
        check_classes(vllm.__version__, VllmScheduler, Request)
        super().__init__(*args, **kwargs)
        settings = SchedulerSettings.parse(self.vllm_config.additional_config.get("polyslo"))
        check_version(vllm.__version__, settings.untested_vllm)
        check_policy(self.scheduler_config.policy)
        check_scheduler(vllm.__version__, self)
        profile = settings.load()
        self.polyslo = Guide(self, settings, profile)
        self.polyslo_steps = Steps(self, settings, profile, logger.error)

    def add_request(self, request: Any) -> None:
        """Take a request in, with what it tells of its SLO."""
        super().add_request(request)
        self.polyslo.take_in(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Decide the next step: vLLM does, within a budget and in an order that are set here."""
        asked_s = time.monotonic()
        self.polyslo.prepare(asked_s)
        under_way = {r.request_id for r in self.running if r.is_prefill_chunk} if self.polyslo_steps.is_on else set()
        output = super().schedule(*args, **kwargs)
        self.polyslo.look_back(output)
        self.polyslo_steps.begun(output, under_way, asked_s)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Hand out a step's tokens, when its time has come."""
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        self.polyslo_steps.ended(scheduler_output)
        return outputs

    def shutdown(self) -> None:
        """End, and let go of the file of steps."""
        self.polyslo_steps.close()
        super().shutdown()


class AsyncScheduler(Scheduler, VllmAsyncScheduler):  # type: ignore[misc]
    """The same one step ahead of the model, as vLLM does on GPUs."""


class Guide:
    """Sets a scheduler's budget and order before each step, by what its requests have told."""

    def __init__(self, engine: Any, settings: SchedulerSettings, profile: Profile | None) -> None:
        self._engine = engine
        self._margin_ratio = settings.margin_ratio
        self._token_limit = engine.max_num_scheduled_tokens
        self._told: dict[str, Told] = {}
        self._cached_tokens: dict[str, int] = {}  # of waiting prompts, by the prefix cache when first looked up
        self._pace_s = math.inf
        self._is_unsorted = False
        self._head: str | None = None  # the waiting prompt that was to begin with the last step
        self._head_is_best_effort = False
        self._is_blocked = False  # it could not: there is no memory or no slot for it
        self._planner: StepPlanner | None = None
        if profile is None:
            logger.warning("polyslo: no profile is set, so steps are vLLM's own and SLOs are not looked at")
            return
        self._planner = StepPlanner(profile, token_limit=self._token_limit, most_residents=engine.max_num_running_reqs)

    def take_in(self, request: Any) -> None:
        """Note what a request tells."""
        self._is_unsorted = True
        extra = None if request.sampling_params is None else request.sampling_params.extra_args
        waited_s = min(max(time.time() - request.arrival_time, 0.0), 3600.0)  # in the API server, on its clock
        try:
            told = read_told(extra, time.monotonic() - waited_s)
        except ValueError as error:
            logger.warning("polyslo: request %s counts as best-effort; %s", request.request_id, error)
            return
        if told is not NOTHING:
            self._told[request.request_id] = told
        if told.pace_s is not None:
            self._pace_s = told.pace_s

    def prepare(self, now_s: float) -> None:
        """Set budget and order for the step to come."""
        engine = self._engine
        engine.max_num_scheduled_tokens, self._head = self._token_limit, None
        if not engine.requests:
            self._pace_s, self._is_blocked = math.inf, False
        if len(self._told) > len(engine.requests):
            self._told = {key: told for key, told in self._told.items() if key in engine.requests}
        if self._planner is None or not self._told:
            return
        if self._is_blocked:
            self._make_room()
        if self._is_unsorted:
            ordered = sorted(engine.waiting, key=self._rank)
            engine.waiting.clear()
            engine.waiting.extend(ordered)
            self._is_unsorted = False
        self._plan(self._planner, now_s)

    def look_back(self, output: Any) -> None:
        """See whether the prompt that was to begin did, and whether others lost their memory."""
        if self._head is not None:
            self._is_blocked = self._head not in output.num_scheduled_tokens
        if output.preempted_req_ids:
            self._is_unsorted = True

    def _plan(self, planner: StepPlanner, now_s: float) -> None:
        engine = self._engine
        under_way, decoding, firm, yielding = [], Decodes(), [], []
        for r in engine.running:
            if r.is_prefill_chunk:
                under_way.append(r)
            elif self._is_best_effort(r):
                yielding.append(r)
            else:
                firm.append(r)
        prompts, num_loading = self._prompts(under_way)
        if not firm and all(map(self._is_best_effort, prompts)):
            firm, yielding, yields = yielding, [], _never  # among themselves nobody yields
        else:
            yields = self._is_best_effort
        for r in firm:
            decoding.add(r.num_computed_tokens, _step_tokens(r))
        plan = planner.plan(
            self._budget_s([*firm, *prompts]), decoding, [self._prompt(r) for r in prompts if not yields(r)], now_s,
            [r.num_computed_tokens for r in yielding], [self._prompt(r) for r in prompts if yields(r)],
        )  # fmt: skip
        joining, resting = yielding[: plan.num_yielding], yielding[plan.num_yielding :]
        step_tokens = decoding.step_tokens + sum(map(_step_tokens, joining)) + plan.chunk + num_loading
        engine.max_num_scheduled_tokens = min(max(step_tokens, 1), self._token_limit)
        under_way.sort(key=self._rank)
        ahead, behind = (r for r in under_way if not yields(r)), (r for r in under_way if yields(r))
        engine.running[:] = [*firm, *ahead, *yielding, *behind]  # vLLM takes memory from the last one first
        self._skip(resting)
        self._overtake(prompts, plan)

    def _prompts(self, under_way: list[Any]) -> tuple[list[Any], int]:
        """Return the prompts that a step could reach, in order, and how many wait for KV from elsewhere."""
        prompts, num_loading, num_tokens = [], 0, 0
        for r in self._engine.waiting:
            if self._engine.connector is not None and _is_loading(r):
                num_loading += 1
            elif num_tokens < self._token_limit:
                prompts.append(r)
                num_tokens += max(r.num_tokens - self._done_tokens(r), 1)
            elif self._engine.connector is None:
                break
        if self._is_blocked:  # whoever holds memory must get on
            return [*sorted(under_way, key=self._rank), *prompts], num_loading
        return sorted([*under_way, *prompts], key=self._rank), num_loading

    def _make_room(self) -> None:
        """Let the last best-effort request that runs give its memory back to whoever could not begin."""
        engine = self._engine
        victim = max(filter(self._is_best_effort, engine.running), key=self._rank, default=None)
        if victim is not None and not self._head_is_best_effort:
            engine.running.remove(victim)
            engine._preempt_request(victim, time.monotonic(), drop_stale_output=True)
            engine.prev_step_scheduled_req_ids.discard(victim.request_id)  # it may resume in this very step
            self._is_unsorted = True

    def _overtake(self, prompts: list[Any], plan: StepPlan) -> None:
        """Let prompts under way sit out that a waiting one goes ahead of: vLLM would take them first."""
        left, waits = plan.chunk, False
        for r in prompts:
            if r.status == RequestStatus.RUNNING:
                if waits:
                    self._skip([r])
            elif left > 0:
                if self._head is None and r.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED):
                    self._head, self._head_is_best_effort = r.request_id, self._is_best_effort(r)
                waits = True
            left -= r.num_tokens - self._done_tokens(r)

    def _skip(self, requests: Iterable[Any]) -> None:
        """Let requests that run sit out the next step."""
        for r in requests:
            r.next_decode_eligible_step = self._engine.current_step + 2  # `schedule()` counts up first

    def _budget_s(self, residents: list[Any]) -> float:
        """Return the longest that the step may take: the router's pace, or else the tightest TPOT inside."""
        if math.isfinite(self._pace_s):
            return self._pace_s
        told = (self._told.get(r.request_id, NOTHING) for r in residents)
        tightest_s = min((t.tpot_s for t in told if not t.is_best_effort), default=math.inf)
        return tightest_s * (1.0 - self._margin_ratio)

    def _prompt(self, request: Any) -> Prompt:
        done = self._done_tokens(request)
        due_s = self._told.get(request.request_id, NOTHING).due_s(request.num_output_tokens)
        return Prompt(done, request.num_tokens - done, due_s)

    def _done_tokens(self, request: Any) -> int:
        """Return how many tokens of a prompt need no prefill: computed, or in the prefix cache."""
        if request.num_computed_tokens or request.status == RequestStatus.RUNNING:
            self._cached_tokens.pop(request.request_id, None)
            return int(request.num_computed_tokens)
        cached = self._cached_tokens.get(request.request_id)
        if cached is None:
            if len(self._cached_tokens) > 2 * len(self._engine.requests):
                self._cached_tokens.clear()
            cached = int(self._engine.kv_cache_manager.get_computed_blocks(request)[1])
            self._cached_tokens[request.request_id] = cached
        return cached

    def _is_best_effort(self, request: Any) -> bool:
        return self._told.get(request.request_id, NOTHING).is_best_effort

    def _rank(self, request: Any) -> tuple[bool, float, float]:
        told = self._told.get(request.request_id, NOTHING)
        return told.is_best_effort, told.due_s(request.num_output_tokens), request.arrival_time


def _step_tokens(request: Any) -> int:
    """Return the tokens that a decode takes in a step, those to be verified among them."""
    return max(request.num_tokens_with_spec + request.num_output_placeholders - request.num_computed_tokens, 1)


def _is_loading(request: Any) -> bool:
    """Tell whether a waiting request gets its KV from another instance: it needs a token's room to begin."""
    if request.status == RequestStatus.WAITING_FOR_REMOTE_KVS:
        return True
    remote = request.kv_transfer_params
    return bool(remote and remote.get("do_remote_prefill")) and request.num_computed_tokens == 0


def _never(request: Any) -> bool:
    return False
