"""A live decider before emulated engines, in virtual time: the gateway without its bytes."""

from __future__ import annotations

import numpy as np

from polyslo.core.fluid import LengthMoments
from polyslo.core.state import DISPATCH, RELEGATE, TRANSFER, WITHDRAW
from polyslo.engines.clock import VirtualClock
from polyslo.engines.emulated_engine import EmulatedEngine, EngineSettings
from polyslo.engines.emulated_world import DECODE_PART, PREFILL_PART, WHOLE
from polyslo.gateway.decider import Decider
from polyslo.gateway.requests.request import Request
from polyslo.sim.fleet import FleetConfig, PolicySpec, build_fleet

TICK_S = 0.005


class VirtualFleet:
    """N engines and the decider that feeds them; tokens are held against their deadlines as clients would."""

    def __init__(
        self, workload, profile, *, policy="polyserve", num_instances=4, num_records=4096, hidden=False, config=None
    ):
        self.clock = VirtualClock()
        self.workload, self.hidden = workload, hidden
        spec, config = PolicySpec.parse(policy), config or FleetConfig(num_instances=num_instances)
        tpots_s = np.asarray(workload.tpots_s)
        shares = np.bincount(workload.tier, minlength=len(tpots_s)) / len(workload)
        moments = LengthMoments.of(workload.input_tokens, workload.output_tokens)
        self.fleet = build_fleet(config, spec, profile, tpots_s, shares, moments, num_records)
        self.fleet.num_actions[0] = 0
        chunk = int(self.fleet.settings["chunk_limit"][0])
        settings = EngineSettings(dynamic_chunking=spec.kind.tiers, max_num_batched_tokens=chunk)
        self.engines = [EmulatedEngine(profile, settings, self.clock) for _ in range(config.num_instances)]
        self.decider = Decider(self.fleet, spec.kind.code, self._carry_out)
        self.requests = {}
        self.resident = {}
        self.host = {}
        self.held = {}  # PD: where the KV of a prefilled request is kept
        self.fetches = {}  # PD: the calls that its arrival is
        self.first_s = np.full(len(workload), np.nan)
        self.last_s = np.full(len(workload), np.nan)
        self.late = np.zeros(len(workload), dtype=bool)
        self.relegated = np.zeros(len(workload), dtype=bool)
        self._seen = np.zeros(len(workload), dtype=int)
        self._digests = False

    def run(self):
        """Let everything arrive and end."""
        for k, at_s in enumerate(self.workload.arrival_s.tolist()):
            self.clock.call_at(at_s, lambda k=k: self._arrive(k))
        self.clock.call_at(TICK_S, self._tick)
        self.clock.run()

    @property
    def attainment(self):
        """Share of the requests whose every token was on time."""
        return float(np.mean(~np.isnan(self.last_s) & ~self.late))

    def _tick(self):
        self.decider.tick(self.clock.now_s())
        if np.isnan(self.last_s).any():
            self.clock.call_at(self.clock.now_s() + TICK_S, self._tick)

    def _arrive(self, k):
        w, r = self.workload, self.decider.enter()
        self.requests[r] = k
        request = Request(
            arrival_s=self.clock.now_s(),
            ttft_s=float(w.ttft_s[k]),
            tpot_s=float(w.tpot_s[k]),
            tier=int(w.tier[k]),
            input_tokens=int(w.input_tokens[k]),
            max_tokens=100_000,
            is_streamed=not self.hidden,
        )
        self._submit(k, r, request, self.clock.now_s())

    def _submit(self, k, r, request, now_s):
        self.decider.arrive(r, request, now_s)

    def _carry_out(self, kind, r, i):
        k = self.requests.get(r)
        if kind == RELEGATE:
            self.relegated[k] = True
        has_started = k is not None and self._seen[k] > 0 and not self.hidden
        if kind == WITHDRAW:
            if has_started:  # its client has been sent some of it
                self.decider.stay(r, self.host[r])
            else:
                self.engines[i].abort(self.resident.pop(r))
                self._seen[k] = 0
        if kind == TRANSFER:
            took_s = self.engines[i].transfer_s(int(self.workload.input_tokens[k]))
            arrive_s = self.clock.now_s() + took_s
            self.fetches[r] = self.clock.call_at(arrive_s, lambda r=r, k=k, i=i: self._fetched(r, k, i))
        if kind != DISPATCH or has_started:
            return
        self.host[r] = i
        hands_over = bool(self.fleet.requests["hands_over"][r])
        output_tokens = 1 if hands_over else int(self.workload.output_tokens[k])
        hear = self._prefilled if hands_over else self._token
        self.resident[r] = self.engines[i].submit(
            int(self.workload.input_tokens[k]),
            output_tokens,
            lambda last, r=r, k=k: hear(r, k, last),
            part=PREFILL_PART if hands_over else WHOLE,
            **self._told(k, i),
        )

    def _told(self, k, i):
        w, pace_s = self.workload, float(self.fleet.instances["budget_s"][i])
        return {
            "first_due_in_s": w.arrival_s[k] + w.ttft_s[k] - self.clock.now_s(),
            "tpot_s": float(w.tpot_s[k]),
            "pace_s": pace_s if np.isfinite(pace_s) else None,
        }

    def _prefilled(self, r, k, is_last):
        """PD: a prefill is answered; its KV waits for whoever the decider sends the request to."""
        self.resident.pop(r)
        self.held[r] = self.host[r]
        self.decider.saw_tokens(r, 1, self.clock.now_s())
        self._digest_soon()

    def _fetched(self, r, k, i):
        del self.fetches[r]
        self.host[r] = i
        self.resident[r] = self.engines[i].submit(
            int(self.workload.input_tokens[k]),
            int(self.workload.output_tokens[k]),
            lambda last: self._token(r, k, last),
            part=DECODE_PART,
            **self._told(k, i),
        )
        self._let_go(r, k)

    def _let_go(self, r, k):
        self.engines[self.held.pop(r)].let_go(int(self.workload.input_tokens[k]))

    def _token(self, r, k, is_last):
        now_s, w = self.clock.now_s(), self.workload
        if self._seen[k] == 0:
            self.first_s[k] = now_s
        if now_s > w.arrival_s[k] + w.ttft_s[k] + self._seen[k] * w.tpot_s[k] + 1e-6:
            self.late[k] = True
        self._seen[k] += 1
        if not self.hidden:
            self.decider.saw_tokens(r, 1, now_s)
        if is_last:
            self.last_s[k] = now_s
            self.resident.pop(r, None)
            self.decider.saw_end(r, int(self._seen[k]), now_s)
        self._digest_soon()

    def _digest_soon(self):
        if not self._digests:
            self._digests = True
            self.clock.call_at(self.clock.now_s(), self._digest)

    def _digest(self):
        self._digests = False
        self.decider.digest(self.clock.now_s())
