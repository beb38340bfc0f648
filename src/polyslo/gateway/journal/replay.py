"""A live journal run through the same decider again: every decision must come out the same, bit for bit.

Each file begins with the whole belief, so it is replayed on its own. What the decider is told is in the journal, with
the time; what it decides is held against what it decided live. After the first difference nothing is compared: belief
has gone another way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from polyslo.core.scaling import owned_instance_s
from polyslo.core.state import (
    DISPATCH,
    REASONS,
    REFUSE,
    RELEGATE,
    RETIER,
    RUNGS,
    START,
    TRANSFER,
    UNHEALTHY,
    WITHDRAW,
)
from polyslo.errors import InputError
from polyslo.gateway.decider import Decider
from polyslo.gateway.journal.reader import JournalReader, Progress
from polyslo.gateway.journal.records import (
    Action,
    Arrival,
    Choice,
    Closing,
    Digest,
    Entry,
    Input,
    Loss,
    Outcome,
    Presence,
    Record,
    Release,
    Resizing,
    Resumption,
    Stay,
)
from polyslo.gateway.journal.requests import RequestsSeen
from polyslo.gateway.journal.shadow import Agreement
from polyslo.gateway.journal.state import restore
from polyslo.gateway.requests.request import Request
from polyslo.sim.fleet import PolicySpec

ACTION_NAMES = {
    DISPATCH: "dispatch", TRANSFER: "transfer", WITHDRAW: "withdraw", RELEGATE: "relegate", REFUSE: "refuse",
    RETIER: "retier", START: "start",
}  # fmt: skip
MOST_TOLD = 4


@dataclass(frozen=True, slots=True)
class Difference:
    """The first input after which something else was decided than live."""

    number: int  # of the input, from 1
    record: Input | Entry
    now: str  # what was decided now

    def __str__(self) -> str:
        record = self.record
        if isinstance(record, Entry):
            return f"before input {self.number:,}: a request got record {record.r} live; now {self.now}"
        who = f" of request {record.r}" if isinstance(record, Arrival | Loss | Stay | Resumption) else ""
        what = f"input {self.number:,}, {type(record).__name__.lower()}{who} at {record.now_s:.6f} s"
        return f"{what}: live {_told(record.actions)}; now {self.now}"


@dataclass(slots=True)
class Replayed:
    """What replays found, over one file or several."""

    num_inputs: int = 0  # compared
    num_decisions: int = 0  # compared: actions
    difference: Difference | None = None
    num_closings: int = 0
    joined: list[str] = field(default_factory=list)  # instances' names, in order
    left: list[str] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)  # live, by kind
    placements_by_rung: Counter[str] = field(default_factory=Counter)  # up to a difference
    refusals_by_reason: Counter[str] = field(default_factory=Counter)
    agreement: Agreement = field(default_factory=Agreement)
    owned_s: list[npt.NDArray[np.float64]] = field(default_factory=list)  # (groups,) at each moment asked for


def replay(
    journal: JournalReader,
    found: Replayed,
    seen: RequestsSeen | None = None,
    *,
    moments_s: Sequence[float] = (),
    progress: Progress | None = None,
) -> Decider:
    """Make a file's decisions again; adds to `found`, tells `seen` of requests, returns the decider as it ends.

    `moments_s` ascend: when to read what each group has owned. Raises `InputError` for a file that can't be used.
    """
    replayer = _Replayer(journal, found, moments_s)
    if seen is not None:
        seen.begin(journal.head.run)
    for record in journal.records(progress):
        replayer.take(record)
        if seen is not None:
            seen.take(record)
    replayer.end()
    return replayer.decider


class _Replayer:
    """One file's decider, told what the live one was told."""

    def __init__(self, journal: JournalReader, found: Replayed, moments_s: Sequence[float]) -> None:
        self._carried: list[Action] = []
        policy = PolicySpec.parse(journal.head.policy).kind.code
        self.decider = restore(journal.state, policy, lambda kind, r, i: self._carried.append((kind, r, i)))
        self._counted = self.decider.fleet.counters.copy()
        self._found = found
        self._moments_s = moments_s
        self._choice: Choice | None = None

    def take(self, record: Record) -> None:
        """Repeat what a record tells of, and count it."""
        if isinstance(record, Outcome):
            return
        if isinstance(record, Choice):
            self._choice = record
        elif isinstance(record, Presence):
            (self._found.joined if record.is_there else self._found.left).append(record.name)
            self.decider.give_role(_within(record.i, len(self.decider.fleet.instances)), record.role)
        elif isinstance(record, Entry | Release):
            if self._found.difference is None:
                self._repeat_taking(record)
        else:
            self._count(record)
            if self._found.difference is None:
                self._read_owned(record.now_s)
                self._repeat(record)

    def end(self) -> None:
        """Take stock of the file."""
        self._read_owned(float("inf"))
        placed, refused = (self.decider.fleet.counters - self._counted).tolist()
        self._found.placements_by_rung.update(dict(zip(RUNGS, placed, strict=False)))
        self._found.refusals_by_reason.update(dict(zip(REASONS, refused, strict=False)))

    def _repeat_taking(self, record: Entry | Release) -> None:
        """Take a record, or give one back."""
        if isinstance(record, Release):
            self.decider.release(_within(record.r, len(self.decider.fleet.requests)))
            return
        r = self.decider.enter()
        if r != record.r:
            self._found.difference = Difference(self._found.num_inputs + 1, record, f"record {r}")

    def _count(self, record: Input) -> None:
        found = self._found
        found.actions.update(ACTION_NAMES.get(kind, str(kind)) for kind, _, _ in record.actions)
        if isinstance(record, Closing) and record.reason == UNHEALTHY:
            found.num_closings += 1
        if isinstance(record, Arrival):
            choice, self._choice = self._choice, None
            if choice is not None and choice.r == record.r:
                sent = (i for kind, r, i in record.actions if kind == DISPATCH and r == record.r)
                found.agreement.add(next(sent, None), choice.i)

    def _repeat(self, record: Input) -> None:
        found = self._found
        self._carried.clear()
        _apply(self.decider, record)
        found.num_inputs += 1
        found.num_decisions += len(record.actions)
        if self._carried != record.actions:
            found.difference = Difference(found.num_inputs, record, _told(self._carried))

    def _read_owned(self, now_s: float) -> None:
        """Read what groups have owned at the moments that lie before `now_s`."""
        fleet, owned_s = self.decider.fleet, self._found.owned_s
        while len(owned_s) < len(self._moments_s) and self._moments_s[len(owned_s)] < now_s:
            at_s = self._moments_s[len(owned_s)]
            owned_s.append(np.array([owned_instance_s(fleet.handle, k, at_s) for k in range(len(fleet.group_size))]))


def _apply(decider: Decider, record: Input) -> None:
    """Tell a decider what a record tells of."""
    num_requests = len(decider.fleet.requests)
    if isinstance(record, Arrival):
        _within(record.r, num_requests)
        _within(record.tier, len(decider.fleet.tpots_s))
        request = Request(
            record.arrival_s, record.ttft_s, record.tpot_s, record.tier, record.input_tokens, record.max_tokens,
            not record.is_hidden, expected_tokens=record.expected_tokens, is_best_effort=record.is_best_effort,
        )  # fmt: skip
        decider.arrive(record.r, request, record.now_s)
    elif isinstance(record, Digest):
        for r, tokens in record.news:
            decider.saw_tokens(_within(r, num_requests), tokens, record.seen_s)
        for r, tokens in record.ended:
            decider.saw_end(_within(r, num_requests), tokens, record.seen_s)
        decider.digest(record.now_s)
    elif isinstance(record, Loss):
        decider.lose(_within(record.r, num_requests), record.now_s)
    elif isinstance(record, Closing):
        decider.close(_within(record.i, len(decider.fleet.instances)), record.reason, record.now_s)
    elif isinstance(record, Resizing):
        i = _within(record.i, len(decider.fleet.instances))
        decider.resize(i, record.kv_capacity_tokens, record.max_residents, record.now_s)
    elif isinstance(record, Stay):
        decider.keep(_within(record.r, num_requests), _within(record.i, len(decider.fleet.instances)), record.now_s)
    elif isinstance(record, Resumption):
        decider.resume(_within(record.r, num_requests), record.prefill_tokens, record.now_s)
    else:
        decider.tick(record.now_s)


def _within(index: int, size: int) -> int:
    """Compiled code does not look: an index from a file must not lead out of an array."""
    if not 0 <= index < size:
        raise InputError(f"the journal names number {index} of {size}; it is none of this version, or was changed")
    return index


def _told(actions: Sequence[Action]) -> str:
    """Write actions: `dispatch 17 to 3`; of many the first."""
    told = [f"{ACTION_NAMES.get(kind, kind)} {r} to {i}" for kind, r, i in actions[:MOST_TOLD]]
    more = len(actions) - len(told)
    return (", ".join(told) or "nothing") + (f" and {more} more" if more else "")
