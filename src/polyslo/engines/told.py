"""What a request tells its engine about its SLO, in `vllm_xargs`: the gateway's words as an engine reads them.

vLLM hands these to its scheduler untouched, as `sampling_params.extra_args`. The gateway's side is
`polyslo.gateway.relays.told`; the emulated engine reads the same keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TPOT_MS = "polyslo_tpot_ms"
FIRST_DUE_MS = "polyslo_first_due_ms"  # from the request's arrival; below zero once it is late
PACE_MS = "polyslo_pace_ms"  # the longest iteration that the engine's tier allows now; the last one told holds
BEST_EFFORT = "polyslo_best_effort"  # 1: relegated, served after all others
KEYS = (TPOT_MS, FIRST_DUE_MS, PACE_MS, BEST_EFFORT)


@dataclass(frozen=True, slots=True)
class Told:
    """A request's SLO in seconds; `first_due_s` on the engine's clock. Without an SLO it is best-effort."""

    tpot_s: float = math.inf
    first_due_s: float = math.inf
    pace_s: float | None = None
    is_best_effort: bool = True

    def due_s(self, num_output_tokens: int) -> float:
        """Return when the next token is due, so many being out."""
        return self.first_due_s + (num_output_tokens * self.tpot_s if num_output_tokens else 0.0)


NOTHING = Told()


def read_told(extra: Mapping[str, Any] | None, arrived_s: float) -> Told:
    """Read what a request tells that arrived at `arrived_s`; raises `ValueError` naming the key.

    A request that tells neither a TPOT nor a due time is best-effort, like one that is said to be.
    """
    if not extra or not any(key in extra for key in KEYS):
        return NOTHING
    tpot_ms, due_ms, pace_ms = (_number(extra, key) for key in (TPOT_MS, FIRST_DUE_MS, PACE_MS))
    for key, value in ((TPOT_MS, tpot_ms), (PACE_MS, pace_ms)):
        if value is not None and value <= 0.0:
            raise ValueError(f"vllm_xargs.{key}: must be > 0, got {value:g}")
    return Told(
        tpot_s=math.inf if tpot_ms is None else tpot_ms / 1e3,
        first_due_s=math.inf if due_ms is None else arrived_s + due_ms / 1e3,
        pace_s=None if pace_ms is None else pace_ms / 1e3,
        is_best_effort=bool(_number(extra, BEST_EFFORT)) or (tpot_ms is None and due_ms is None),
    )


def _number(extra: Mapping[str, Any], key: str) -> float | None:
    value = extra.get(key)
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # vLLM passes texts on, too
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"vllm_xargs.{key}: must be a finite number, got {value!r}")
    return number
