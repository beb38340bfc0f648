"""Prefill apart from decode, live: the KV that is on its way, and what tells that it has arrived.

The answer to a prefill says that its prompt ended, and with it an iteration; the KV then goes to a decode instance.
Nobody says when it gets there. It is believed to arrive when the transfer's model says so, at the latest with the
first token that its decode instance shows, which comes of the iteration after.

The prefill's own token counts as the stream's first: so the decode side's n-th comes n iterations after the request
has joined its batch, whether or not it gives the first token again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from polyslo.compiled import compiled
from polyslo.core.admission import transfer_s
from polyslo.core.belief import observe_transfer_ended
from polyslo.core.state import NONE

if TYPE_CHECKING:
    from polyslo.core.streams import Streams

NOT_BEGUN = math.inf


@compiled
def begin_transfer(streams: Streams, r: int, from_s: float) -> None:
    """A prefilled request is sent to its decode instance, which begins to fetch its KV at `from_s`."""
    count = streams.num_transfers[0]
    streams.transfers[count] = r
    streams.num_transfers[0] = count + 1
    streams.transfer_end_s[r] = from_s + transfer_s(streams.fleet, streams.fleet.requests[r].prefill_tokens)


@compiled
def arrived_transfer(streams: Streams, until_s: float) -> int:
    """Return the request whose KV arrived first, of those whose did by `until_s`; NONE when none did."""
    found = NONE
    for k in range(streams.num_transfers[0]):
        r = streams.transfers[k]
        end_s = streams.transfer_end_s[r]
        if end_s <= until_s and (found == NONE or end_s < streams.transfer_end_s[found]):
            found = r
    return found


@compiled
def end_transfer(streams: Streams, r: int, at_s: float) -> int:
    """A request's KV has arrived, so it decodes from the next iteration on; return the instance that it came from."""
    fleet = streams.fleet
    source, d = fleet.requests[r].instance, fleet.requests[r].decode_instance
    forget_transfer(streams, r)
    was_idle = fleet.instances[d].busy == 0
    observe_transfer_ended(fleet, r, d, at_s)
    if was_idle:
        streams.began_s[d] = at_s
    return int(source)


@compiled
def end_shown_transfer(streams: Streams, r: int, at_s: float) -> int:
    """A request shows tokens of its decode side, so its KV was there before the iteration that ends now began."""
    fleet = streams.fleet
    d = fleet.requests[r].decode_instance
    was_busy = fleet.instances[d].busy == 1
    source = end_transfer(streams, r, at_s)
    if was_busy:
        fleet.requests[r].start_iteration -= 1
        fleet.instances[d].decode_kv_tokens += 1
        fleet.instances[d].kv_tokens += 1
    else:
        streams.began_s[d] = fleet.instances[d].iteration_end_s  # how long it took is not known
    return source


@compiled
def forget_transfer(streams: Streams, r: int) -> None:
    """A request's KV is not on its way any more."""
    for k in range(streams.num_transfers[0]):
        if streams.transfers[k] == r:
            last = streams.num_transfers[0] - 1
            streams.transfers[k] = streams.transfers[last]
            streams.num_transfers[0] = last
            break
    streams.transfer_end_s[r] = NOT_BEGUN
