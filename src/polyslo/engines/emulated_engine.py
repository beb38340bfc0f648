"""Continuous batching in real time: the simulator's engine, stepped by a clock instead of by a list of events.

A timer fires when the running iteration ends by the profile. When it fires late, the next iteration still begins
at the true end, so that lag does not add up; an engine that is too late for that (`catch_up_s`) loses the time.
Both are counted: how far a measurement can be trusted is part of the measurement.

Decides nothing: which tokens an iteration carries is `polyslo.sim.engine`, what they say is `emulated_text`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polyslo.core.profile import Profile
from polyslo.core.state import NONE
from polyslo.engines.clock import Clock, Timer
from polyslo.engines.emulated_world import (
    CODE_BITS,
    FIRST,
    LAST,
    NO_SLO_S,
    WHOLE,
    enter,
    leave,
    let_go,
    new_world,
    renumber,
    turn,
)
from polyslo.engines.histogram import Histogram
from polyslo.errors import ConfigError, InputError
from polyslo.sim.events import schedule
from polyslo.sim.world import READY, World

_LAG_BOUNDS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

OnToken = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What one emulated engine is; token limits are named as in vLLM."""

    kv_capacity_tokens: int | None = None  # None: the profile's
    max_model_len: int | None = None  # None: the KV capacity
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    max_requests: int = 4096  # running and waiting; more are refused
    dynamic_chunking: bool = False
    transfer_s: float = 0.001  # of KV to this engine: fixed part
    transfer_gb_per_s: float = 50.0
    noise_ratio: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges; raises `ConfigError` naming the field."""
        for name, low, high in (
            ("kv_capacity_tokens", 16, 10**9),
            ("max_model_len", 2, 10**9),
            ("max_num_seqs", 1, 8192),
            ("max_num_batched_tokens", 16, 32_768),
            ("max_requests", 1, 65_536),
            ("transfer_s", 0.0, 86_400.0),
            ("transfer_gb_per_s", 1e-6, 1e6),
            ("noise_ratio", 0.0, 10.0),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"emulated engine: {name} must be from {low:g} to {high:g}, got {value:g}")


@dataclass(slots=True, eq=False)
class Resident:
    """A request inside the engine; `on_token` hears of each of its tokens, and whether it is the last."""

    number: int | None  # in the world, until it leaves
    input_tokens: int
    on_token: OnToken


class EmulatedEngine:
    """One engine. All methods are called from the clock's thread; `on_token` is called from the clock's calls."""

    def __init__(self, profile: Profile, settings: EngineSettings, clock: Clock, *, catch_up_s: float = 0.05) -> None:
        capacity = settings.kv_capacity_tokens or profile.kv_capacity_tokens
        self.max_model_len = settings.max_model_len or capacity
        if self.max_model_len > capacity:
            raise ConfigError(
                f"emulated engine: max_model_len is {self.max_model_len:,} tokens, the KV cache holds {capacity:,}; "
                "lower it or raise kv_capacity_tokens"
            )
        self.settings = settings
        self.kv_capacity_tokens = capacity
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.lag = Histogram(_LAG_BOUNDS_S)  # from an iteration's end by the profile to its last token's hand-over
        self.lost_s = 0.0  # by which the engine fell behind its profile for good
        self._profile = profile.with_capacity(capacity)
        self._clock = clock
        self._catch_up_s = catch_up_s
        self._timer: Timer | None = None
        self._past_iterations = self._past_preemptions = 0  # of worlds that crashed
        self._begin()

    @property
    def num_residents(self) -> int:
        """Requests that run or wait."""
        return self._num_residents

    @property
    def num_running(self) -> int:
        """Requests that decode, or whose prompt has begun."""
        return int(np.count_nonzero(self._world.jobs["prefill_tokens"] != self._world.jobs["remaining_tokens"]))

    @property
    def is_full(self) -> bool:
        """Whether it holds as many requests as it may."""
        return self._num_residents >= self.settings.max_requests

    @property
    def kv_tokens(self) -> int:
        """KV tokens held."""
        return int(self._world.engines["kv_tokens"][0])

    @property
    def num_iterations(self) -> int:
        """Iterations begun."""
        return self._past_iterations + int(self._world.clock["num_iterations"][0])

    @property
    def num_preemptions(self) -> int:
        """Requests that lost their KV and were prefilled again."""
        return self._past_preemptions + int(self._world.clock["num_preemptions"][0])

    def submit(
        self,
        input_tokens: int,
        output_tokens: int,
        on_token: OnToken,
        *,
        first_due_in_s: float | None = None,
        tpot_s: float | None = None,
        pace_s: float | None = None,
        part: int = WHOLE,
    ) -> Resident:
        """Take a request. Its SLO, in seconds from now and per token, counts with dynamic chunking only.

        So does `pace_s`, the longest iteration that the engine's tier allows now: the last one told holds for all.
        `part` is what of it happens here. `PREFILL_PART`: it has one token, its only one, and leaves its KV for another
        engine, see `let_go`. `DECODE_PART`: its KV is here, and all its tokens come by decoding.

        Raises `InputError` for one that does not fit (`max_model_len`), and when full: ask `is_full` before.
        """
        self._check(input_tokens, output_tokens)
        now_s = self._catch_up()
        number = self._new_number()
        resident = self._residents[number] = Resident(number, input_tokens, on_token)
        self._num_residents += 1
        if pace_s is not None:
            self._pace_s = pace_s
        due_s = NO_SLO_S if first_due_in_s is None else now_s + first_due_in_s
        own_s = NO_SLO_S if tpot_s is None else tpot_s
        self._next_s = enter(
            self._world.handle, number, input_tokens, output_tokens, due_s, own_s, self._pace_s, part, now_s
        )
        self._arm()
        return resident

    def transfer_s(self, tokens: int) -> float:
        """Return how long the KV of `tokens` takes to get here, seconds: the simulator's model."""
        num_bytes = tokens * float(self._profile.physics["kv_bytes_per_token"][0])
        return self.settings.transfer_s + num_bytes / (self.settings.transfer_gb_per_s * 1e9)

    def let_go(self, tokens: int) -> None:
        """Free KV that was kept for another engine."""
        self._next_s = let_go(self._world.handle, tokens, self._pace_s, self._catch_up())
        self._arm()

    def abort(self, resident: Resident) -> None:
        """Take a request out of batch and memory; it hears of no more tokens. Nothing happens if it has left."""
        resident.on_token = _ignore
        if resident.number is not None:
            self._catch_up()
        if resident.number is not None:  # catching up may have brought its last token
            leave(self._world.handle, resident.number)
            self._release(resident)

    def stall(self, for_s: float) -> None:
        """Do nothing for so long: the running iteration takes that much longer, an idle engine begins none."""
        now_s = self._catch_up()
        world = self._world
        if math.isfinite(self._next_s):
            world.event_s[0] += for_s
        else:
            schedule(world.handle, now_s + for_s, READY, 0, NONE)
        if not world.engines["busy"][0]:
            world.engines["ready_s"] = world.event_s[0]
        self._next_s = float(world.event_s[0])
        self._arm()

    def slow_down(self, factor: float) -> None:
        """Let iterations from the next one on take `factor` times as long as the profile says."""
        self._world.engines["slowness"] = factor

    def crash(self) -> None:
        """Lose every request and all memory; nobody hears of any more tokens."""
        for resident in self._residents:
            if resident is not None:
                resident.number = None
                resident.on_token = _ignore
        self._past_iterations, self._past_preemptions = self.num_iterations, self.num_preemptions
        self.close()
        self._begin()

    def close(self) -> None:
        """Stop the clock's calls."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        settings = self.settings
        num_jobs = 2 * settings.max_requests  # so that renumbering frees as many as it keeps
        self._world: World = new_world(
            self._profile,
            num_jobs=num_jobs,
            max_decodes=settings.max_num_seqs,
            chunk_limit=settings.max_num_batched_tokens,
            dynamic_chunking=settings.dynamic_chunking,
            noise_ratio=settings.noise_ratio,
            seed=settings.seed,
        )
        self._residents: list[Resident | None] = [None] * num_jobs  # by number
        self._pace_s = NO_SLO_S
        self._num_residents: int = 0
        self._next_number = 0
        self._told = np.zeros(num_jobs, dtype=np.int64)
        self._next_s = math.inf
        self._armed_s = math.inf
        self._is_telling = False

    def _check(self, input_tokens: int, output_tokens: int) -> None:
        if input_tokens < 1 or output_tokens < 1 or input_tokens + output_tokens > self.max_model_len or self.is_full:
            raise InputError(
                f"emulated engine: can't take {input_tokens} + {output_tokens} tokens; each must be at least 1, the "
                f"sum at most {self.max_model_len}, and fewer than {self.settings.max_requests} requests inside"
            )

    def _new_number(self) -> int:
        """Return the next number: higher than that of everyone who came before."""
        if self._next_number == len(self._residents):
            living = [resident for resident in self._residents if resident is not None]
            renumber(self._world, [number for number in (r.number for r in living) if number is not None])
            for number, resident in enumerate(living):
                resident.number = number
            self._residents = [*living, *[None] * (len(self._residents) - len(living))]
            self._next_number = len(living)
        number = self._next_number
        self._next_number += 1
        return number

    def _release(self, resident: Resident) -> None:
        assert resident.number is not None
        job = self._world.jobs[resident.number]
        job["prefill_tokens"] = job["remaining_tokens"] = 0  # it does not run any more
        self._residents[resident.number] = None
        self._num_residents -= 1
        resident.number = None

    def _arm(self) -> None:
        if self._next_s != self._armed_s or self._timer is None:
            self.close()
            self._armed_s = self._next_s
            if math.isfinite(self._next_s):
                self._timer = self._clock.call_at(self._next_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._catch_up()
        self._arm()

    def _catch_up(self) -> float:
        """Take every event that is due; return the time.

        Whoever is told of a token may end a request and so send the next: that one arrives after the event.
        """
        now_s = self._clock.now_s()
        while self._next_s <= now_s and not self._is_telling:
            due_s = self._next_s
            is_lost = now_s - due_s > self._catch_up_s
            if is_lost:
                self.lost_s += now_s - due_s
            count, self._next_s = turn(self._world.handle, self._told, self._pace_s, now_s if is_lost else due_s)
            self._is_telling = True
            try:
                self._tell(self._told[:count].tolist())
            finally:
                self._is_telling = False
            self.lag.observe(self._clock.now_s() - due_s)
        return now_s

    def _tell(self, told: list[int]) -> None:
        """Hand out an iteration's tokens. Numbers first: a receiver may send requests that take them."""
        self.num_generated_tokens += len(told)
        handed = []
        for code in told:
            resident = self._residents[code >> CODE_BITS]
            assert resident is not None
            if code & FIRST:
                self.num_prompt_tokens += resident.input_tokens
            if code & LAST:
                self._release(resident)
            handed.append((resident, code & LAST != 0))
        for resident, is_last in handed:
            resident.on_token(is_last)


def _ignore(is_last: bool) -> None:
    """Be told of a token that nobody wants any more."""
