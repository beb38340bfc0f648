"""Prefill apart from decode, as live streams show it, by hand (I17); the profile is that of test_ladder_by_hand.py.

Instance 1 prefills and 0 decodes: the decode side is claimed first, the least loaded of the pool. A prompt of 1,000
tokens takes 15 ms, its transfer 1 ms, one decode over 1,000 KV tokens 5.11 ms.
"""

from __future__ import annotations

import pytest

from polyslo.core.state import DECODING, DISPATCH, DONE, QUEUED, TRANSFER, TRANSFERRING
from polyslo.policies.live import live_close, live_gone
from polyslo.policies.table import POLYSERVE

from .live_hand import LiveHand

UNHEALTHY = 6


class Apart(LiveHand):
    """A disaggregated fleet whose decode side gives the first token, and what its streams show."""

    def __init__(self, hand, num_instances=2):
        super().__init__(hand(num_instances, pd=True))
        self.fleet.settings["first_from_decode"] = 1

    def send(self, input_tokens=1000, output_tokens=100, *, at_s=0.0, hidden=False):
        """Let a request arrive and return its number, its prefill instance and that foreseen to decode."""
        r = self.arrive(input_tokens, output_tokens, at_s=at_s, hidden=hidden)
        record = self.fleet.requests[r]
        assert [a for a in self.filled.actions() if a[0] == DISPATCH] == [(DISPATCH, r, record["instance"])]
        return r, int(record["instance"]), int(record["decode_instance"])

    def see(self, now_s, *news, ended=()):
        """As `LiveHand` does; return what was decided."""
        super().see(now_s, *news, ended=ended)
        return self.filled.actions()

    def stage(self, r):
        """Return where a request is."""
        return int(self.fleet.requests["stage"][r])

    def at(self, i, *names):
        """Return these counters of an instance."""
        return tuple(self.fleet.instances[name][i] for name in names)

    def check_empty(self):
        """Nothing is believed to be anywhere, and all is in the pool."""
        super().check_empty()
        assert not self.streams.num_transfers[0]
        assert self.fleet.group_size[-1] == len(self.fleet.instances)


@pytest.fixture
def apart(hand):
    """Return a fleet of two."""
    return Apart(hand)


def test_an_answered_prefill_is_sent_on_and_decodes_when_its_kv_is_there(apart):
    """I17: answered at 15 ms, there at 16; the first token at 21.11 ms comes of the iteration that began then."""
    r, p, d = apart.send()
    assert apart.see(0.015, (r, 1)) == [(TRANSFER, r, d)]
    assert apart.stage(r) == TRANSFERRING
    assert apart.at(p, "iteration", "kv_tokens", "num_own") == (1, 1000, 1)
    assert apart.at(d, "kv_tokens", "num_residents") == (0, 1)
    apart.tick(0.0159)
    assert apart.stage(r) == TRANSFERRING
    apart.tick(0.0161)
    assert apart.stage(r) == DECODING
    assert apart.at(p, "kv_tokens", "committed_tokens") == (0, 0)
    assert apart.at(d, "iteration", "num_decodes", "kv_tokens") == (0, 1, 1000)
    assert apart.fleet.instances["iteration_end_s"][d] == pytest.approx(0.016 + 0.00511)
    apart.see(0.02111, (r, 1))
    assert apart.at(d, "iteration", "kv_tokens") == (1, 1001)
    apart.see(0.026, (r, 1), ended=[(r, 2)])
    apart.check_empty()


def test_tokens_show_that_kv_came_sooner_than_foreseen(apart):
    """I17: a first token at 15.5 ms: its KV must have been there; one iteration has ended."""
    r, p, d = apart.send()
    apart.see(0.015, (r, 1))
    apart.see(0.0155, (r, 1))
    assert apart.stage(r) == DECODING
    assert apart.at(p, "kv_tokens") == (0,)
    assert apart.at(d, "iteration", "num_decodes", "kv_tokens") == (1, 1, 1001)
    assert apart.streams.slowness_ratio[d] == 1.0, "nobody knows when that iteration began"


def test_a_newcomer_joins_after_the_iteration_that_runs(apart):
    """I17: the second request's KV comes while an iteration runs: that one is not its, the next one is."""
    first, _, d = apart.send()
    apart.see(0.015, (first, 1))
    apart.tick(0.016)
    second, _, other = apart.send(at_s=0.0161)
    assert other == d
    apart.see(0.0312, (second, 1), (first, 3))
    apart.tick(0.0323)
    assert apart.at(d, "iteration", "num_decodes") == (3, 2)
    apart.see(0.0363, (first, 1))  # the end of the one that ran
    assert apart.fleet.requests["start_iteration"][second] == apart.at(d, "iteration")[0] == 4
    apart.see(0.0415, (first, 1), (second, 1))
    assert apart.at(d, "iteration") == (5,)
    assert apart.at(d, "kv_tokens") == (1000 + 5 + 1000 + 1,)


def test_long_prompts_show_their_end_only(apart):
    """I17: 6,000 tokens take iterations of 50 and 20.1 ms: the first passes by forecast, the answer ends the other."""
    r, p, _ = apart.send(6000)
    apart.tick(0.051)
    assert apart.at(p, "iteration", "busy") == (1, 1)
    apart.tick(0.2)
    assert apart.at(p, "iteration", "busy") == (1, 1), "its end will be shown"
    apart.see(0.2, (r, 1))
    assert (apart.stage(r), apart.at(p, "iteration")) == (TRANSFERRING, (2,))


def test_a_prompt_that_was_to_end_and_was_not_answered_waits_still(apart):
    """I17: two prompts were believed to be in an iteration; one is answered, so the other is in the next."""
    first, p, _ = apart.send()
    apart.tick(0.001)
    second, same, _ = apart.send(at_s=0.002)
    assert same == p
    apart.see(0.015, (first, 1))
    third, _, _ = apart.send(500, at_s=0.016)
    apart.see(0.031, (second, 1))
    assert (apart.stage(third), apart.at(p, "num_queued")) == (QUEUED, (1,))
    assert apart.at(p, "queued_tokens", "chunk") == (0, 500)


def test_a_request_that_is_not_streamed_passes_by_forecast(apart):
    """I17: its prefill's answer shows all the same; then nothing does before its end, and time goes on."""
    r, p, d = apart.send(hidden=True)
    apart.tick(0.1)
    assert (apart.stage(r), apart.at(p, "iteration")) == (QUEUED, (0,)), "the answer will tell"
    apart.see(0.1, (r, 1))
    apart.tick(0.12)
    assert (apart.stage(r), apart.at(d, "iteration")) == (DECODING, (3,))
    apart.see(0.3, ended=[(r, 30)])
    apart.check_empty()


def test_an_end_before_its_kv_was_foreseen_leaves_nothing(apart):
    """I17: not streamed, and over while it was believed to be on the way."""
    r, _, _ = apart.send(hidden=True)
    apart.see(0.015, (r, 1))
    apart.see(0.0155, ended=[(r, 1)])
    assert apart.stage(r) == DONE
    apart.check_empty()


@pytest.mark.parametrize("stage", [QUEUED, TRANSFERRING, DECODING])
def test_a_request_that_is_over_leaves_both_sides(apart, stage):
    """I17: wherever it is: nothing is believed of it at either instance, and both go back to the pool."""
    r, _, _ = apart.send()
    if stage != QUEUED:
        apart.see(0.015, (r, 1))
    if stage == DECODING:
        apart.tick(0.017)
    assert apart.stage(r) == stage
    live_gone(POLYSERVE, apart.streams.handle, r, 0.02)
    apart.check_empty()


def test_kv_goes_elsewhere_when_the_instance_foreseen_is_closed(hand):
    """I17: a third instance is claimed where nobody else decodes; where there is none, the closed one is tried."""
    apart = Apart(hand, 3)
    r, _, d = apart.send()
    live_close(POLYSERVE, apart.streams.handle, d, UNHEALTHY, 0.01)
    apart.filled.actions()
    sent = [action for action in apart.see(0.015, (r, 1)) if action[0] == TRANSFER]
    assert sent[0][2] not in (d, int(apart.fleet.requests["instance"][r]))
    alone = Apart(hand, 2)
    r, _, d = alone.send()
    live_close(POLYSERVE, alone.streams.handle, d, UNHEALTHY, 0.01)
    alone.filled.actions()
    assert (TRANSFER, r, d) in alone.see(0.015, (r, 1))
