"""SLO classes, tiers, and what a caller's key may ask for, as the configuration states them.

Milliseconds, as an operator writes them; what the rest of the gateway reads are the properties in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from polyslo.gateway.config.kinds import Choice, Flag, ListOf, Mistakes, Number, Secret, Text, Whole
from polyslo.gateway.config.table import setting

MAX_TTFT_MS = 3_600_000.0  # an hour
MAX_TPOT_MS = 60_000.0
TTFT = Number(0, MAX_TTFT_MS, above_low=True)
TPOT = Number(0, MAX_TPOT_MS, above_low=True)
KEY_HASH = Secret('"sha256:" and 64 hexadecimal digits, as `polyslo key new` prints it', r"sha256:[0-9a-f]{64}")
DEFAULT_TIERS_MS = (20.0, 30.0, 50.0, 100.0)  # the paper's
DEFAULT_TTFT_MS = 1000.0  # of the class `default`, where none is configured: the paper's loosest
MAX_TIERS = 16  # as many as core.tiers tries
AUTO = "auto"
CLAMP, REFUSE = "clamp", "refuse"
UNPROMISED_MS = math.inf  # what a best-effort class promises


@dataclass(frozen=True, slots=True)
class Learn:
    """`"auto"`, or the most tiers to learn."""

    allowed: str = f'"auto" or a whole number from 1 to {MAX_TIERS}'

    def read(self, value: object, path: str, mistakes: Mistakes) -> object:
        """Accept either."""
        if value == AUTO:
            return value
        is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_TIERS
        return value if is_number else mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class SloClass:
    """A named SLO: a TTFT and a TPOT that a request asks for by its name; or none, best effort."""

    name: str
    ttft_ms: float = setting(
        TTFT, "Time to first token that the class promises; required without `best_effort`.", UNPROMISED_MS
    )
    tpot_ms: float = setting(
        TPOT, "Time per output token that the class promises; required without `best_effort`.", UNPROMISED_MS
    )
    best_effort: bool = setting(
        Flag(),
        "Promise nothing: requests of the class run where no other needs the room, and give way to those with an SLO.",
        False,
    )


@dataclass(frozen=True, slots=True)
class SloConfig:
    """What holds for every request, whatever its key."""

    default: str | None = setting(
        Text("the name of a class"),
        "The class of a request that asks for nothing; without it the loosest class (by TPOT, then TTFT).",
        None,
    )
    on_tighter: str = setting(
        Choice((CLAMP, REFUSE)),
        "A wish tighter than the key may ask for, or than the fleet can do, is granted as near as possible and the "
        'response says so ("clamp"), or answered with 403 or 429 ("refuse").',
        CLAMP,
    )


@dataclass(frozen=True, slots=True)
class TiersConfig:
    """Which TPOTs the tiers keep. Without this table: the TPOTs of the classes; without classes 20/30/50/100 ms."""

    tpots_ms: tuple[float, ...] | None = setting(
        ListOf(TPOT), "The TPOTs of the tiers; a request is of the loosest tier that is not looser than it.", None
    )
    learn: int | str | None = setting(
        Learn(),
        "Learn the tiers at the start, from what the requests in `learn_from` asked for: at most so many, or as many "
        "as pay. Excludes `tpots_ms`.",
        None,
    )
    learn_from: tuple[str, ...] | None = setting(
        ListOf(Text("the path of a journal file")), "Journal files of earlier runs to learn the tiers from.", None
    )


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """An API key and what it may ask for. It holds the key's hash; the key itself is nowhere."""

    name: str
    hash: str = setting(KEY_HASH, "Hash of the key.")
    classes: tuple[str, ...] | None = setting(
        ListOf(Text("the name of a class")), "Classes that it may name; without it every class.", None
    )
    default: str | None = setting(
        Text("the name of a class"), "Its own default class; without it that of `slo.default`.", None
    )
    min_ttft_ms: float | None = setting(
        TTFT, "The tightest TTFT that it may ask for. A class in its `classes` is granted as it is.", None
    )
    min_tpot_ms: float | None = setting(TPOT, "The tightest TPOT that it may ask for; likewise.", None)
    on_tighter: str | None = setting(
        Choice((CLAMP, REFUSE)), "What becomes of a tighter wish; without it `slo.on_tighter`.", None
    )
    max_concurrent_requests: int | None = setting(
        Whole(1, 1_000_000), "Requests of this key at the same time; more are answered with 429.", None
    )
    tenant: str | None = setting(
        Text(),
        "Whom its requests count for, whatever they say; without it whom they say (`x-llm-d-inference-fairness-id`), "
        "else the name of the key.",
        None,
    )
