"""One fleet's decisions, live: requests get records, streams become news, decisions become calls of the shell.

Nothing here waits: each method decides at once and hands what is to be done to `carry_out(kind, request, instance)`,
in order. News of streams is collected and digested together, once a turn of the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from polyslo.core.state import EITHER, FITS, Fleet
from polyslo.core.streams import Streams, new_streams
from polyslo.gateway.requests.request import Request
from polyslo.policies.live import (
    live_arrival,
    live_close,
    live_digest,
    live_gone,
    live_resume,
    live_stay,
    live_tick,
)

CarryOut = Callable[[int, int, int], None]
Actions = list[list[int]]  # (kind, request, instance) each, in order


class Recorder(Protocol):
    """Who writes down each input and what was decided, in the order in which the core was asked: see `journal`."""

    def entered(self, r: int) -> None:
        """A request was given a record."""

    def released(self, r: int) -> None:
        """The record of a refused request was given back."""

    def arrived(self, r: int, request: Request, now_s: float, actions: Actions) -> None:
        """A request was decided about."""

    def digested(
        self, news: npt.NDArray[np.int64], ended: npt.NDArray[np.int64], seen_s: float, now_s: float, actions: Actions
    ) -> None:
        """News of streams, first seen at `seen_s`, was applied; rows as in `core.streams`, overwritten by the next."""

    def lost(self, r: int, now_s: float, actions: Actions) -> None:
        """A request was over before its end."""

    def kept(self, r: int, i: int, now_s: float, actions: Actions) -> None:
        """A request that was to be withdrawn from an instance goes on there."""

    def resumed(self, r: int, prefill_tokens: int, now_s: float, actions: Actions) -> None:
        """A request goes on elsewhere with what its client was sent, all to be prefilled."""

    def ticked(self, now_s: float, actions: Actions) -> None:
        """Time passed, and something changed by that."""

    def closed(self, i: int, reason: int, now_s: float, actions: Actions) -> None:
        """An instance was closed, or (FITS) opened."""

    def resized(self, i: int, kv_capacity_tokens: int, max_residents: int, now_s: float, actions: Actions) -> None:
        """An instance has another room for our requests."""


class Decider:
    """The policy over a live fleet. Requests are numbers, free to be used again after `release`."""

    def __init__(self, fleet: Fleet, policy: int, carry_out: CarryOut, *, delay_s: float = 0.0) -> None:
        self.fleet = fleet
        self.streams: Streams = new_streams(fleet)
        self._policy = policy
        self._carry_out = carry_out
        self.free = list(range(len(fleet.requests) - 1, -1, -1))  # records; the last is used next
        self.num_used = 0  # records that ever were in use: the first ones
        self.recorder: Recorder | None = None  # may be set and taken away between two inputs
        self.took: Callable[[float], object] | None = None  # told how long each decision about an arrival took
        self.on_news: Callable[[], object] = bool  # called with the first news since a digest
        self._num_recorded = 0  # of the actions that the core has told of
        self._actions: deque[list[int]] = deque()  # decided, not carried out yet: kind, request, instance
        self._is_acting = False
        self._stays: dict[int, int] = {}
        self._num_news = self._num_ended = 0
        self.delay_s = delay_s  # from an engine's step to its news here
        self._seen_s = 0.0  # when the oldest news came
        self._news, self._ended = self.streams.news, self.streams.ended
        self._news_rows = self._news.data  # to write a number into, in a quarter of an array's time

    @property
    def num_free(self) -> int:
        """How many more requests there is room for."""
        return len(self.free)

    @property
    def has_news(self) -> bool:
        """Tell whether a digest has anything to do."""
        return self._num_news + self._num_ended > 0

    def enter(self) -> int | None:
        """Take a record for a new request; None when all are in use."""
        if not self.free:
            return None
        r = self.free.pop()
        self.num_used = max(self.num_used, r + 1)
        if self.recorder is not None:
            self.recorder.entered(r)
        return r

    def release(self, r: int) -> None:
        """Give back the record of a request that was refused."""
        self.free.append(r)
        if self.recorder is not None:
            self.recorder.released(r)

    def arrive(self, r: int, request: Request, now_s: float) -> None:
        """Decide about a new request that has the record `r`."""
        began_s = perf_counter()
        live_arrival(
            self._policy, self.streams.handle, r, request.arrival_s, request.arrival_s + request.ttft_s,
            request.tpot_s, request.tier, request.input_tokens, request.max_tokens, request.expected_tokens,
            not request.shows_tokens, request.is_best_effort, now_s,
        )  # fmt: skip
        if self.took is not None:
            self.took(perf_counter() - began_s)
        if self.recorder is not None:
            self.recorder.arrived(r, request, now_s, self._decided())
        self._act(now_s)

    def saw_tokens(self, r: int, tokens: int, now_s: float, seen_s: float | None = None) -> None:
        """A stream showed tokens, `seen_s` if not now; they count with the next digest."""
        if self._num_news == len(self._news):
            self.digest(now_s)
        if seen_s is None:
            seen_s = now_s
        row = self._num_news
        if not (row or self._num_ended):
            self._seen_s = seen_s
            self.on_news()
        elif seen_s < self._seen_s:
            self._seen_s = seen_s
        self._news_rows[row, 0] = r
        self._news_rows[row, 1] = tokens
        self._num_news = row + 1

    def saw_many(self, news: npt.NDArray[np.int64], now_s: float) -> None:
        """Streams showed tokens: rows of a request and how many of it, at most as many as `streams.news` has."""
        try:
            if self._num_news + len(news) > len(self._news):
                self.digest(now_s)
        finally:
            row = self._num_news
            if not (row or self._num_ended):
                self._seen_s = now_s
                self.on_news()
            self._num_news = row + len(news)
            self._news[row : self._num_news] = news

    def saw_end(self, r: int, output_tokens: int, now_s: float) -> None:
        """A stream ended well; it counts with the next digest, which frees its record."""
        if self._num_ended == len(self._ended):
            self.digest(now_s)
        if not self.has_news:
            self._seen_s = now_s
            self.on_news()
        row = self._ended[self._num_ended]
        row[0], row[1] = r, output_tokens
        self._num_ended += 1

    def digest(self, now_s: float) -> None:
        """Apply what was seen, decide what follows from it, and free the records of streams that ended."""
        num_news, num_ended = self._num_news, self._num_ended
        self._num_news = self._num_ended = 0
        over = self._ended[:num_ended, 0].tolist()
        seen_s = self._seen_s
        live_digest(self._policy, self.streams.handle, num_news, num_ended, seen_s, self.delay_s, now_s)
        self.free += over
        if self.recorder is not None and num_news + num_ended:
            news, ended = self._news[:num_news], self._ended[:num_ended]
            self.recorder.digested(news, ended, seen_s, now_s, self._decided())
        self._act(now_s)

    def lose(self, r: int, now_s: float) -> None:
        """A request is over before its end: its client left, or its engine failed it. Its record is free again."""
        if self.has_news:
            self.digest(now_s)
        live_gone(self._policy, self.streams.handle, r, now_s)
        self.free.append(r)
        if self.recorder is not None:
            self.recorder.lost(r, now_s, self._decided())
        self._act(now_s)

    def tick(self, now_s: float) -> None:
        """Time passed without news.

        Recorded only where an iteration or a transfer ended or something was decided: a tick does nothing else.
        """
        has_passed = live_tick(self._policy, self.streams.handle, now_s)
        if self.recorder is not None:
            actions = self._decided()
            if actions or has_passed:
                self.recorder.ticked(now_s, actions)
        self._act(now_s)

    def close(self, i: int, reason: int, now_s: float) -> None:
        """Send an instance no new requests, for a reason of `core.state`."""
        live_close(self._policy, self.streams.handle, i, reason, now_s)
        if self.recorder is not None:
            self.recorder.closed(i, reason, now_s, self._decided())
        self._act(now_s)

    def open(self, i: int, now_s: float) -> None:
        """Send an instance requests again."""
        self.close(i, FITS, now_s)

    def give_role(self, i: int, role: int) -> None:
        """Say what an instance may do, as `core.state` has it, while it is absent: so this decides nothing yet."""
        self.fleet.instances["role"][i] = role
        self.fleet.settings["num_roles"] = np.count_nonzero(self.fleet.instances["role"] != EITHER)

    def resize(self, i: int, kv_capacity_tokens: int, max_residents: int, now_s: float) -> None:
        """An instance has room for so many of our tokens and requests from now on."""
        instances = self.fleet.instances
        instances["kv_capacity_tokens"][i] = kv_capacity_tokens
        instances["max_residents"][i] = min(max(0, max_residents), self.fleet.resident.shape[1])
        closed = int(instances["closed"][i])
        live_close(self._policy, self.streams.handle, i, closed, now_s)  # as it was: what pends is offered the room
        if self.recorder is not None:
            self.recorder.resized(i, kv_capacity_tokens, max_residents, now_s, self._decided())
        self._act(now_s)

    def stay(self, r: int, i: int) -> None:
        """Answer a WITHDRAW that can't be carried out: the request goes on at `i`. Only from `carry_out`."""
        self._stays[r] = i

    def keep(self, r: int, i: int, now_s: float) -> None:
        """A request that was to be withdrawn goes on at `i`."""
        live_stay(self.streams.handle, r, i, now_s)
        if self.recorder is not None:
            self.recorder.kept(r, i, now_s, self._decided())
        self._act(now_s)

    def resume(self, r: int, prefill_tokens: int, now_s: float) -> None:
        """A request goes on elsewhere though its client was sent some of it: that is prefilled with its prompt.

        News of it that is not digested yet is of where it was, and is in that count.
        """
        news = self._news[: self._num_news]
        kept = news[news[:, 0] != r]
        self._num_news = len(kept)
        self._news[: len(kept)] = kept
        live_resume(self.streams.handle, r, prefill_tokens, now_s)
        if self.recorder is not None:
            self.recorder.resumed(r, prefill_tokens, now_s, self._decided())

    def _decided(self) -> Actions:
        """Return what was decided since the last call: actions that nobody has carried out yet."""
        first, self._num_recorded = self._num_recorded, int(self.fleet.num_actions[0])
        decided: Actions = self.fleet.actions[first : self._num_recorded].tolist()
        return decided

    def _act(self, now_s: float) -> None:
        """Carry out what was decided, in order: what carrying out decides comes after what was decided before.

        Should the shell fail, the rest is carried out after the next decision.
        """
        if self._is_acting:
            return
        self._is_acting = True
        try:
            while self._take_actions():
                while self._actions:
                    self._carry_out(*self._actions.popleft())
            for r, i in self._stays.items():
                self.keep(r, i, now_s)
            self._stays.clear()
        finally:
            self._is_acting = False

    def _take_actions(self) -> bool:
        """Line up what was decided; tell whether there is anything to do."""
        num_actions = self.fleet.num_actions
        count = int(num_actions[0])
        if count:
            self._actions.extend(self.fleet.actions[:count].tolist())
            num_actions[0] = self._num_recorded = 0
        return bool(self._actions)
