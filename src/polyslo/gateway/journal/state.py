"""The whole belief of a decider, as arrays: what each journal file begins with.

A gateway that is never idle has no moment at which the state could be left out, so every file has it. Left out are
scratch space, what is summed up anew when it is asked for, news that was not yet digested (it is part of the next
input), records that were never in use and columns of tables beyond the last one in use. So what is copied grows with
the load, not with the room for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from polyslo.core.profile import Profile
from polyslo.core.state import QUEUED, Fleet, new_fleet
from polyslo.core.streams import Streams
from polyslo.errors import InputError
from polyslo.gateway.decider import CarryOut, Decider

Arrays = dict[str, npt.NDArray[Any]]

_SCRATCH = {
    "actions", "num_actions", "news", "ended", "touched", "is_touched",
    "base_from", "peak_from", "peak_until", "is_foreseen",
}  # fmt: skip
_BY_RECORD = {
    "requests", "stream_tokens", "stream_remaining", "stream_hidden", "stream_seen_s", "stream_learned",
    "transfer_end_s", "transfers",
}  # fmt: skip
_BY_RESIDENT = {"resident_finish", "resident_base", "resident"}
_MOST = {"instances": 1 << 14, "residents": 1 << 13, "requests": 1 << 20, "tiers": 64}  # of a state that is believed


def capture(decider: Decider) -> Arrays:
    """Copy what a decider believes, between two inputs."""
    fleet, streams = decider.fleet, decider.streams
    arrays = {name: getattr(fleet, name) for name in Fleet.ARRAYS if name not in _SCRATCH}
    arrays |= {name: getattr(streams, name) for name in Streams.ARRAYS if name not in _SCRATCH}
    arrays |= {name: arrays[name][: decider.num_used] for name in _BY_RECORD}
    arrays |= {name: arrays[name][:, : int(fleet.instances["num_residents"].max())] for name in _BY_RESIDENT}
    arrays["pending"] = fleet.pending[:, : int(fleet.pending_size.max())]
    arrays |= {f"profile.{name}": getattr(fleet.profile, name) for name in Profile.ARRAYS}
    num_unused = len(fleet.requests) - decider.num_used
    arrays["free"] = np.array(decider.free[num_unused:], dtype=np.int64)  # below are those that never were in use
    arrays["room"] = np.array([len(fleet.requests), fleet.resident.shape[1], fleet.pending.shape[1]], dtype=np.int64)
    arrays["delay_s"] = np.array([decider.delay_s])
    return {name: array.copy() for name, array in arrays.items()}


def restore(arrays: Mapping[str, npt.NDArray[Any]], policy: int, carry_out: CarryOut) -> Decider:
    """Return a decider that believes what was captured. Raises `InputError` for a state of another version."""
    try:
        _check_sizes(arrays)
        fleet = _empty_fleet(arrays)
        decider = Decider(fleet, policy, carry_out, delay_s=float(arrays["delay_s"][0]))
        for bundle in (fleet, decider.streams):
            for name in bundle.ARRAYS:
                if name not in _SCRATCH:
                    _fill(getattr(bundle, name), arrays[name], name)
        decider.num_used = len(arrays["requests"])
        decider.free[len(fleet.requests) - decider.num_used :] = arrays["free"].tolist()
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the journal's state is none of this version ({error}); use the version that wrote it"
        ) from error
    _check_indices(decider)
    _note_last_sent(fleet)
    return decider


def encode_state(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the arrays as a `.npz`."""
    file = BytesIO()
    np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # the stubs take the arrays for the option
    return file.getvalue()


def decode_state(payload: bytes) -> Arrays:
    """Return the arrays of a `.npz`; nothing in it is executed. Raises `InputError`."""
    try:
        with np.load(BytesIO(payload), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, KeyError, BadZipFile) as error:
        raise InputError(f"the journal's state can't be read ({error}); use the version that wrote it") from error


def _empty_fleet(arrays: Mapping[str, npt.NDArray[Any]]) -> Fleet:
    parts = {name: np.ascontiguousarray(arrays[f"profile.{name}"]) for name in Profile.ARRAYS}
    records, residents, pending = arrays["room"].tolist()
    fleet = new_fleet(
        Profile(**parts),
        num_instances=len(arrays["instances"]),
        tpots_s=arrays["tpots_s"],
        num_requests=records,
        max_residents=residents,
        num_pending=pending,
    )
    fleet.num_actions[0] = 0
    return fleet


def _fill(own: npt.NDArray[Any], told: npt.NDArray[Any], name: str) -> None:
    """Copy an array into its place; what it leaves out, and fields that its version did not have, stay as new."""
    fields, known = told.dtype.names or (), own.dtype.names or ()
    if (
        not set(fields) <= set(known)
        or bool(fields) != bool(known)
        or told.ndim != own.ndim
        or any(np.greater(told.shape, own.shape))
    ):
        raise ValueError(f"{name}: {told.dtype} of shape {told.shape} where {own.dtype} of {own.shape} was expected")
    place = own[tuple(map(slice, told.shape))]
    for field in fields:
        place[field] = told[field]
    if not fields:
        place[...] = told


def _note_last_sent(fleet: Fleet) -> None:
    """Make good for a state that did not have `last_sent_s`: no queued prompt was sent later."""
    queued = fleet.requests[fleet.requests["stage"] == QUEUED]
    np.maximum.at(fleet.instances["last_sent_s"], queued["instance"], queued["decided_s"])


def _check_sizes(arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise for a state that no gateway has, before anything is allocated for it."""
    records, residents, pending = arrays["room"].tolist()
    sizes = {
        "instances": len(arrays["instances"]),
        "residents": residents,
        "requests": max(records, pending),
        "tiers": len(arrays["tpots_s"]),
    }
    for name, size in sizes.items():
        if not 1 <= size <= _MOST[name]:
            raise ValueError(f"{size:,} {name}")


def _check_indices(decider: Decider) -> None:
    """Raise for an index that compiled code, which does not look, would follow out of an array."""
    fleet = decider.fleet
    num_instances, num_requests, num_groups = len(fleet.instances), len(fleet.requests), len(fleet.tpots_s) + 2
    instances, requests = fleet.instances, fleet.requests
    bounds: dict[str, tuple[npt.NDArray[Any], int, int]] = {
        "group": (instances["group"], 0, num_groups - 1),
        "rank": (instances["rank"], 0, num_instances - 1),
        "free": (np.array(decider.free), 0, num_requests - 1),
        "max_residents": (instances["max_residents"], 0, fleet.resident.shape[1]),
        "num_residents": (instances["num_residents"], 0, fleet.resident.shape[1]),
        "queue": (np.stack([instances["queue_head"], instances["queue_tail"]]), -1, num_requests - 1),
        "order": (fleet.order, 0, num_instances - 1),
        "group_size": (fleet.group_size, 0, num_instances),
        "resident": (fleet.resident, 0, num_requests - 1),
        "transfers": (decider.streams.transfers, 0, num_requests - 1),
        "num_transfers": (decider.streams.num_transfers, 0, num_requests),
        "pending": (fleet.pending, 0, num_requests - 1),
        "pending_size": (fleet.pending_size, 0, fleet.pending.shape[1]),
        "tier": (requests["tier"], 0, num_groups - 3),
        "links": (np.stack([requests["next"], requests["previous"]]), -1, num_requests - 1),
        "place": (np.stack([requests["instance"], requests["decode_instance"]]), -1, num_instances - 1),
    }
    for name, (array, low, high) in bounds.items():
        if array.size and not (low <= array.min() and array.max() <= high):
            raise InputError(f"the journal's state is none: {name} must be from {low} to {high}; use another file")
    for i, count in enumerate(instances["num_residents"]):
        finish, residents = fleet.resident_finish[i, :count], fleet.resident[i, :count]
        if (np.diff(finish) < 0).any() or (finish != requests["finish_iteration"][residents]).any():
            raise InputError(
                "the journal's state is none: residents must stand in order of their end; use another file"
            )
