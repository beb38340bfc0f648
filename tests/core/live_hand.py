"""A fleet filled by hand, and what its streams show: what tests of co-located and of disaggregated ones share."""

from __future__ import annotations

from polyslo.core.streams import new_streams
from polyslo.policies.live import live_arrival, live_digest, live_tick
from polyslo.policies.table import POLYSERVE

COUNTERS = ("num_residents", "num_decodes", "num_own", "num_queued", "queued_tokens", "decode_kv_tokens", "kv_tokens",
            "committed_tokens", "busy")  # fmt: skip


class LiveHand:
    """Requests that arrive, and news of them, under the policy `polyserve`."""

    def __init__(self, filled):
        self.filled = filled
        self.fleet = filled.fleet
        self.streams = new_streams(self.fleet, num_news=16)
        self.count = 0

    def arrive(self, input_tokens, output_tokens, *, at_s, ttft_s=0.5, tier=1, hidden=False, without_slo=False):
        """Let a request arrive whose length is expected right; return its number."""
        r, self.count = self.count, self.count + 1
        self.fleet.requests["expected_tokens"][r] = output_tokens
        live_arrival(POLYSERVE, self.streams.handle, r, at_s, at_s + ttft_s, float(self.fleet.tpots_s[tier]), tier,
                     input_tokens, 10_000, 0, hidden, without_slo, at_s)  # fmt: skip
        return r

    def see(self, now_s, *news, ended=()):
        """Digest (request, tokens) and, of streams that ended, (request, output tokens)."""
        for k, row in enumerate(news):
            self.streams.news[k] = row
        for k, row in enumerate(ended):
            self.streams.ended[k] = row
        live_digest(POLYSERVE, self.streams.handle, len(news), len(ended), now_s, 0.0, now_s)

    def tick(self, now_s):
        """Let time pass."""
        live_tick(POLYSERVE, self.streams.handle, now_s)

    def check_empty(self):
        """Nothing is believed to be anywhere."""
        for name in COUNTERS:
            assert not self.fleet.instances[name].any(), name
