"""What tokens on live streams tell about iterations: the facts that the simulator's engines report by themselves.

A gateway sees tokens, not iterations. But a decode gets one token an iteration, so token n of a stream whose first
one came with iteration s came with iteration s + n: the stream that is furthest tells how many have ended. News of
one iteration arrives in pieces, stream by stream; what comes within half an iteration of its first piece belongs to
it. Requests that are not streamed show nothing before they end: where nobody else does, time passes as forecast.

News is late, and so are requests: what was sent while an iteration ended is believed to be in the next one and may
have missed it. A prompt that was to end and did not show its first token is believed to wait still, or the belief
would run ahead of the engine by all such prompts, for as long as its queue never empties.

Prefill instances (PD) show even less: a prompt that ends, by the answer to its prefill. What follows from that, and
when its KV arrives, is `transfers`.

An engine may say several tokens at once: it made them in one iteration (speculation), or it speaks only after several
(vLLM's `--stream-interval`). A stream does not tell which. Belief takes each token for an iteration of its own, which
is what SLOs are about: the time per token. Speed is then learned from each stream's own tokens, in their time, and
says the same of both kinds; where prompts are under way, only from single iterations, which are the slow ones where an
engine speculates. So no engine is believed to be faster than it is, nor than its profile says.

Everything here is a function of what it is told and when, so a journal of it can be replayed.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.core.belief import (
    arrive,
    observe_first_token,
    observe_iteration_end,
    put_back,
    settle_iteration,
    take_back,
)
from polyslo.core.pending import discard
from polyslo.core.profile import iteration_s
from polyslo.core.slowness import FORGET_S, WINDOW_S, add_iteration, believe_slowness, follow_ratio
from polyslo.core.state import DECODING, NONE, QUEUED, RELEGATED, TRANSFERRING, Fleet, best_effort_queue
from polyslo.core.transfers import NOT_BEGUN, end_shown_transfer
from polyslo.native import Native

SAME_ITERATION_RATIO = 0.5  # of the foreseen iteration: news that comes this soon after its first is of the same
MOST_AT_ONCE = 256  # iterations that one piece of news may end; a stream further ahead was miscounted
SEVERAL = 1.5  # tokens to a piece of news, on average: from so many on an engine says several at once
NOT_SEEN_S = -1.0  # every prompt was sent later than that, so nothing is learned of the time since
PIECES = 32  # of an instance that this average is of
ODD = 1 << 20  # added to `steps`: an iteration of which something else was believed than what it carried


class Streams(Native):
    """The belief of a live fleet, and what its streams have shown. R requests, N instances."""

    fleet: Fleet
    stream_tokens: npt.NDArray[np.int64]  # (R,) seen on the stream since the request was last sent
    stream_remaining: npt.NDArray[np.int64]  # (R,) tokens to prefill before the running iteration
    stream_hidden: npt.NDArray[np.int64]  # (R,) 1: not streamed, nothing shows before its end
    advanced_s: npt.NDArray[np.float64]  # (N,) when the last iteration was seen to end
    began_s: npt.NDArray[np.float64]  # (N,) when the running one is believed to have begun
    slowness_ratio: npt.NDArray[np.float64]  # (N,) observed over the profile's iteration time: the sums' ratio
    news: npt.NDArray[np.int64]  # (capacity, 2) request, tokens: what was seen since the last digest
    ended: npt.NDArray[np.int64]  # (capacity, 2) request, output tokens: streams that ended well since then
    transfer_end_s: npt.NDArray[np.float64]  # (R,) PD: when a request's KV is believed to arrive
    transfers: npt.NDArray[np.int64]  # (R,) requests whose KV is on its way
    num_transfers: npt.NDArray[np.int64]  # (1,)
    touched: npt.NDArray[np.int64]  # (N,) instances with news, in order; scratch of a digest
    is_touched: npt.NDArray[np.int64]  # (N,)
    steps: npt.NDArray[np.int64]  # (N,) iterations ended since it was settled; -ODD: the first began nobody knows when
    observed_s: npt.NDArray[np.float64]  # (N,) time of iterations that decodes showed, faded
    nominal_s: npt.NDArray[np.float64]  # (N,) their time by the profile, faded
    learned_s: npt.NDArray[np.float64]  # (N,) when the last of them ended
    piece_tokens: npt.NDArray[np.float64]  # (N,) tokens to a piece of a decode's news, faded
    first_s: npt.NDArray[np.float64]  # (N,) when the last prompt was seen to end, or its client left
    stream_seen_s: npt.NDArray[np.float64]  # (R,) when a stream has last shown tokens where it is
    stream_learned: npt.NDArray[np.int64]  # (R,) `stream_tokens` at that time

    FIRST_SLOT: ClassVar = 72
    ARRAYS: ClassVar = {
        "stream_tokens": (np.int64, 1),
        "stream_remaining": (np.int64, 1),
        "stream_hidden": (np.int64, 1),
        "advanced_s": (np.float64, 1),
        "began_s": (np.float64, 1),
        "slowness_ratio": (np.float64, 1),
        "news": (np.int64, 2),
        "ended": (np.int64, 2),
        "touched": (np.int64, 1),
        "is_touched": (np.int64, 1),
        "transfer_end_s": (np.float64, 1),
        "transfers": (np.int64, 1),
        "num_transfers": (np.int64, 1),
        "steps": (np.int64, 1),
        "observed_s": (np.float64, 1),
        "nominal_s": (np.float64, 1),
        "learned_s": (np.float64, 1),
        "piece_tokens": (np.float64, 1),
        "first_s": (np.float64, 1),
        "stream_seen_s": (np.float64, 1),
        "stream_learned": (np.int64, 1),
    }
    BUNDLES: ClassVar = {"fleet": 126}


def new_streams(fleet: Fleet, *, num_news: int = 1 << 14) -> Streams:
    """Allocate what is kept of the streams of a fleet's requests."""
    num_requests, num_instances = len(fleet.requests), len(fleet.instances)
    return Streams(
        fleet=fleet,
        stream_tokens=np.zeros(num_requests, dtype=np.int64),
        stream_remaining=np.zeros(num_requests, dtype=np.int64),
        stream_hidden=np.zeros(num_requests, dtype=np.int64),
        advanced_s=np.zeros(num_instances),
        began_s=np.zeros(num_instances),
        slowness_ratio=np.ones(num_instances),
        news=np.zeros((num_news, 2), dtype=np.int64),
        ended=np.zeros((num_news, 2), dtype=np.int64),
        touched=np.zeros(num_instances, dtype=np.int64),
        is_touched=np.zeros(num_instances, dtype=np.int64),
        transfer_end_s=np.full(num_requests, NOT_BEGUN),
        transfers=np.zeros(num_requests, dtype=np.int64),
        num_transfers=np.zeros(1, dtype=np.int64),
        steps=np.zeros(num_instances, dtype=np.int64),
        observed_s=np.full(num_instances, WINDOW_S),
        nominal_s=np.full(num_instances, WINDOW_S),
        learned_s=np.zeros(num_instances),
        piece_tokens=np.ones(num_instances),
        first_s=np.zeros(num_instances),
        stream_seen_s=np.zeros(num_requests),
        stream_learned=np.zeros(num_requests, dtype=np.int64),
    )


@compiled
def enter(
    streams: Streams, r: int, arrival_s: float, first_due_s: float, tpot_s: float, tier: int, input_tokens: int,
    max_tokens: int, expected_tokens: int, hidden: bool, without_slo: bool,
) -> None:  # fmt: skip
    """Fill a free record with a new request, as `arrive` takes it.

    `expected_tokens` is how long its caller expects the answer to get; 0: nobody said, it is what was learned.
    """
    fleet = streams.fleet
    request = fleet.requests[r]
    request.arrival_s = arrival_s
    request.first_due_s = first_due_s
    request.tpot_s = tpot_s
    request.tier = tier
    request.input_tokens = input_tokens
    request.max_tokens = max_tokens
    request.hinted_tokens = expected_tokens
    request.without_slo = 1 if without_slo else 0
    request.reasons = 0
    request.predicted_first_s = np.inf
    request.predicted_tpot_s = 0.0
    request.instance = NONE
    request.decode_instance = NONE
    streams.stream_tokens[r] = 0
    streams.stream_remaining[r] = input_tokens
    streams.stream_hidden[r] = 1 if hidden else 0
    streams.stream_seen_s[r] = NOT_SEEN_S
    streams.stream_learned[r] = 0
    streams.transfer_end_s[r] = NOT_BEGUN
    arrive(fleet, r)


@compiled
def forget_instance(streams: Streams, i: int) -> None:
    """An engine is gone: what its streams have shown says nothing of the one that comes in its place."""
    streams.advanced_s[i] = 0.0
    streams.began_s[i] = 0.0
    streams.slowness_ratio[i] = 1.0
    streams.steps[i] = 0
    streams.observed_s[i] = WINDOW_S
    streams.nominal_s[i] = WINDOW_S
    streams.learned_s[i] = 0.0
    streams.piece_tokens[i] = 1.0
    streams.first_s[i] = 0.0
    believe_slowness(streams.fleet, i, 1.0)


@compiled
def follow_tokens(streams: Streams, num_news: int, seen_s: float) -> int:
    """Apply what streams showed: iterations that ended, then first tokens. Returns how many instances were touched.

    `seen_s` is when the first of it was seen. The caller reports prefilled and finished requests next, and settles
    each instance in `touched` last.
    """
    fleet, num_touched = streams.fleet, 0
    for k in range(num_news):
        r, tokens = streams.news[k, 0], streams.news[k, 1]
        request = fleet.requests[r]
        streams.stream_tokens[r] += tokens
        if request.stage == TRANSFERRING:
            num_touched = touch(streams, end_shown_transfer(streams, r, seen_s), num_touched)
        if request.stage == DECODING:
            num_touched = touch(streams, request.instance, num_touched)
            _follow_decode(streams, r, seen_s)
    for k in range(num_news):
        r = streams.news[k, 0]
        if fleet.requests[r].stage == DECODING:
            _learn_of_stream(streams, r, seen_s)
        if fleet.requests[r].stage == QUEUED and streams.stream_tokens[r] > 0:
            num_touched = touch(streams, fleet.requests[r].instance, num_touched)
            _follow_first(streams, r, seen_s)
    return num_touched


@compiled
def settle_touched(streams: Streams, k: int, seen_s: float, delay_s: float) -> int:
    """Foresee the next iteration of the k-th touched instance; return the instance.

    It began `delay_s` before its predecessor's end was seen, and what was sent since is not in it.
    """
    i = streams.touched[k]
    streams.is_touched[i] = 0
    instance = streams.fleet.instances[i]
    if instance.busy == 0:
        if streams.advanced_s[i] == seen_s and not _restore_unshown(streams, i):
            _learn_slowness(streams, i, seen_s - delay_s)
        streams.steps[i] = -ODD if streams.steps[i] % ODD > 1 else 0  # the last of several ended earlier than seen
        _note_beginning(streams, i, seen_s - delay_s)
    settle_iteration(streams.fleet, i, seen_s - delay_s)
    return int(i)


@compiled
def _note_beginning(streams: Streams, i: int, began_s: float) -> None:
    """An instance's next iteration begins: remember when, and what of its prompts was to do before it."""
    streams.began_s[i] = began_s
    r = streams.fleet.instances[i].queue_head
    while r != NONE:
        streams.stream_remaining[r] = streams.fleet.requests[r].remaining_tokens
        r = streams.fleet.requests[r].next


@compiled
def _restore_unshown(streams: Streams, i: int) -> bool:
    """Prompts that were to end with the iteration and showed nothing were not in it. Returns whether there were any."""
    fleet, found = streams.fleet, False
    instance = fleet.instances[i]
    r = instance.queue_head
    while r != NONE:
        request = fleet.requests[r]
        if request.remaining_tokens == 0 and not _is_hidden(streams, r):
            missing = streams.stream_remaining[r]
            request.remaining_tokens = missing
            instance.queued_tokens += missing
            instance.kv_tokens -= missing
            found = True
        r = request.next
    return found


@compiled
def touch(streams: Streams, i: int, num_touched: int) -> int:
    """Remember that an instance has news; return how many have."""
    if streams.is_touched[i] == 1:
        return num_touched
    streams.is_touched[i] = 1
    streams.touched[num_touched] = i
    return num_touched + 1


@compiled
def catch_up(streams: Streams, i: int, now_s: float) -> None:
    """Let the iterations pass that nobody shows: those of long prompts alone, and of requests not streamed."""
    fleet = streams.fleet
    instance = fleet.instances[i]
    while instance.busy == 1 and instance.iteration_end_s <= now_s and not _shows(streams, i):
        ended_s = instance.iteration_end_s
        _end_iteration(streams, i, ended_s)
        streams.steps[i] = 0
        _note_beginning(streams, i, ended_s)
        settle_iteration(fleet, i, ended_s)


@compiled
def show_hidden(streams: Streams, r: int, output_tokens: int) -> None:
    """A request that was not streamed ended: what it emitted is known now."""
    request = streams.fleet.requests[r]
    if request.stage == QUEUED:
        observe_first_token(streams.fleet, request.instance, r)
    streams.stream_tokens[r] = output_tokens


@compiled
def stay(streams: Streams, r: int, i: int, now_s: float) -> None:
    """Best-effort work was taken back from an instance, but can't leave it: its client has been sent some of it."""
    fleet = streams.fleet
    request = fleet.requests[r]
    if request.stage == RELEGATED:
        discard(fleet, best_effort_queue(fleet), r)
    elif request.stage == QUEUED or request.stage == DECODING:  # sent elsewhere at once
        other = fleet.instances[request.instance]
        take_back(fleet, request.instance, r)
        if other.num_decodes == 0 and other.num_queued == 0:
            other.busy = 0
    else:
        return
    streams.stream_remaining[r] = request.prefill_tokens
    put_back(fleet, i, r, now_s)
    if request.stage == DECODING:
        streams.stream_seen_s[r] = NOT_SEEN_S
        streams.stream_tokens[r] = streams.stream_learned[r] = 1  # its next one comes with the iteration that runs now


@compiled
def _follow_decode(streams: Streams, r: int, now_s: float) -> None:
    """A decode's token: end as many iterations as it tells of, or note that the stream had paused."""
    fleet = streams.fleet
    request = fleet.requests[r]
    i = request.instance
    ended = request.start_iteration + streams.stream_tokens[r] - 1 - fleet.instances[i].iteration
    if ended > MOST_AT_ONCE:
        streams.stream_tokens[r] -= ended
        ended = 0
    if ended > 0:
        for _ in range(ended):
            _end_iteration(streams, i, now_s)
    elif ended < -1:  # preempted, or several tokens were lost on the way: it holds less than was believed
        lag = -ended
        instance = fleet.instances[i]
        lag = min(lag, instance.iteration - request.start_iteration)
        request.start_iteration += lag
        instance.decode_kv_tokens -= lag
        instance.kv_tokens -= lag


@compiled
def _follow_first(streams: Streams, r: int, now_s: float) -> None:
    """A stream's first tokens: with the iteration that was just seen to end, or with one that nobody else shows."""
    fleet = streams.fleet
    i = fleet.requests[r].instance
    instance = fleet.instances[i]
    foreseen_s = instance.iteration_end_s - streams.began_s[i]
    soon = now_s - streams.advanced_s[i] < SAME_ITERATION_RATIO * foreseen_s
    if instance.busy == 1 and not soon:
        _end_iteration(streams, i, now_s)
        streams.steps[i] += ODD  # no decode ran before it: it may have begun with the prompt
    if fleet.requests[r].remaining_tokens > 0:
        streams.steps[i] += ODD  # the iteration carried more than was believed
    observe_first_token(fleet, i, r)
    streams.first_s[i] = streams.stream_seen_s[r] = now_s
    streams.stream_learned[r] = streams.stream_tokens[r]
    more = streams.stream_tokens[r] - 1
    if more > 0:  # several tokens in one piece: those after the first are of later iterations, which others share
        fleet.requests[r].start_iteration -= more
        instance.decode_kv_tokens += more
        instance.kv_tokens += more


@compiled
def _end_iteration(streams: Streams, i: int, now_s: float) -> None:
    """An iteration ended: decodes hold one token more, and hidden prompts that were in it decode now."""
    fleet = streams.fleet
    observe_iteration_end(fleet, i)
    streams.advanced_s[i] = now_s
    streams.steps[i] += 1
    r = fleet.instances[i].queue_head
    while r != NONE:
        following = fleet.requests[r].next
        if fleet.requests[r].remaining_tokens == 0 and _is_hidden(streams, r):
            observe_first_token(fleet, i, r)
            streams.stream_tokens[r] = 1
            streams.first_s[i] = now_s
        r = following


@compiled
def _shows(streams: Streams, i: int) -> bool:
    """Tell whether the end of the running iteration will be seen: a stream decodes, or gets its first token."""
    fleet = streams.fleet
    for k in range(fleet.instances[i].num_residents):
        r = fleet.resident[i, k]
        if streams.stream_hidden[r] == 1 or fleet.requests[r].instance != i:
            continue
        if fleet.requests[r].stage == DECODING:
            return True
        if fleet.requests[r].stage == QUEUED and fleet.requests[r].remaining_tokens == 0:
            return True
    r = fleet.instances[i].queue_head
    while r != NONE:  # PD: prompts here are residents elsewhere
        if fleet.requests[r].hands_over == 1 and fleet.requests[r].remaining_tokens == 0:
            return True
        r = fleet.requests[r].next
    return False


@compiled
def _is_hidden(streams: Streams, r: int) -> bool:
    """Tell whether nothing will show that a request's prompt has ended: it is not streamed, nor prefilled apart."""
    return streams.stream_hidden[r] == 1 and streams.fleet.requests[r].hands_over == 0


@compiled
def _learn_slowness(streams: Streams, i: int, ended_s: float) -> None:
    """Hold the one iteration that decodes showed to end against its forecast; believe what follows from it."""
    instance = streams.fleet.instances[i]
    nominal_s = (instance.iteration_end_s - streams.began_s[i]) / instance.slowness
    if streams.steps[i] != 1 or nominal_s <= 0.0 or _decodes_alone(streams, i):
        return
    _add_time(streams, i, ended_s - streams.began_s[i], nominal_s, ended_s)


@compiled
def _learn_of_stream(streams: Streams, r: int, now_s: float) -> None:
    """A decode's tokens came together: where they mostly do, hold their time against as many iterations of decodes.

    What one digest has of a stream is one piece, however many events it came in: between them there is no time.
    """
    fleet = streams.fleet
    i = fleet.requests[r].instance
    instance = fleet.instances[i]
    tokens = streams.stream_tokens[r] - streams.stream_learned[r]
    before_s = streams.stream_seen_s[r]
    streams.stream_learned[r], streams.stream_seen_s[r] = streams.stream_tokens[r], now_s
    if tokens <= 0:  # learned of already, or miscounted
        return
    streams.piece_tokens[i] += (tokens - streams.piece_tokens[i]) / PIECES
    undisturbed = instance.last_sent_s <= before_s and streams.first_s[i] <= before_s
    if undisturbed and _decodes_alone(streams, i):
        nominal_s = iteration_s(fleet.profile, instance.num_decodes, 0, instance.decode_kv_tokens, 0.0)
        share = 1.0 / instance.num_decodes  # of what its streams tell together
        _add_time(streams, i, share * (now_s - before_s), share * tokens * nominal_s, now_s)


@compiled
def _decodes_alone(streams: Streams, i: int) -> bool:
    """Tell whether an engine that says several tokens at once has no prompts: each of its streams tells its speed."""
    return streams.piece_tokens[i] >= SEVERAL and streams.fleet.instances[i].num_queued == 0


@compiled
def _add_time(streams: Streams, i: int, took_s: float, nominal_s: float, ended_s: float) -> None:
    """Learn from work that took so long, and should have by the profile; believe what follows from it."""
    observed_s, sum_s = add_iteration(took_s, nominal_s, streams.observed_s[i], streams.nominal_s[i])
    streams.observed_s[i], streams.nominal_s[i] = observed_s, sum_s
    streams.slowness_ratio[i] = observed_s / sum_s
    streams.learned_s[i] = ended_s
    follow_ratio(streams.fleet, i, observed_s / sum_s)


@compiled
def doubt_slowness(streams: Streams, now_s: float) -> None:
    """Half of what is believed of slow instances that nothing was learned of for long is forgotten: they get a try."""
    for i in range(streams.learned_s.shape[0]):
        if streams.fleet.instances[i].slowness > 1.0 and now_s - streams.learned_s[i] > FORGET_S:
            streams.slowness_ratio[i] = 0.5 * (1.0 + streams.slowness_ratio[i])
            streams.observed_s[i] = streams.slowness_ratio[i] * streams.nominal_s[i]
            streams.learned_s[i] = now_s
            follow_ratio(streams.fleet, i, streams.slowness_ratio[i])
