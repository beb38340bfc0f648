"""The SLO mixes that have a name, in the words of a mix file; `slo` explains and reads them."""

from __future__ import annotations

from typing import Any


def _moving(drift: str, how: str) -> dict[str, Any]:
    """Return the default mix, whose shares turn round."""
    later = zip((20, 30, 50, 100), (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1), strict=True)
    return {
        "source": f"ours: the default mix, whose shares turn round {how}",
        "ttft_ms": [300, 500, 1000],
        "drift": drift,
        "tiers": {f"tpot-{ms}": {"tpot_ms": ms, "share": now, "share_later": then} for ms, now, then in later},
    }


def _even(*tpots_ms: float) -> dict[str, Any]:
    """Return a mix of tiers with equal shares."""
    return {
        "source": "ours: as many tiers from 20 to 100 ms, in equal ratios and shares; TTFTs as in the default mix",
        "ttft_ms": [300, 500, 1000],
        "tiers": {f"tpot-{ms:g}": {"tpot_ms": ms, "share": 1 / len(tpots_ms)} for ms in tpots_ms},
    }


MIXES: dict[str, dict[str, Any]] = {
    "default": {
        "source": "PolyServe, arXiv:2507.17769: the evaluation's four tiers and three TTFTs",
        "ttft_ms": [300, 500, 1000],
        "tiers": {
            "tpot-20": {"tpot_ms": 20, "share": 0.1},
            "tpot-30": {"tpot_ms": 30, "share": 0.2},
            "tpot-50": {"tpot_ms": 50, "share": 0.3},
            "tpot-100": {"tpot_ms": 100, "share": 0.4},
        },
    },
    "two-tier": {
        "source": "ours: the smallest mix in which tiers matter",
        "ttft_ms": [500],
        "tiers": {
            "interactive": {"tpot_ms": 30, "share": 0.5},
            "relaxed": {"tpot_ms": 100, "share": 0.5},
        },
    },
    "single": {
        "source": "ours: one class of service, where tiers can't help",
        "ttft_ms": [500],
        "tiers": {"all": {"tpot_ms": 50, "share": 1.0}},
    },
    "catalog": {
        "source": "kubernetes-sigs/inference-perf workload catalog (Apache-2.0); the shares are ours",
        "tiers": {
            "chat": {"tpot_ms": 50, "share": 0.5, "ttft_ms": [1000]},
            "reasoning": {"tpot_ms": 100, "share": 0.2, "ttft_ms": [2000]},
            "deep-research": {"tpot_ms": 100, "share": 0.05, "ttft_ms": [10000]},
            "code-generation": {"tpot_ms": 100, "share": 0.15, "ttft_ms": [30000]},
            "batch-rag": {"tpot_ms": 150, "share": 0.1, "ttft_ms": [15000]},
        },
    },
    "continuous": {
        "source": "ours: callers ask for TPOTs of their own, hardly two the same, so that tiers must be learned bins; "
        "TTFTs as in the default mix",
        "ttft_ms": [300, 500, 1000],
        "tiers": {
            "voice": {"tpot_ms": {"from": 20, "to": 30}, "share": 0.1},
            "chat": {"tpot_ms": {"from": 30, "to": 60}, "share": 0.5},
            "report": {"tpot_ms": {"from": 60, "to": 200}, "share": 0.4},
        },
    },
    "drifting": _moving("linear", "while the trace runs"),
    "flipping": _moving("flip", "in its middle"),
    "tiers-2": _even(20, 100),
    "tiers-3": _even(20, 45, 100),
    "tiers-6": _even(20, 28, 38, 53, 72, 100),
    "tiers-8": _even(20, 25, 32, 40, 50, 63, 79, 100),
}
