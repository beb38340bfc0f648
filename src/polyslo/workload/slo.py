"""SLO mixes: which TTFT and TPOT requests are promised, and in what shares.

A mix is a TOML file or one of `MIXES`. TPOT tiers are drawn with their shares, then a TTFT from the
choices of the tier, or of the mix; both independent of lengths. Unknown keys are errors.

    ttft_ms = [300, 500, 1000]      # equal shares unless ttft_shares is given

    [tiers.chat]
    tpot_ms = 50
    share = 0.6

    [tiers.report]
    tpot_ms = 100
    share = 0.4
    ttft_ms = [2000, 5000]          # overrides the list above
    ttft_shares = [0.8, 0.2]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyslo.errors import ConfigError, TraceError, nearest, reject_unknown_keys
from polyslo.workload.mixes import MIXES
from polyslo.workload.trace import Trace
from polyslo.workload.workload import Workload

RAISED_TO_IDLE = 2.0  # a TTFT out of reach becomes this many idle TTFTs (the paper's rule, SPEC section 6)
SHARE_TOLERANCE = 1e-6
_SLO_STREAM = 3
_MIX_KEYS = ("name", "source", "ttft_ms", "ttft_shares", "tiers")
_TIER_KEYS = ("tpot_ms", "share", "ttft_ms", "ttft_shares")


@dataclass(frozen=True, slots=True)
class TtftChoices:
    """TTFTs in seconds, each with its share; the shares sum to 1."""

    ttft_s: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SloClass:
    """One entry of a mix: a TPOT in seconds, its share of the requests, its TTFTs."""

    name: str
    tpot_s: float
    share: float
    ttft: TtftChoices


@dataclass(frozen=True, slots=True)
class SloMix:
    """SLO classes whose shares sum to 1. Classes with the same TPOT are of the same tier."""

    name: str
    source: str
    classes: tuple[SloClass, ...]

    @property
    def tpots_s(self) -> tuple[float, ...]:
        """Distinct TPOTs in seconds, ascending: one tier each."""
        return tuple(sorted({entry.tpot_s for entry in self.classes}))

    @property
    def tier_shares(self) -> tuple[float, ...]:
        """Share of the requests in each tier of `tpots_s`."""
        return tuple(sum(entry.share for entry in self.classes if entry.tpot_s == tpot_s) for tpot_s in self.tpots_s)


def load_slo_mix(name_or_path: str | Path) -> SloMix:
    """Load one of `MIXES` by name, or a TOML file by its path (anything ending in `.toml`).

    Raises `ConfigError` naming the key for anything missing, unknown or out of range.
    """
    if str(name_or_path) in MIXES:
        return _parse(MIXES[str(name_or_path)], str(name_or_path), "polyslo.workload.mixes")
    path = Path(name_or_path)
    if path.suffix != ".toml":
        raise ConfigError(f"unknown SLO mix {str(name_or_path)!r}{nearest(str(name_or_path), MIXES)}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"SLO mix {path}: can't read it: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"SLO mix {path}: not TOML: {error}") from error
    return _parse(table, path.stem, path.name)


def lay(
    trace: Trace,
    mix: SloMix,
    seed: int,
    idle_ttft_s: Callable[[NDArray[np.int32]], NDArray[np.float64]],
) -> Workload:
    """Promise every request of `trace` an SLO drawn from `mix`.

    `idle_ttft_s(input_tokens [n])` gives the seconds [n] that an idle instance needs for the first token of
    such prompts: a drawn TTFT below that is raised to twice it, and counted. Draws are independent of
    lengths and arrivals, and the same at every rate. Raises `TraceError` for a trace without arrivals.
    """
    if not trace.has_arrivals:
        raise TraceError(f"trace {trace.name!r}: has no arrivals; draw some and use with_arrivals")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_SLO_STREAM,))))
    drawn = rng.choice(len(mix.classes), len(trace), p=[entry.share for entry in mix.classes])
    rank = rng.random(len(trace))
    ttft_s = np.empty(len(trace))
    for index, entry in enumerate(mix.classes):
        here = drawn == index
        ttft_s[here] = _at_rank(entry.ttft, rank[here])
    idle_s = np.asarray(idle_ttft_s(trace.input_tokens), np.float64)
    out_of_reach = ttft_s < idle_s
    tpots = np.asarray(mix.tpots_s)
    tier = np.searchsorted(tpots, [entry.tpot_s for entry in mix.classes])[drawn].astype(np.int32)
    return Workload(
        name=trace.name,
        arrival_s=trace.arrival_s,
        input_tokens=trace.input_tokens,
        output_tokens=trace.output_tokens,
        ttft_s=np.where(out_of_reach, RAISED_TO_IDLE * idle_s, ttft_s),
        tpot_s=tpots[tier],
        tpots_s=mix.tpots_s,
        tier=tier,
        num_ttft_raised=int(np.count_nonzero(out_of_reach)),
        notices=trace.notices,
    )


def _at_rank(choices: TtftChoices, rank: NDArray[np.float64]) -> NDArray[np.float64]:
    upper = np.cumsum(choices.shares[:-1])
    return np.asarray(choices.ttft_s)[np.searchsorted(upper, rank, side="right")]


def _parse(table: Mapping[str, Any], name: str, file: str) -> SloMix:
    reject_unknown_keys(table, _MIX_KEYS, file)
    tiers = table.get("tiers")
    if not isinstance(tiers, dict) or not tiers:
        raise ConfigError(f"{file}: a mix needs at least one tier; add a table [tiers.NAME]")
    common = _ttft_choices(table, "mix", "", file) if "ttft_ms" in table else None
    classes = tuple(_slo_class(tier_name, tier, common, file) for tier_name, tier in tiers.items())
    shares = _normalised([entry.share for entry in classes], "tiers", "tiers.NAME.share", file)
    classes = tuple(replace(entry, share=share) for entry, share in zip(classes, shares, strict=True))
    return SloMix(str(table.get("name", name)), str(table.get("source", "")), classes)


def _slo_class(name: str, tier: Any, common: TtftChoices | None, file: str) -> SloClass:
    if not isinstance(tier, dict):
        raise ConfigError(f"tier {name!r}: must be a table, got {tier!r}; write [tiers.{name}] in {file}")
    reject_unknown_keys(tier, _TIER_KEYS, f"{file}, [tiers.{name}]")
    key = f"tiers.{name}."
    ttft = _ttft_choices(tier, f"tier {name!r}", key, file) if "ttft_ms" in tier else common
    if ttft is None:
        raise ConfigError(f"tier {name!r}: has no ttft_ms and neither has the mix; set {key}ttft_ms in {file}")
    tpot_s = _positive(tier.get("tpot_ms"), f"tier {name!r}: tpot_ms", f"{key}tpot_ms", file) / 1e3
    share = _positive(tier.get("share"), f"tier {name!r}: share", f"{key}share", file)
    return SloClass(name, tpot_s, share, ttft)


def _ttft_choices(table: Mapping[str, Any], what: str, key: str, file: str) -> TtftChoices:
    ttft_ms = table["ttft_ms"] if isinstance(table["ttft_ms"], list) else [table["ttft_ms"]]
    shares = table.get("ttft_shares", [1 / len(ttft_ms)] * len(ttft_ms) if ttft_ms else [])
    if not ttft_ms or not isinstance(shares, list) or len(shares) != len(ttft_ms):
        raise ConfigError(
            f"{what}: ttft_ms needs at least one value and one share for each, got {len(ttft_ms)} values "
            f"and ttft_shares = {shares!r}; set {key}ttft_ms and {key}ttft_shares in {file}"
        )
    ttft_s = tuple(_positive(ms, f"{what}: ttft_ms", f"{key}ttft_ms", file) / 1e3 for ms in ttft_ms)
    found = [_positive(share, f"{what}: ttft_shares", f"{key}ttft_shares", file) for share in shares]
    return TtftChoices(ttft_s, _normalised(found, f"{what}: ttft_shares", f"{key}ttft_shares", file))


def _positive(value: Any, what: str, key: str, file: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < float("inf"):
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"{what} must be > 0, got {got}; set {key} in {file}")
    return float(value)


def _normalised(shares: Sequence[float], what: str, key: str, file: str) -> tuple[float, ...]:
    total = sum(shares)
    if abs(total - 1) > SHARE_TOLERANCE:
        raise ConfigError(f"{what}: shares must sum to 1, got {total:.6g}; set {key} in {file}")
    return tuple(share / total for share in shares)
