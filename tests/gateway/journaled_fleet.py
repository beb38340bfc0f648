"""A virtual fleet whose decider keeps a journal, with clients that leave and instances that fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from virtual_fleet import VirtualFleet

from polyslo.core.state import DISPATCH, REFUSE, RELEGATE, TRANSFER, UNHEALTHY, WITHDRAW
from polyslo.gateway.journal.blocks import RECORDS, encode_block
from polyslo.gateway.journal.files import JournalFiles
from polyslo.gateway.journal.head import JournalHead
from polyslo.gateway.journal.journal import Journal
from polyslo.gateway.journal.records import OUTCOMES, Outcome
from polyslo.gateway.journal.shadow import Shadow
from polyslo.gateway.journal.state import Arrays, capture
from polyslo.gateway.journal.writer import opening_bytes
from polyslo.sim.fleet import FleetConfig
from polyslo.sim.setting import Setting
from polyslo.workload.workload import Workload

FLUSH_S = 0.25
GATHER_S, DELAY_S = 0.002, 0.001  # as a served model has them


@cache
def setting(num_instances: int = 3) -> Setting:
    """Return what the tests serve."""
    return Setting.of(instances=num_instances)


def workload(rate_rps: float = 150.0, duration_s: float = 4.0, *, pause_s: float = 0.0) -> Workload:
    """Draw some hundreds of requests: too many for the fleet at first. Half of them come after a pause."""
    load = setting().workload(rate_rps, 0, duration_s=duration_s)
    later = np.arange(len(load)) >= len(load) // 2
    return replace(load, arrival_s=load.arrival_s + np.where(later, pause_s, 0.0))


class JournaledFleet(VirtualFleet):
    """Serves a workload and writes a journal of it to `path`; every record in virtual time."""

    def __init__(
        self,
        path: Path,
        load: Workload,
        *,
        policy: str = "polyserve",
        num_instances: int = 3,
        num_records: int = 512,
        cancelled_share: float = 0.0,
        failures: Sequence[tuple[float, int]] = (),
        rotations_s: Sequence[float] = (),
        shadow: str | None = None,
        hidden: bool = False,
        mode: str = "co",
    ) -> None:
        config = FleetConfig(num_instances=num_instances, mode=mode, first_from_decode=mode == "pd")
        super().__init__(
            load,
            setting().named.profile,
            policy=policy,
            config=config,
            num_records=num_records,
            hidden=hidden,
        )
        self.decider.delay_s = DELAY_S
        self.journal = self.decider.recorder = Journal()
        self.journal.is_open = True
        self.files = JournalFiles(path, keep=100)
        self.final: Arrays = {}
        self.num_sent = 0
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self._arrived: dict[int, Any] = {}
        self._where: dict[int, int] = {}
        self._relegated: set[int] = set()
        self._random = np.random.default_rng(5)
        self._cancelled_share = cancelled_share
        self.shadow = Shadow(shadow, self.decider) if shadow else None
        self._head = JournalHead(
            policy=policy,
            fleet=asdict(config),
            num_records=num_records,
            profile="llama",
            shadow=shadow,
            run="a run",
        )
        for at_s, i in failures:
            self.clock.call_at(at_s, lambda i=i: self._fail(i))
            self.clock.call_at(at_s + 1.0, lambda i=i: self.decider.open(i, self.clock.now_s()))
        for at_s in rotations_s:
            self.clock.call_at(at_s, self._begin)
        self.clock.call_at(FLUSH_S, self._flush)
        self._begin()

    def run(self) -> None:
        """Serve everything, and complete the journal."""
        super().run()
        self._write()
        self.files.end()
        self.final = capture(self.decider)

    def _begin(self) -> None:
        self._write()
        now_s = self.clock.now_s()
        self._head = replace(self._head, sequence=self._head.sequence + 1, began_s=now_s, began_unix_s=1e9 + now_s)
        self.files.begin(opening_bytes(self._head, capture(self.decider)))

    def _write(self) -> None:
        records, count = self.journal.take()
        if count:
            self.files.append(encode_block(RECORDS, records))

    def _flush(self) -> None:
        self._write()
        if np.isnan(self.last_s).any():
            self.clock.call_at(self.clock.now_s() + FLUSH_S, self._flush)

    def _arrive(self, k: int) -> None:
        super()._arrive(k)
        if self._random.random() < self._cancelled_share:
            self.clock.call_at(self.clock.now_s() + 3 * self._random.random(), lambda: self._cancel(k))

    def _submit(self, k: int, r: int, request: Any, now_s: float) -> None:
        self._arrived[k] = request
        choice = self.shadow.choose(r, request, now_s) if self.shadow else None
        if self.shadow:
            self.journal.shadowed(r, choice)
        self.decider.arrive(r, request, now_s)
        if self.shadow:
            self.shadow.compare(r, choice)

    def _carry_out(self, kind: int, r: int, i: int) -> None:
        if r >= 0 and r not in self.requests:
            return  # it ended, or its client left, and the decider does not know yet
        if r in self._where and self._seen[self.requests[r]]:  # as in a served model: its client has had some of it
            if kind == WITHDRAW:
                self.decider.stay(r, i)
            return
        super()._carry_out(kind, r, i)
        if kind == DISPATCH:
            self._where[r] = i
            self.num_sent += 1
        elif kind == TRANSFER:
            self._where[r] = i
        elif kind == WITHDRAW:
            self._where.pop(r)
        elif kind == RELEGATE:
            self._relegated.add(self.requests[r])
        elif kind == REFUSE:
            self.decider.release(r)
            self._end(r, self.requests.pop(r), "refused")

    def _token(self, r: int, k: int, is_last: bool) -> None:
        super()._token(r, k, is_last)
        if is_last:
            self._where.pop(r)
            self._end(r, self.requests.pop(r), "missed" if self.late[k] else "attained")

    def _digest(self) -> None:
        self.clock.call_at(self.clock.now_s() + GATHER_S, super()._digest)

    def _cancel(self, k: int) -> None:
        held = [r for r, of in self.requests.items() if of == k]
        if held and np.isnan(self.last_s[k]):
            self._end(held[0], self._stop(held[0]), "cancelled")

    def _fail(self, i: int) -> None:
        """An instance is gone: it is closed, and what it was at fails, or arrives again where nothing was sent."""
        self.decider.close(i, UNHEALTHY, self.clock.now_s())
        for r in [r for r, at in self._where.items() if at == i]:
            if r not in self.requests:
                continue  # gone while another one's end was decided about
            k = self._stop(r)
            if self._seen[k]:
                self._end(r, k, "failed")
                continue
            again = self.decider.enter()
            self.requests[again] = k
            self._submit(k, again, self._arrived[k], self.clock.now_s())

    def _stop(self, r: int) -> int:
        k = self.requests.pop(r)
        if self._where.pop(r, None) is not None:
            if r in self.fetches:
                self.fetches.pop(r).cancel()
            if r in self.held:
                self._let_go(r, k)
            else:
                self.engines[self.host[r]].abort(self.resident.pop(r))
        self.decider.lose(r, self.clock.now_s())
        return k

    def _end(self, r: int, k: int, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if outcome in ("refused", "cancelled", "failed"):
            self.late[k], self.last_s[k] = True, self.clock.now_s()
        request, num_seen = self._arrived[k], int(self._seen[k])
        self.journal.ended(
            Outcome(
                r=r,
                outcome=outcome,
                is_relegated=k in self._relegated,
                tier=request.tier,
                num_tries=1,
                prompt_tokens=request.input_tokens,
                output_tokens=num_seen,
                arrival_s=request.arrival_s,
                ttft_s=request.ttft_s,
                first_s=float(self.first_s[k]) if num_seen else 0.0,
                last_s=float(self.last_s[k]) if num_seen else 0.0,
            )
        )
