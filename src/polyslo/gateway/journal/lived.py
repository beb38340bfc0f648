"""The requests of journals as a workload: what the simulator is given to find out what would have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyslo.core.profile import Profile
from polyslo.errors import InputError
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.reader import JournalReader
from polyslo.gateway.journal.records import Presence
from polyslo.gateway.journal.requests import RequestsSeen, SeenRequest
from polyslo.workload.workload import Workload

MOST_TOLD = 8  # instances that joined or left
UNSEEN_TOKENS = 256  # an output's length where no request of the journal ended, as `core.lengths` has it


@dataclass(frozen=True, slots=True, eq=False)
class Lived:
    """What journals tell of their requests, ready to be simulated. N requests."""

    head: JournalHead
    profile: Profile
    requests: tuple[SeenRequest, ...]  # in order of arrival
    workload: Workload
    max_tokens: npt.NDArray[np.int64]  # (N,)
    notes: tuple[str, ...]


def relive(journals: Sequence[JournalReader]) -> Lived:
    """Read the requests of journals, in order of time."""
    seen, first = RequestsSeen(), journals[0]
    changes: list[str] = []  # of instances
    for journal in journals:
        _check_same_fleet(first, journal)
        seen.begin(journal.head.run)
        for record in journal.records():
            seen.take(record)
            if isinstance(record, Presence):
                changes.append(f"{record.name} {'joined' if record.is_there else 'left'}")
    profile = Profile(**{name: np.ascontiguousarray(first.state[f"profile.{name}"]) for name in Profile.ARRAYS})
    capacity = first.head.config.kv_capacity_tokens or profile.kv_capacity_tokens
    promised = [one for one in seen.requests if not one.arrival.is_best_effort]
    requests = sorted(promised, key=lambda one: one.arrival.arrival_s)
    _check_clock(first, requests)
    output_tokens, notes = _output_tokens(requests, len(first.state["tpots_s"]))
    if len(promised) < len(seen.requests):
        notes.append(f"{len(seen.requests) - len(promised):,} best-effort requests, which have no SLO, are left out.")
    if changes:
        notes.append(
            f"While it was recorded {', '.join(changes[:MOST_TOLD])}{' and more' * (len(changes) > MOST_TOLD)}; in "
            f"the simulation {first.head.num_instances} instances are there all the time."
        )
    input_tokens = np.array([_prompt_tokens(one) for one in requests], dtype=np.int64)
    fits = input_tokens + output_tokens <= capacity
    if not fits.all():
        notes.append(f"{(~fits).sum():,} requests with more tokens than an instance holds are left out.")
    kept = [one for one, fit in zip(requests, fits, strict=True) if fit]
    _check_clock(first, kept)
    workload = _workload(journals, kept, input_tokens[fits], output_tokens[fits])
    longest = np.maximum(1, capacity - input_tokens[fits])
    max_tokens = np.minimum(longest, np.array([one.arrival.max_tokens for one in kept], dtype=np.int64))
    return Lived(first.head, profile, tuple(kept), workload, max_tokens, tuple(notes))


def _check_same_fleet(first: JournalReader, journal: JournalReader) -> None:
    same = ("policy", "model", "dynamic_chunking")
    is_same = all(getattr(first.head, name) == getattr(journal.head, name) for name in same)
    if not is_same or _without_size(first.head) != _without_size(journal.head):
        raise InputError(
            f"{journal.path.name} and {first.path.name} are of different models, fleets or policies; "
            "replay them one by one"
        )


def _without_size(head: JournalHead) -> dict[str, object]:
    """Return a fleet without how many instances it has: they come and go."""
    sizes = ("num_instances", "num_prefill_only", "num_decode_only")
    return {name: value for name, value in head.fleet.items() if name not in sizes}


def _check_clock(first: JournalReader, requests: Sequence[SeenRequest]) -> None:
    if len({one.arrival.arrival_s for one in requests}) < 2:
        raise InputError(
            f"{first.path.name}: {len(requests)} requests arrived in the journal, a simulation needs two at different "
            "times; give earlier files too, or let the gateway serve longer"
        )


def _prompt_tokens(seen: SeenRequest) -> int:
    """Return a prompt's tokens as the engine counted them, else as they were estimated."""
    told = seen.outcome.prompt_tokens if seen.outcome is not None else 0
    return max(1, told or seen.arrival.input_tokens)


def _output_tokens(requests: Sequence[SeenRequest], num_tiers: int) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return output lengths: as they came; of requests that were stopped what had come; else their tier's mean."""
    tier = np.array([one.arrival.tier for one in requests], dtype=np.int64)
    came = np.array([one.outcome.output_tokens if one.outcome else 0 for one in requests], dtype=np.int64)
    is_whole = np.array([one.outcome is not None and one.outcome.outcome in ("attained", "missed") for one in requests])
    notes = []
    for name in ("cancelled", "failed"):
        stopped = np.array([one.outcome is not None and one.outcome.outcome == name for one in requests])
        if (stopped & (came > 0)).any():
            count = (stopped & (came > 0)).sum()
            notes.append(f"{count:,} {name} requests are simulated with the output that had come by then.")
    unknown = came == 0
    if unknown.any():
        notes.append(
            f"{unknown.sum():,} requests of which no output came (refused, cancelled, failed, or under way at the "
            "end) are simulated with the mean output of their tier."
        )
    for k in range(num_tiers):
        known = came[is_whole & (tier == k) & ~unknown]
        if not len(known):
            known = came[is_whole & ~unknown]
        came[unknown & (tier == k)] = max(1, round(known.mean())) if len(known) else UNSEEN_TOKENS
    return came, notes


def _workload(
    journals: Sequence[JournalReader],
    requests: Sequence[SeenRequest],
    input_tokens: npt.NDArray[np.int64],
    output_tokens: npt.NDArray[np.int64],
) -> Workload:
    arrivals = [one.arrival for one in requests]
    arrival_s = np.array([one.arrival_s for one in arrivals])
    return Workload(
        name=f"journal {journals[0].path.name}" + (f" and {len(journals) - 1} more" if len(journals) > 1 else ""),
        arrival_s=arrival_s - arrival_s[0],
        input_tokens=input_tokens.astype(np.int32),
        output_tokens=output_tokens.astype(np.int32),
        ttft_s=np.array([one.outcome.ttft_s if one.outcome else one.arrival.ttft_s for one in requests]),
        tpot_s=np.array([one.tpot_s for one in arrivals]),
        tpots_s=tuple(journals[0].state["tpots_s"].tolist()),
        tier=np.array([one.tier for one in arrivals], dtype=np.int32),
    )
