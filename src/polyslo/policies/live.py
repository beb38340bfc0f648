"""The decision surface of a live fleet: what a gateway calls, and a replay of its journal calls again.

Streams are followed (`core.streams`), then the policy decides as in the simulator (`decide`).
"""

from __future__ import annotations

from polyslo.compiled import compiled
from polyslo.core.belief import enqueue, take_back
from polyslo.core.ladder import settle_hopeless
from polyslo.core.ledger import add_resident
from polyslo.core.scaling import close_instance
from polyslo.core.state import ABSENT, DECODING, NONE, PENDING, QUEUED, RELEGATED, TRANSFERRING
from polyslo.core.streams import (
    Streams,
    catch_up,
    doubt_slowness,
    enter,
    follow_tokens,
    forget_instance,
    settle_touched,
    show_hidden,
    stay,
    touch,
)
from polyslo.core.transfers import NOT_BEGUN, arrived_transfer, begin_transfer, end_transfer, forget_transfer
from polyslo.policies.decide import on_arrival, on_finished, on_gone, on_prefilled, on_progress
from polyslo.policies.table import POLYSERVE


@compiled
def live_arrival(
    policy: int, streams: Streams, r: int, arrival_s: float, first_due_s: float, tpot_s: float, tier: int,
    input_tokens: int, max_tokens: int, expected_tokens: int, hidden: bool, without_slo: bool, now_s: float,
) -> None:  # fmt: skip
    """A request arrived and has the free record `r`."""
    pass_time(policy, streams, now_s)
    doubt_slowness(streams, now_s)
    enter(
        streams, r, arrival_s, first_due_s, tpot_s, tier, input_tokens, max_tokens, expected_tokens, hidden, without_slo
    )  # fmt: skip
    on_arrival(policy, streams.fleet, r, now_s)


@compiled
def live_digest(
    policy: int, streams: Streams, num_news: int, num_ended: int, seen_s: float, delay_s: float, now_s: float
) -> None:
    """Apply what streams showed since the last digest: tokens in `news`, streams that ended well in `ended`.

    The first of it was seen at `seen_s`, which is `delay_s` after it happened.
    """
    fleet = streams.fleet
    _pass_transfers(policy, streams, seen_s - delay_s, now_s)
    num_touched = follow_tokens(streams, num_news, seen_s)
    _send_on(policy, streams, num_news, delay_s, now_s)
    for k in range(num_ended):
        r, output_tokens = streams.ended[k, 0], streams.ended[k, 1]
        request = fleet.requests[r]
        if request.stage == TRANSFERRING:  # not streamed, and over before its KV was believed to be there
            num_touched = touch(streams, end_transfer(streams, r, seen_s), num_touched)
        if request.stage != QUEUED and request.stage != DECODING:
            on_gone(policy, fleet, r, now_s)  # best-effort work that was taken back while its last token came
            continue
        i = request.instance
        num_touched = touch(streams, i, num_touched)
        show_hidden(streams, r, output_tokens)
        on_finished(policy, fleet, i, r, output_tokens, now_s)
        if fleet.instances[i].num_decodes == 0 and fleet.instances[i].num_queued == 0:
            fleet.instances[i].busy = 0  # what was foreseen for it does not run
    for k in range(num_touched):
        on_progress(policy, fleet, settle_touched(streams, k, seen_s, delay_s), now_s)


@compiled
def live_gone(policy: int, streams: Streams, r: int, now_s: float) -> None:
    """A request is over before its end: its client left, or its engine failed it."""
    forget_transfer(streams, r)
    request = streams.fleet.requests[r]
    if request.stage == QUEUED:
        streams.first_s[request.instance] = now_s
    on_gone(policy, streams.fleet, r, now_s)


@compiled
def live_stay(streams: Streams, r: int, i: int, now_s: float) -> None:
    """A request that was to be withdrawn goes on at its instance: its client has been sent some of it."""
    stay(streams, r, i, now_s)


@compiled
def live_resume(streams: Streams, r: int, prefill_tokens: int, now_s: float) -> None:
    """A request whose client was sent some of it goes on elsewhere: all of `prefill_tokens`, what was said with it.

    It was taken back as far as was believed then; what was said is known now.
    """
    fleet = streams.fleet
    request = fleet.requests[r]
    streams.stream_tokens[r] = 0
    is_sent = request.stage == QUEUED and request.hands_over == 0
    if not is_sent and request.stage != RELEGATED and request.stage != PENDING:
        return
    i = request.instance
    if is_sent:
        take_back(fleet, i, r)
        if fleet.instances[i].num_decodes == 0 and fleet.instances[i].num_queued == 0:
            fleet.instances[i].busy = 0
    request.emitted_tokens = max(0, prefill_tokens - request.input_tokens)
    request.prefill_tokens = request.input_tokens + request.emitted_tokens
    request.remaining_tokens = request.prefill_tokens
    if is_sent:
        add_resident(fleet, i, r, fleet.instances[i].iteration + 1)
        enqueue(fleet, r, i, now_s)


@compiled
def live_tick(policy: int, streams: Streams, now_s: float) -> bool:
    """Time passed: what nobody shows goes on, and requests that pend too long are given up.

    Tells whether an iteration or a transfer ended; where that is not so and nothing was decided, all is as before.
    """
    fleet = streams.fleet
    iterations, transfers = fleet.instances["iteration"].sum(), streams.num_transfers[0]
    pass_time(policy, streams, now_s)
    for tier in range(fleet.tpots_s.shape[0]):
        settle_hopeless(fleet, tier, now_s)
    return bool(fleet.instances["iteration"].sum() != iterations or streams.num_transfers[0] != transfers)


@compiled
def live_close(policy: int, streams: Streams, i: int, reason: int, now_s: float) -> None:
    """An instance takes no new requests from now on, or (FITS) does again; ABSENT: it is gone, without requests."""
    close_instance(streams.fleet, i, reason)
    if reason == ABSENT:
        forget_instance(streams, i)
    on_progress(policy, streams.fleet, i, now_s)


@compiled
def pass_time(policy: int, streams: Streams, now_s: float) -> None:
    """Let unseen iterations pass on every instance, and use the room that appears."""
    fleet = streams.fleet
    _pass_transfers(policy, streams, now_s, now_s)
    for i in range(fleet.instances.shape[0]):
        instance = fleet.instances[i]
        if instance.busy == 1 and instance.iteration_end_s <= now_s:
            before = instance.iteration
            catch_up(streams, i, now_s)
            if policy == POLYSERVE and instance.iteration != before:
                on_progress(policy, fleet, i, now_s)


@compiled
def _pass_transfers(policy: int, streams: Streams, until_s: float, now_s: float) -> None:
    """PD: let the KV arrive that is believed to have arrived by `until_s`, and use the room at its prefill side."""
    r = arrived_transfer(streams, until_s)
    while r != NONE:
        source = end_transfer(streams, r, streams.transfer_end_s[r])
        on_progress(policy, streams.fleet, source, now_s)
        r = arrived_transfer(streams, until_s)


@compiled
def _send_on(policy: int, streams: Streams, num_news: int, delay_s: float, now_s: float) -> None:
    """PD: settle where the requests go whose prefills the news says have ended."""
    fleet = streams.fleet
    for k in range(num_news):
        r = streams.news[k, 0]
        if fleet.requests[r].stage == TRANSFERRING and streams.transfer_end_s[r] == NOT_BEGUN:
            on_prefilled(policy, fleet, r, now_s)
            begin_transfer(streams, r, now_s + delay_s)
