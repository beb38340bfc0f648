"""What tokens on live streams tell, worked out by hand (I17); the profile is that of test_ladder_by_hand.py.

An iteration takes 5 ms + 0.01 ms a batch token + 0.0001 ms a KV token. A prompt of 1,000 tokens alone: 15 ms; one
decode over 1,000 KV tokens: 5.11 ms; both in one iteration, the decode having 1,000 KV tokens: 15.11 ms.
"""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.core.state import DECODING, DISPATCH, NONE, QUEUED, RELEGATED, WITHDRAW
from polyslo.core.streams import MOST_AT_ONCE
from polyslo.policies.live import live_gone, live_resume, live_stay
from polyslo.policies.table import POLYSERVE

from .live_hand import LiveHand


class Live(LiveHand):
    """A co-located fleet."""

    def __init__(self, hand, num_instances=1):
        super().__init__(hand(num_instances))

    def send(self, input_tokens, output_tokens, *, at_s=0.0, **more):
        """Let a request arrive and return its number."""
        return self.arrive(input_tokens, output_tokens, at_s=at_s, **more)

    def stands(self, *names):
        """Return these counters of instance 0."""
        return tuple(self.fleet.instances[name][0] for name in names)

    @property
    def end_s(self):
        """When instance 0's iteration is expected to end."""
        return float(self.fleet.instances["iteration_end_s"][0])

    def check_empty(self):
        """Nothing is believed to be anywhere, and nobody waits."""
        super().check_empty()
        assert not self.fleet.pending_size.any()


@pytest.fixture
def live(hand):
    """Return a live fleet of one instance."""
    return Live(hand)


def test_a_first_token_ends_the_iteration_that_nobody_else_shows(live):
    """I17: the prompt of 1,000 ends at 15 ms; the next iteration holds its decode alone, 5.11 ms, to 20.11."""
    r = live.send(1000, 100)
    assert (live.stands("busy", "iteration"), live.end_s) == ((1, 0), pytest.approx(0.015))
    live.see(0.015, (r, 1))
    assert live.fleet.requests["stage"][r] == DECODING
    assert live.stands("busy", "iteration", "num_decodes", "kv_tokens") == (1, 1, 1, 1000)
    assert live.end_s == pytest.approx(0.02011)


@pytest.mark.parametrize(
    ("first_piece", "end_s"), [(0, 0.04522), (1, 0.03532)], ids=["decode first", "first token first"]
)
def test_an_iteration_whose_news_comes_in_pieces_ends_once(live, first_piece, end_s):
    """I17: at 30.11 ms one stream shows its second, another its first token, 0.1 ms apart: one iteration, 2,001 KV.

    The next one is foreseen with the first piece: where that is the first token, for two decodes over 2,001 KV tokens,
    5.2201 ms; where it is not, the prompt is believed to have missed its step, and to be in the next: 15.1101 ms.
    """
    streams = [live.send(1000, 100), live.send(1000, 100)]
    live.see(0.015, (streams[0], 1))
    assert live.end_s == pytest.approx(0.03011)
    live.see(0.03011, (streams[first_piece], 1))
    assert live.stands("iteration") == (2,)
    live.see(0.03021, (streams[1 - first_piece], 1))
    assert live.stands("iteration", "num_decodes", "num_queued", "kv_tokens") == (2, 2, 0, 2001)
    assert live.end_s == pytest.approx(end_s, abs=2e-5)


def test_news_of_one_iteration_counts_once_however_many_streams_tell(live):
    """I17: three decodes show a token each in one digest: one iteration, and each holds one token more."""
    streams = [live.send(1000, 100, at_s=0.0) for _ in range(3)]
    live.see(0.015, (streams[0], 1))
    live.see(0.0402, *((r, 1) for r in streams))
    assert live.stands("iteration", "num_decodes", "kv_tokens") == (2, 3, 3001)
    live.see(0.0456, *((r, 1) for r in streams))
    assert live.stands("iteration", "num_decodes", "kv_tokens") == (3, 3, 3004)


def test_several_tokens_at_once_are_as_many_iterations(live):
    """I17: three tokens of a decode in one event: iterations 2, 3 and 4 have ended, its KV is 1,003."""
    r = live.send(1000, 100)
    live.see(0.015, (r, 1))
    live.see(0.031, (r, 3))
    assert live.stands("iteration", "kv_tokens", "decode_kv_tokens") == (4, 1003, 1003)


def test_a_first_piece_may_hold_several_tokens(live):
    """I17: a stream that shows three tokens at first holds 1,002, and its next one ends one iteration more."""
    r = live.send(1000, 100)
    live.see(0.026, (r, 3))
    assert live.stands("iteration", "num_decodes", "kv_tokens") == (1, 1, 1002)
    live.see(0.032, (r, 1))
    assert live.stands("iteration", "kv_tokens") == (2, 1003)
    live.see(0.032, ended=[(r, 4)])
    live.check_empty()


def _two_decodes(live):
    """Return two streams that decode after two iterations, at 40 ms."""
    streams = live.send(1000, 100), live.send(1000, 100)
    live.see(0.015, (streams[0], 1))
    live.see(0.04, *((r, 1) for r in streams))
    return streams


def test_a_paused_stream_that_catches_up_changes_nothing(live):
    """I17: while one client dawdles the other's stream shows four iterations; then four tokens come at once."""
    shown, paused = _two_decodes(live)
    for k in range(4):
        live.see(0.05 + 0.006 * k, (shown, 1))
    assert live.stands("iteration", "kv_tokens") == (6, 2001 + 8)
    live.see(0.08, (paused, 4))
    assert live.stands("iteration", "kv_tokens") == (6, 2001 + 8)


def test_a_stream_that_fell_behind_holds_less(live):
    """I17: preempted for three of four iterations, it shows one token: 3 KV tokens of 8 were not made."""
    shown, preempted = _two_decodes(live)
    for k in range(4):
        live.see(0.05 + 0.006 * k, (shown, 1))
    live.see(0.08, (preempted, 1))
    assert live.stands("iteration", "kv_tokens") == (6, 2001 + 8 - 3)
    live.see(0.09, (shown, 1), (preempted, 1))
    assert live.stands("iteration", "kv_tokens") == (7, 2001 + 8 - 3 + 2)
    live.see(0.09, ended=[(shown, 7), (preempted, 3)])
    live.check_empty()


def test_a_stream_that_runs_away_was_miscounted(live):
    """I4, I17: more tokens at once than iterations can have ended move neither the iteration nor the KV at its end."""
    shown, mad = _two_decodes(live)
    live.see(0.05, (mad, MOST_AT_ONCE + 1))
    assert live.stands("iteration", "kv_tokens") == (2, 2001)
    live.see(0.056, (shown, 1), (mad, 1))
    assert live.stands("iteration", "kv_tokens") == (3, 2003)
    live.see(0.056, ended=[(shown, 3), (mad, 9)])
    live.check_empty()


def test_hidden_requests_pass_as_forecast(live):
    """I17: nothing shows, so the prompt is believed to end at 15 ms and each token to come on time: 20.11, 25.2201."""
    r = live.send(1000, 100, hidden=True)
    live.tick(0.0149)
    assert live.fleet.requests["stage"][r] == QUEUED
    live.tick(0.0151)
    assert live.fleet.requests["stage"][r] == DECODING
    assert (live.stands("iteration", "kv_tokens"), live.end_s) == ((1, 1000), pytest.approx(0.02011))
    live.tick(0.0253)
    assert (live.stands("iteration", "kv_tokens"), live.end_s) == ((3, 1002), pytest.approx(0.0303303))
    live.see(0.0253, ended=[(r, 40)])
    live.check_empty()


def test_a_hidden_request_ends_before_it_was_believed_to_begin(live):
    """I4: its end is known before its first token was forecast: nothing of it is left."""
    r = live.send(1000, 100, hidden=True)
    live.see(0.01, ended=[(r, 1)])
    live.tick(0.02)
    live.check_empty()


def test_hidden_requests_follow_a_stream_that_shows(live):
    """I17: a stream tells of each iteration; a hidden prompt in the second one decodes after it, 15.11 ms later."""
    shown, hidden = live.send(1000, 100), live.send(1000, 100, hidden=True)
    live.see(0.015, (shown, 1))
    live.tick(0.0302)
    assert live.fleet.requests["stage"][hidden] == QUEUED  # forecast to have ended, but not seen to
    live.see(0.0333, (shown, 1))
    assert live.fleet.requests["stage"][hidden] == DECODING
    assert live.stands("iteration", "num_decodes", "kv_tokens") == (2, 2, 2001)


def test_a_long_prompt_alone_passes_as_forecast_until_it_shows(live):
    """I17: 10,000 tokens in chunks of 4,500 (50 ms each) and one of 1,000 (15 ms), whose end is waited for."""
    r = live.send(10_000, 100)
    assert live.stands("chunk") == (4500,)
    live.tick(0.06)
    assert live.stands("iteration", "chunk", "kv_tokens") == (1, 4500, 9000)
    live.tick(0.3)
    assert (live.stands("iteration", "chunk", "kv_tokens"), live.end_s) == ((2, 1000, 10_000), pytest.approx(0.115))
    live.see(0.31, (r, 1))
    assert live.stands("iteration", "num_decodes", "kv_tokens") == (3, 1, 10_000)


def test_a_prompt_that_missed_its_last_iteration_waits_for_its_last_chunk(live):
    """I17: of 10,000 tokens the last 1,000 are believed to be in iteration 3; it ends without them, so they wait."""
    long, other = live.send(10_000, 100), live.send(100, 100, at_s=0.001, ttft_s=5.0)
    live.tick(0.101)
    assert live.stands("iteration", "queued_tokens", "kv_tokens") == (2, 0, 10_100)
    live.see(0.12, (other, 1))
    assert live.fleet.requests["stage"][long] == QUEUED
    # Given back and planned anew, beside the other's decode.
    assert live.stands("iteration", "chunk", "queued_tokens", "kv_tokens") == (3, 1000, 0, 10_100)
    live.see(0.14, (other, 1), (long, 1))
    assert live.stands("iteration", "num_decodes", "num_queued", "kv_tokens") == (4, 2, 0, 10_101)


def test_slowness_is_what_was_seen_over_what_was_foreseen(live):
    """I17: the ratio of two sums that begin with 1 s: a decode of 5.11 ms takes 10.22; a pause counts as 8-fold."""
    r = live.send(1000, 100)
    live.see(0.015, (r, 1))
    assert live.streams.slowness_ratio[0] == 1.0
    live.see(0.015 + 0.01022, (r, 1))
    kept = 1.0 / 1.01022
    assert live.streams.slowness_ratio[0] == pytest.approx((kept + 0.01022) / (kept + 0.00511))
    nominal_s = live.end_s - 0.02522
    live.see(0.02522 + 0.2, (r, 1))
    more = 1.0 / (1.0 + 8.0 * nominal_s)
    observed_s, sum_s = more * (kept + 0.01022) + 8.0 * nominal_s, more * (kept + 0.00511) + nominal_s
    assert live.streams.slowness_ratio[0] == pytest.approx(observed_s / sum_s)


def test_what_an_iteration_was_wrongly_believed_to_carry_tells_nothing_of_speed(live):
    """I17: a prompt missed the iteration that it was to be in: that one was short, and counts for nothing."""
    r = live.send(1000, 100)
    live.see(0.015, (r, 1))
    waits = live.send(1000, 100, at_s=0.0151)
    live.see(0.0202, (r, 1))
    ratio = live.streams.slowness_ratio[0]
    live.see(0.0254, (r, 1))
    assert live.fleet.requests["stage"][waits] == QUEUED
    assert live.streams.slowness_ratio[0] == ratio
    live.see(0.045, (r, 1), (waits, 1))
    assert live.streams.slowness_ratio[0] != ratio


def test_iterations_of_which_several_are_seen_at_once_tell_nothing_of_speed(live):
    """I17: nor does the next one, of which is not known when it began."""
    r = live.send(1000, 100)
    live.see(0.015, (r, 1))
    live.see(0.030, (r, 3))
    live.see(0.031, (r, 1))
    assert live.streams.slowness_ratio[0] == 1.0
    live.see(0.041, (r, 1))
    assert live.streams.slowness_ratio[0] > 1.0


def _speak(live, streams, begin_s, sizes, iteration_s, *, rounds=200):
    """Let streams say what `sizes` gives each of them in a round, which takes as many iterations as the most of them.

    Returns when it ended.
    """
    now_s = begin_s
    for k in range(rounds):
        tokens = [sizes(k, n) for n in range(len(streams))]
        now_s += iteration_s(tokens)
        live.see(now_s, *zip(streams, tokens, strict=True))
    return now_s


@pytest.mark.parametrize(("factor", "num_streams"), [(1.0, 1), (1.0, 3), (2.0, 1), (2.0, 3)])
def test_an_engine_that_speaks_every_eighth_token_is_as_fast_as_its_tokens_come(live, factor, num_streams):
    """I17: 8 tokens in 8 iterations' time are no slow iteration; at half speed that is seen, too."""
    streams = [live.send(1000, 5000) for _ in range(num_streams)]
    live.see(0.05, *((r, 1) for r in streams))

    def took_s(tokens):
        kv_tokens = float(live.fleet.instances["decode_kv_tokens"][0])
        return 8 * factor * live.fleet.profile.iteration_s(num_streams, 0, kv_tokens, 0.0)

    _speak(live, streams, 0.05, lambda k, n: 8, took_s, rounds=150)
    assert live.streams.slowness_ratio[0] == pytest.approx(factor, rel=0.06)
    assert live.fleet.instances["slowness"][0] == pytest.approx(1.02 * factor if factor > 1 else 1.0, rel=0.08)


@pytest.mark.parametrize("num_streams", [1, 6])
def test_an_engine_that_speculates_is_not_slow(live, num_streams):
    """I17: iterations that take 1.3 times as long and bring 1 to 4 tokens give tokens sooner than the profile says."""
    streams = [live.send(1000, 9000) for _ in range(num_streams)]
    live.see(0.09, *((r, 1) for r in streams))
    draw = np.random.default_rng(1).integers(1, 5, (400, num_streams))

    def took_s(tokens):
        kv_tokens = float(live.fleet.instances["decode_kv_tokens"][0])
        return 1.3 * live.fleet.profile.iteration_s(num_streams, 0, kv_tokens, 0.0)

    _speak(live, streams, 0.09, lambda k, n: int(draw[k, n]), took_s, rounds=400)
    assert live.streams.slowness_ratio[0] == pytest.approx(1.3 / 2.5, rel=0.15)
    assert live.fleet.instances["slowness"][0] == 1.0


def test_events_that_are_seen_together_are_one_piece(live):
    """I17: an engine as fast as its profile that is read every second event: the second took no time of its own."""
    streams = [live.send(1000, 5000) for _ in range(3)]
    now_s = 0.05
    live.see(now_s, *((r, 1) for r in streams))
    for _ in range(100):
        kv_tokens = float(live.fleet.instances["decode_kv_tokens"][0])
        now_s += 16 * live.fleet.profile.iteration_s(3, 0, kv_tokens, 0.0)
        live.see(now_s, *((r, 8) for _ in range(2) for r in streams))
    assert live.streams.slowness_ratio[0] == pytest.approx(1.0, abs=0.01)
    assert live.fleet.instances["slowness"][0] == 1.0


def test_a_miscounted_piece_tells_nothing_of_speed(live):
    """I17: what was learned of an engine at half speed is not forgotten for a piece of 5,000 tokens."""
    r = live.send(1000, 9000)
    live.see(0.05, (r, 1))
    now_s = _speak(live, [r], 0.05, lambda k, n: 8, lambda tokens: 0.09, rounds=100)
    believed = float(live.fleet.instances["slowness"][0])
    assert believed > 1.5
    live.see(now_s + 0.09, (r, 5000))
    live.see(now_s + 0.18, (r, 8))
    assert live.fleet.instances["slowness"][0] == believed


def test_tokens_that_came_beside_a_prompt_tell_nothing_of_decodes(live):
    """I17: 8 tokens that took as long as they and a prompt of 1,000: what they took is not the decodes' time."""
    r = live.send(1000, 5000)
    live.see(0.015, (r, 1))
    now_s = _speak(live, [r], 0.015, lambda k, n: 8, lambda tokens: 0.042, rounds=100)
    ratio = float(live.streams.slowness_ratio[0])
    other = live.send(1000, 100, at_s=now_s + 0.001)
    live.see(now_s + 0.062, (r, 8))
    assert live.streams.slowness_ratio[0] == ratio  # it waits still
    live.see(now_s + 0.063, (other, 1))
    live.see(now_s + 0.12, (r, 8))
    assert live.streams.slowness_ratio[0] == ratio  # it has just ended
    live.see(now_s + 0.17, (r, 8))
    assert live.streams.slowness_ratio[0] != ratio


def test_a_prompt_whose_client_leaves_tells_nothing_of_decodes(live):
    """I17: 8 tokens that took as long as they and 6,000 tokens of a prompt that left before they were seen."""
    r = live.send(1000, 5000)
    live.see(0.015, (r, 1))
    now_s = _speak(live, [r], 0.015, lambda k, n: 8, lambda tokens: 0.043, rounds=100)
    believed = live.fleet.instances["slowness"][0]
    other = live.send(20_000, 100, at_s=now_s + 0.001, ttft_s=5.0)
    assert live.fleet.requests["stage"][other] == QUEUED
    live.see(now_s + 0.1, (r, 8))
    live_gone(POLYSERVE, live.streams.handle, other, now_s + 0.19)
    ratio = float(live.streams.slowness_ratio[0])
    live.see(now_s + 0.2, (r, 8))
    assert live.streams.slowness_ratio[0] == ratio
    live.see(now_s + 0.243, (r, 8))
    assert live.streams.slowness_ratio[0] != ratio
    assert live.fleet.instances["slowness"][0] == believed


def test_a_client_that_leaves_takes_its_tokens_with_it(live):
    """I4: before its first token and after its third: every count is zero again."""
    waiting, decoding = live.send(1000, 100), live.send(1000, 100)
    live.see(0.015, (waiting, 1))
    live.see(0.04, (waiting, 1), (decoding, 1))
    live.see(0.05, (waiting, 1), (decoding, 1))
    late = live.send(500, 100, at_s=0.05)
    for r in (decoding, late, waiting):
        live_gone(POLYSERVE, live.streams.handle, r, 0.051)
    live.check_empty()


def _relegated(live):
    """Return a request that alone takes 15 ms and has 14 left: it decodes as best-effort, two tokens after 21 ms."""
    r = live.send(1000, 100, at_s=0.001, ttft_s=0.014)
    live.tick(0.001)
    live.see(0.0161, (r, 1))
    live.see(0.0213, (r, 1))
    live.filled.actions()
    return r


def test_best_effort_work_that_is_taken_back_leaves_nothing(live):
    """I4: claimed for another, the instance holds that one alone; the first waits with its tokens as prompt."""
    r = _relegated(live)
    urgent = live.send(1000, 100, at_s=0.022)
    kinds = [action for action in live.filled.actions() if action[0] in (WITHDRAW, DISPATCH)]
    assert kinds == [(WITHDRAW, r, 0), (DISPATCH, urgent, 0)]
    assert live.fleet.requests["stage"][r] == RELEGATED
    assert live.stands("num_residents", "num_decodes", "kv_tokens") == (1, 0, 0)


def test_best_effort_work_that_cannot_leave_stays(live):
    """I4: its client has had two tokens, so it goes on beside the one that claimed: 1,001 KV tokens, two residents."""
    r = _relegated(live)
    urgent = live.send(1000, 100, at_s=0.022)
    live_stay(live.streams.handle, r, 0, 0.022)
    assert live.fleet.requests["stage"][r] == DECODING
    assert live.fleet.requests["instance"][r] == 0
    assert not live.fleet.pending_size.any()
    assert live.stands("num_residents", "num_decodes", "num_own", "kv_tokens") == (2, 1, 2, 1001)
    assert live.stands("committed_tokens") == (2 * 1100,)
    live.see(0.0265, (r, 1))
    assert live.stands("iteration", "kv_tokens") == (3, 1002 + 1000)  # the urgent prompt is in the next one
    live.see(0.0416, (r, 1), (urgent, 1))
    assert live.stands("iteration", "num_decodes", "kv_tokens") == (4, 2, 1003 + 1000)
    live.see(0.05, ended=[(r, 4), (urgent, 1)])
    live.check_empty()


def test_what_was_sent_elsewhere_in_the_same_breath_stays_where_it_is(hand):
    """I4: of two instances the first is claimed and the second would take the work over; it never leaves the first."""
    live = Live(hand, 2)
    r = live.send(1000, 100, at_s=0.001, ttft_s=0.014)
    live.tick(0.001)
    host = int(live.fleet.requests["instance"][r])
    live.see(0.0161, (r, 1))
    other = 1 - host
    live.fleet.requests["tier"][r] = 1
    first = live.send(1000, 100, at_s=0.02, tier=0)
    claimed = int(live.fleet.requests["instance"][first])
    assert claimed == other  # the empty one
    live_stay(live.streams.handle, r, host, 0.02)  # told without need, it changes nothing but the tokens in flight
    assert live.fleet.requests["instance"][r] == host
    live.see(0.03, ended=[(r, 2)])
    live_gone(POLYSERVE, live.streams.handle, first, 0.03)
    live.check_empty()


def test_what_stays_before_its_first_token_is_known_is_prefilled_as_before(live):
    """I4: the news of its first token was under way: it is queued again, and the news then finds it there."""
    r = live.send(1000, 100, at_s=0.001, ttft_s=0.014)
    live.tick(0.001)
    live.send(1000, 100, at_s=0.017)
    live_stay(live.streams.handle, r, 0, 0.017)
    assert live.fleet.requests["stage"][r] == QUEUED
    assert live.stands("num_residents", "num_queued") == (2, 2)
    live.see(0.0175, (r, 1))
    assert live.fleet.requests["stage"][r] == DECODING
    assert live.fleet.requests["next"][r] == NONE
    assert np.count_nonzero(live.fleet.instances["num_decodes"]) == 1


def test_what_goes_on_elsewhere_is_prefilled_with_what_was_said(live):
    """I4: claimed away after two tokens, a third on its way: prompt and three are prefilled again, then it decodes."""
    r = _relegated(live)
    urgent = live.send(1000, 100, at_s=0.022)
    assert live.fleet.requests["stage"][r] == RELEGATED
    live_resume(live.streams.handle, r, 1003, 0.022)
    assert live.fleet.requests["emitted_tokens"][r] == 3
    assert live.fleet.pending_size.any()
    live.see(0.0416, (urgent, 1))
    live.see(0.05, ended=[(urgent, 1)])
    assert (live.fleet.requests["stage"][r], live.fleet.requests["instance"][r]) == (QUEUED, 0)
    live.see(0.0651, (r, 1))
    assert live.fleet.requests["stage"][r] == DECODING
    assert live.stands("num_decodes", "kv_tokens") == (1, 1003)
    live.see(0.0702, (r, 1))
    assert live.stands("kv_tokens") == (1004,)
    live.see(0.08, ended=[(r, 6)])
    live.check_empty()


def test_what_was_sent_on_at_once_is_queued_with_what_was_said(hand):
    """I4: it was sent on with the tokens that were known of; now all are, and its queue has them."""
    live = Live(hand, 2)
    r = live.send(1000, 100, at_s=0.001, ttft_s=0.014)
    live.tick(0.001)
    assert live.fleet.requests["stage"][r] == QUEUED
    live_resume(live.streams.handle, r, 1007, 0.002)
    i = live.fleet.requests["instance"][r]
    assert live.fleet.requests["prefill_tokens"][r] == 1007
    assert live.fleet.instances["num_queued"][i] == live.fleet.instances["num_residents"][i] == 1
    assert live.fleet.instances["queued_tokens"][i] + live.fleet.instances["kv_tokens"][i] == 1007
    live.see(0.0181, (r, 1))
    assert (live.fleet.requests["stage"][r], live.fleet.instances["kv_tokens"][i]) == (DECODING, 1007)
    live.see(0.05, ended=[(r, 5)])
    live.check_empty()
