"""A made-up gateway state that moves with time: what the live page is developed and tested with.

Everything is a function of the moment, so that two calls agree and a history is the same function earlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from math import pi, sin
from typing import Any

BIN_S = 5.0
NUM_BINS = 60
EVENT_EVERY_S = 2.0
TPOTS_MS = (20.0, 30.0, 50.0, 100.0)
DECODES_AT_FULL = (40, 70, 130, 260)
TEXTS = {
    "scale_up": "claimed from the pool: a request was pending that nobody could take",
    "scale_down": "went back to the pool: it holds no request any more",
    "promotion": "taken by a tighter tier: its own refused it everywhere",
    "relegation": "its first token can no longer be in time",
    "refusal": "429: its SLO cannot be met before its deadline",
    "unhealthy": "did not answer three health checks",
    "recovered": "answers health checks again",
    "take_over": "taken from the tier that owns most: the pool is empty",
}
KINDS = ("scale_up", "promotion", "promotion", "scale_down", "relegation", "promotion", "take_over", "refusal")

Json = dict[str, Any]


def chance(*parts: object) -> float:
    """Give a number in [0, 1) that depends on the parts alone."""
    digest = blake2b(repr(parts).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


@dataclass(frozen=True, slots=True)
class SyntheticFleet:
    """A fleet of `num_instances`; `has_traffic` is False for one that nobody has used yet."""

    num_instances: int
    has_traffic: bool = True
    mode: str = "co"
    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    started_unix_s: float = 1_800_000_000.0

    def state(self, unix_s: float) -> Json:
        """Make the snapshot of one moment."""
        tiers = [self._tier(tier, unix_s) for tier in range(len(TPOTS_MS))]
        instances = list(self._instances(unix_s))
        in_flight = sum(tier["num_running"] + tier["num_pending"] for tier in tiers)
        rps = sum(tier["rps"] for tier in tiers)
        num_requests = int(self._load(0, unix_s) * 1e5) if self.has_traffic else 0
        return {
            "now_unix_s": unix_s,
            "version": "0.1.0",
            "uptime_s": unix_s - self.started_unix_s,
            "policy": "polyserve",
            "mode": self.mode,
            "model": self.model,
            "models": [{"name": self.model, "profile": "llama-3.1-8b-h200"}],
            "tiers": tiers,
            "pool": {
                "num_idle": sum(i["group"] == "idle" for i in instances),
                "num_unhealthy": sum(i["group"] == "unhealthy" for i in instances),
            },
            "best_effort": {"num_running": 3 if self.has_traffic else 0, "num_waiting": 0},
            "instances": instances,
            "events": list(self._events(unix_s)),
            "totals": {
                "requests": num_requests,
                "attained": int(num_requests * 0.992),
                "missed": int(num_requests * 0.006),
                "refused": int(num_requests * 0.002),
                "failed": 0,
                "in_flight": in_flight,
                "tokens_per_s": rps * 212.0,
            },
            "requests": list(self._requests(unix_s)),
        }

    def story(self, request_id: str, unix_s: float) -> Json | None:
        """Tell a story: an id that ends in 0 missed, in 5 still pends, in 7 had no SLO; None for ids never given."""
        if not request_id.startswith("req-") or not self.has_traffic:
            return None
        tier = int(chance(request_id, "tier") * len(TPOTS_MS))
        is_late = request_id.endswith("0")
        arrived_s = unix_s - 30.0
        wait_s = 0.18 if is_late else 0.04
        ttft_s = 0.58 if is_late else 0.31
        tokens = [
            (0.08 if is_late else -0.19) - 0.002 * i * chance(tier, "pace") + 0.03 * sin(i / 9) for i in range(200)
        ]
        refusals = [
            {
                "unix_s": arrived_s,
                "kind": "refused_by",
                "instance": i,
                "reason": ("first_token", "memory")[i % 2],
                "text": "",
            }
            for i in range(min(5, self.num_instances))
        ]
        if request_id.endswith("5"):
            return self._pending_story(request_id, tier, unix_s)
        if request_id.endswith("7"):
            return self._best_effort_story(request_id, arrived_s)
        return {
            "id": request_id,
            "tier": tier,
            "slo": {"ttft_ms": 500.0, "tpot_ms": TPOTS_MS[tier]},
            "input_tokens": 1834,
            "output_tokens": 412,
            "is_streamed": True,
            "outcome": "missed" if is_late else "attained",
            "attained": not is_late,
            "steps": [
                {"unix_s": arrived_s, "kind": "arrived", "text": "with 1,834 tokens of prompt"},
                *refusals,
                {"unix_s": arrived_s + 0.001, "kind": "pended", "rung": "pend", "text": "the pool is empty"},
                {
                    "unix_s": arrived_s + wait_s,
                    "kind": "placed",
                    "instance": 0,
                    "rung": "own tier",
                    "predicted_ttft_s": 0.34,
                    "predicted_tpot_s": TPOTS_MS[tier] * 0.9e-3,
                    "text": "when a resident ended",
                },
                {"unix_s": arrived_s + ttft_s, "kind": "first_token", "instance": 0, "text": ""},
                {
                    "unix_s": arrived_s + 22.4,
                    "kind": "missed" if is_late else "attained",
                    "instance": 0,
                    "text": "412 tokens",
                },
            ],
            "tokens": tokens,
        }

    def _best_effort_story(self, request_id: str, arrived_s: float) -> Json:
        steps = (("arrived", 0.0), ("placed", 2.0), ("placed", 9.0), ("first_token", 2.2), ("served", 20.0))
        return {
            "id": request_id,
            "tier": None,
            "slo": None,
            "input_tokens": 1834,
            "output_tokens": 412,
            "is_streamed": True,
            "outcome": "served",
            "attained": None,
            "steps": [{"unix_s": arrived_s + at_s, "kind": kind, "text": ""} for kind, at_s in steps],
            "tokens": [],
        }

    def _pending_story(self, request_id: str, tier: int, unix_s: float) -> Json:
        return {
            "id": request_id,
            "tier": tier,
            "slo": {"ttft_ms": 500.0, "tpot_ms": TPOTS_MS[tier]},
            "input_tokens": 96,
            "output_tokens": 0,
            "is_streamed": True,
            "outcome": None,
            "attained": None,
            "steps": [
                {"unix_s": unix_s - 0.3, "kind": "arrived", "text": "with 96 tokens of prompt"},
                {"unix_s": unix_s - 0.299, "kind": "pended", "rung": "pend", "text": "the pool is empty"},
            ],
            "tokens": [],
        }

    def _load(self, tier: int, unix_s: float) -> float:
        """Wish of a tier for the fleet, as a share; all tiers together stay below 0.95."""
        if not self.has_traffic:
            return 0.0
        share = (0.10, 0.20, 0.28, 0.24)[tier]
        return share * (1 + 0.16 * sin(2 * pi * unix_s / (140 + 37 * tier) + tier))

    def _owned(self, unix_s: float) -> list[int]:
        usable = self.num_instances - self._num_unhealthy() - self._num_prefill()
        wanted = [round(self._load(tier, unix_s) * usable + 0.3 * self.has_traffic) for tier in range(len(TPOTS_MS))]
        for tier in range(len(TPOTS_MS)):  # a small fleet cannot give every tier one
            wanted[tier] = min(wanted[tier], usable - sum(wanted[:tier]))
        return wanted

    def _num_unhealthy(self) -> int:
        return self.num_instances // 150

    def _num_prefill(self) -> int:
        return self.num_instances // 5 if self.mode == "pd" else 0

    def _num_pending(self, tier: int, unix_s: float) -> int:
        swell = sin(2 * pi * unix_s / (90 + 31 * tier) + 2 * tier)
        return (
            int(max(0.0, swell - 0.7) * 0.3 * self.num_instances + 8 * max(0.0, swell - 0.85))
            if self.has_traffic
            else 0
        )

    def _attainment(self, tier: int, unix_s: float) -> float | None:
        if not self.has_traffic:
            return None
        misses = 0.0006 + 0.02 * max(0.0, sin(2 * pi * unix_s / (110 + 23 * tier) + 3 * tier) - 0.55)
        spike = 0.16 if tier == 1 and chance(int(unix_s / 45)) > 0.8 and unix_s % 45 < 15 else 0.0
        return 1 - misses * (0.4 + chance(tier, int(unix_s / BIN_S))) - spike

    def _tier(self, tier: int, unix_s: float) -> Json:
        bins = [BIN_S * (int(unix_s / BIN_S) - age) for age in range(NUM_BINS, 0, -1)]
        history = {
            "attainment": [self._attainment(tier, at) for at in bins],
            "instances": [self._owned(at)[tier] for at in bins],
            "pending": [self._num_pending(tier, at) for at in bins],
            "rps": [self._rps(tier, at) for at in bins],
        }
        known = [value for value in history["attainment"] if value is not None]
        num_owned = self._owned(unix_s)[tier]
        num_pending = self._num_pending(tier, unix_s)
        tpot_s = TPOTS_MS[tier] / 1000
        return {
            "index": tier,
            "tpot_ms": TPOTS_MS[tier],
            "num_instances": num_owned,
            "num_pending": num_pending,
            "oldest_pending_s": 0.08 * num_pending**0.5,
            "num_running": int(num_owned * DECODES_AT_FULL[tier] * 0.7),
            "attainment_1m": sum(known[-12:]) / 12 if known else None,
            "attainment_5m": sum(known) / NUM_BINS if known else None,
            "num_requests_1m": int(self._rps(tier, unix_s) * 60),
            "rps": self._rps(tier, unix_s),
            "ttft_p50_s": 0.12 + 0.05 * tier if known else None,
            "ttft_p99_s": 0.31 + 0.09 * tier if known else None,
            "tpot_p50_s": tpot_s * 0.82 if known else None,
            "tpot_p99_s": tpot_s * (1.04 if tier == 1 else 0.97) if known else None,
            "history": history,
        }

    def _rps(self, tier: int, unix_s: float) -> float:
        return (
            self._load(tier, unix_s) * self.num_instances * 16 * (0.9 + 0.2 * chance(tier, int(unix_s / BIN_S), "rps"))
        )

    def _instances(self, unix_s: float) -> Iterator[Json]:
        index = 0
        for tier, num_owned in enumerate(self._owned(unix_s)):
            for rank in range(num_owned):
                place = (rank + 0.5 + 0.3 * sin(unix_s / 7 + tier)) / num_owned
                load = 0.98 - 0.12 * place - 0.75 * place**6 + 0.03 * sin(unix_s / 3 + 2 * index)
                if rank == 2 and tier == 1:
                    load = 1.09
                yield self._instance(index, "tier", tier, rank, max(0.06, load), unix_s)
                index += 1
        for rank in range(self._num_prefill()):
            yield self._instance(index, "prefill", None, rank, 0.95 - 0.8 * rank / self._num_prefill(), unix_s)
            index += 1
        for rank in range(self._num_unhealthy()):
            yield self._instance(index, "unhealthy", None, rank, 0.0, unix_s)
            index += 1
        for rank in range(self.num_instances - index):
            yield self._instance(index + rank, "idle", None, rank, 0.0, unix_s)

    def _instance(self, index: int, group: str, tier: int | None, rank: int, load: float, unix_s: float) -> Json:
        tpot_s = TPOTS_MS[tier] / 1000 if tier is not None else 0.1
        is_busy = group in ("tier", "prefill")
        return {
            "index": index,
            "name": f"http://gpu-{index // 8:02d}.serving.example:{8000 + index % 8}",
            "group": group,
            "tier": tier,
            "rank": rank,
            "load_ratio": load,
            "slack_s": tpot_s * (1 - load),
            "kv_ratio": min(0.97, load * (0.55 + 0.35 * chance(index, "kv"))) if is_busy else 0.0,
            "num_decodes": int(load * DECODES_AT_FULL[tier or 0]) if is_busy else 0,
            "num_queued": int(3 * chance(index, int(unix_s))) if is_busy else 0,
            "queued_tokens": int(2400 * chance(index, int(unix_s))) if is_busy else 0,
            "iteration_s": load * tpot_s,
            "slowness_ratio": 1.22 if index % 37 == 4 else 0.98 + 0.05 * chance(index, "speed"),
            "since_s": 12.0 + 900 * chance(index, "since"),
        }

    def _events(self, unix_s: float) -> Iterator[Json]:
        if not self.has_traffic:
            return
        newest = int(unix_s / EVENT_EVERY_S)
        for number in range(newest, newest - 120, -1):
            kind = KINDS[int(chance(number) * len(KINDS))]
            is_about_request = kind in ("promotion", "relegation", "refusal")
            yield {
                "unix_s": number * EVENT_EVERY_S,
                "kind": kind,
                "tier": int(chance(number, "tier") * len(TPOTS_MS)),
                "instance": None if kind == "refusal" else int(chance(number, "instance") * self.num_instances),
                "request": self._request_id(number) if is_about_request else None,
                "text": TEXTS[kind],
            }

    def _requests(self, unix_s: float) -> Iterator[Json]:
        if not self.has_traffic:
            return
        newest = int(unix_s)
        for number in range(newest, newest - 40, -1):
            age_s = unix_s - number + 0.05
            stage = "queued" if age_s < 1 else "decoding" if age_s < 30 else "done"
            yield {
                "id": self._request_id(number),
                "tier": int(chance(number, "tier") * len(TPOTS_MS)),
                "stage": stage,
                "instance": int(chance(number, "instance") * self.num_instances),
                "age_s": age_s,
                "emitted_tokens": int(14 * max(0.0, age_s - 1)),
                "slack_s": None if stage == "done" else 0.4 * chance(number, "slack") - 0.01,
            }

    @staticmethod
    def _request_id(number: int) -> str:
        return f"req-{int(chance(number, 'id') * 16**7):07x}{number % 10}"
