"""Synthetic evaluations: whatever shares of the fluid optimum a test asks for, with tables of the usual form."""

from __future__ import annotations

import math
import random

from polyslo.claims.cases import MODES, OURS, TARGETS, WORKLOADS
from polyslo.claims.disturbances import COLD_STARTS_S, disturbances
from polyslo.claims.machine import Machine
from polyslo.claims.mechanisms import INSTEAD
from polyslo.claims.results import Ablation, Cell, Claims, ColdStart, CostWithout, Disturbed, Load, TierRow, Tried
from polyslo.claims.shown import ShownRuns
from polyslo.claims.work import Misses
from polyslo.sim.results import GoodputResult, RunResult, TierResult, Timeline
from polyslo.sim.statistics import confidence_interval

TPOTS_MS = (20.0, 30.0, 50.0, 100.0)
OPTIMUM_RPS = 400.0
MACHINE = Machine("Some CPU 9000", 8, 31.4, "x86_64", "3.11.7")
BASELINES = {
    "static-tiers": 0.0, "chunk:chunk=1024": 0.06, "slo-least-load:chunk=1024": 0.02, "lmetric:chunk=512": 0.08,
    "minimal": 0.2, "round-robin": 0.3, "random": 0.45,
}  # fmt: skip  # policy -> how far behind the best baseline

Shares = tuple[float, float]  # of the fluid optimum, at 0.99 and 0.90


def synthetic_claims(
    *cells: Cell,
    is_quick: bool = False,
    disturbed: tuple[Disturbed, ...] = (),
    cold_starts: tuple[ColdStart, ...] = (),
) -> Claims:
    """Wrap cells."""
    return Claims(
        cells=cells,
        disturbed=disturbed,
        cold_starts=cold_starts,
        targets=TARGETS,
        seeds=(0, 1, 2),
        is_quick=is_quick,
        num_unablated=0,
        num_undisturbed=0,
        profile="some-model-some-gpu",
        num_instances=20,
        date="2026-01-02",
        machines=(MACHINE,),
        version="9.8.7",
        took_s=5400.0,
    )


def synthetic_cell(
    workload: str = "sharegpt",
    mode: str = "co",
    *,
    ours: Shares = (0.97, 1.15),
    best: Shares = (0.78, 0.90),
    spread: float = 0.004,
    cost: float = 1.05,
    attainment: float = 0.995,
    without: dict[str, Shares] | None = None,
    owned_without: dict[str, tuple[float, float]] | None = None,
    misses: Misses | None = None,
    is_quick: bool = False,
) -> Cell:
    """Build a cell from polyserve's and the best baseline's shares of the fluid optimum.

    `cost` is instances over the fluid need at every load; `without` gives the change of goodput by mechanism, and
    `owned_without` the change of instances owned and the attainment (elsewhere nothing changes).
    """
    shares = {OURS: ours} | {p: (best[0] - d * best[0], best[1] - d * best[1]) for p, d in BASELINES.items()}
    goodputs = [
        _goodput(policy, target, share * OPTIMUM_RPS, spread * OPTIMUM_RPS)
        for policy, pair in shares.items()
        for target, share in zip(TARGETS, pair, strict=True)
    ]
    tried = tuple(_tried(policy, pair) for policy, pair in shares.items())
    changes = dict.fromkeys(INSTEAD, (0.0, 0.0)) | (without or {})
    return Cell(
        workload=workload,
        mode=mode,
        optimum_rps=OPTIMUM_RPS,
        duration_s=120.0,
        tpots_ms=TPOTS_MS,
        raised_ratio=0.0123,
        goodputs=tuple(goodputs),
        tuned=tried,
        tried=tried,
        loads=tuple(_load(s, attainment, cost) for s in (0.2, 0.4, 0.6, 0.8)),
        misses=misses,
        tiers=tuple(TierRow(policy, (0.99, 0.995, 0.991, 1.0)) for policy in shares),
        ablations=()
        if is_quick
        else tuple(
            Ablation(name, tuple(s * OPTIMUM_RPS * (1 + d) for s, d in zip(ours, change, strict=True)))
            for name, change in changes.items()
        ),
        costs=() if is_quick else _costs(attainment, cost, owned_without or {}),
    )


def full_claims() -> Claims:
    """Build an evaluation of the real one's size, with recorded arrivals and every disturbance."""
    draw = random.Random(5)
    recorded = ("azure2023_code, recorded", "mooncake_conversation, recorded")
    cells = []
    for mode in MODES:
        for workload in (*WORKLOADS, *recorded):
            best = draw.uniform(0.75, 0.95)
            cells.append(
                synthetic_cell(
                    workload,
                    mode,
                    ours=(best * draw.uniform(0.99, 1.15), best * draw.uniform(1.15, 1.4)),
                    best=(best, best * draw.uniform(1.02, 1.1)),
                    spread=draw.uniform(0.002, 0.012),
                    cost=draw.uniform(1.02, 1.3),
                    attainment=draw.uniform(0.988, 1.0),
                    without={name: (-draw.random() / 20, -draw.random() / 8) for name in list(INSTEAD)[::2]},
                )
            )
    return synthetic_claims(*cells, disturbed=synthetic_disturbed(), cold_starts=synthetic_cold_starts())


def synthetic_disturbed() -> tuple[Disturbed, ...]:
    """Build every disturbance, with polyserve ahead."""
    return tuple(
        Disturbed(
            topic=level.topic,
            level=level.level,
            mode=mode,
            optimum_rps=OPTIMUM_RPS,
            policies=(OURS, "static-tiers", "slo-least-load:chunk=1024"),
            rates_rps=((380.0, 440.0), (330.0, 360.0), (300.0, 350.0)),
        )
        for mode in MODES
        for level in disturbances(mode)
    )


def synthetic_cold_starts() -> tuple[ColdStart, ...]:
    """Build a light load where requests are late with 120 s, disaggregated, and more is warm the longer starts take."""
    return tuple(
        ColdStart(mode, start_s, 0.875 if mode == "pd" and start_s > 100 else 0.995, 7 + start_s / 60, start_s / 60, 6)
        for mode in MODES
        for start_s in COLD_STARTS_S
    )


def synthetic_run() -> RunResult:
    """Build a run whose tiers grow and shrink."""
    tiers = tuple(TierResult(t, 100, 99, 1, 0, 0, 0, 0.1, 0.3, 0.02, 0.02, 100.0) for t in TPOTS_MS)
    samples = range(60)
    sizes = [[2 + k + round(2 * math.sin(i / 9 + k)) for i in samples] for k in range(4)]
    return RunResult(
        policy=OURS,
        mode="co",
        profile="some-model-some-gpu",
        workload="azure2023-conv",
        rate_rps=250.0,
        seed=0,
        num_instances=20,
        span_s=60.0,
        tiers=tiers,
        instance_seconds=1000.0,
        num_iterations=1000,
        num_preemptions=0,
        timeline=Timeline(
            time_s=tuple(map(float, samples)),
            instances=tuple(map(tuple, sizes)),
            idle=tuple(20 - sum(tier[i] for tier in sizes) for i in samples),
            prefill=(0,) * len(samples),
            pending=((0,) * len(samples),) * 4,
            attainment=((1.0,) * len(samples),) * 4,
            loads=tuple(tuple((k, 0.95 - 0.1 * j) for k in range(4) for j in range(sizes[k][i])) for i in samples),
        ),
    )


def winning() -> Claims:
    """Return an evaluation in which every bound holds."""
    cells = [synthetic_cell(mode=mode, ours=(0.97, 1.15), best=(0.78, 0.9)) for mode in MODES]
    return synthetic_claims(*cells)


def losing() -> Claims:
    """Return an evaluation in which no bound of goodput holds: the best baseline is at 92% of the optimum."""
    cells = [synthetic_cell(mode=mode, ours=(0.9, 0.93), best=(0.92, 0.94), cost=1.25) for mode in MODES]
    return synthetic_claims(*cells)


def runs() -> ShownRuns:
    """Stand in for the runs that are shown over time."""
    return ShownRuns(synthetic_run(), synthetic_run())


def _goodput(policy: str, target: float, rate_rps: float, spread_rps: float) -> GoodputResult:
    rates = tuple(max(0.0, rate_rps + side * spread_rps) if rate_rps > 0 else 0.0 for side in (-1, 0, 1))
    return GoodputResult(policy, target, *confidence_interval(rates), rates, OPTIMUM_RPS)


def _load(share: float, attainment: float, cost: float) -> Load:
    """Build a load whose second tier owns all that is above the need."""
    needs = tuple(part * 20 * share for part in (0.1, 0.2, 0.3, 0.4, 0.0))
    owners = (needs[0], needs[1] + (cost - 1) * 20 * share, *needs[2:])
    return Load(share, attainment, cost * 20 * share, 20 * share, owners, needs)


def _costs(attainment: float, cost: float, changes: dict[str, tuple[float, float]]) -> tuple[CostWithout, ...]:
    """Change what is owned at 40% load; at 80% every mechanism does nothing."""
    found = dict.fromkeys(INSTEAD, (0.0, attainment)) | changes
    return (
        CostWithout(0.4, None, attainment, 8 * cost),
        *(CostWithout(0.4, name, attained, (1 + change) * 8 * cost) for name, (change, attained) in found.items()),
        *(CostWithout(0.8, name, attainment, 16 * cost) for name in (None, *INSTEAD)),
    )


def _tried(policy: str, shares: Shares) -> Tried:
    strict, loose = (share * OPTIMUM_RPS for share in shares)
    seen = ((0.94 * strict, 0.997), (strict, 0.99), ((strict + loose) / 2, 0.95), (loose, 0.9), (1.1 * loose, 0.7))
    return Tried(policy, (strict, loose), seen if strict > 0 else ((8.0, 0.4),))
