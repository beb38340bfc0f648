"""SLO mixes: which TTFT and TPOT requests are promised, and in what shares.

A mix is a TOML file or one of `MIXES`. Classes are drawn with their shares, then a TTFT from the
choices of the class, or of the mix, then a TPOT; all independent of lengths. Unknown keys are errors.

    ttft_ms = [300, 500, 1000]      # equal shares unless ttft_shares is given

    [tiers.chat]
    tpot_ms = 50
    share = 0.6

    [tiers.report]
    tpot_ms = 100
    share = 0.4
    ttft_ms = [2000, 5000]          # overrides the list above
    ttft_shares = [0.8, 0.2]

The mix may move while the trace runs: with `drift = "linear"` or `drift = "flip"` (in the middle) every class goes
from its `share` to its `share_later`.

A class may ask for several TPOTs: `tpot_ms = [30, 45]` (equal chances) or `tpot_ms = {from = 20, to = 60}`
(log-uniform). Tiers are then bins: a request is of the loosest tier that is not looser than its own TPOT.

    [binning]
    tiers_ms = [20, 30, 50]         # or: learn = 4 (at most), learn = "auto"

Without that table the tiers are the TPOTs where every class has one, and are learned ("auto") otherwise.
Learning takes a profile, lengths and a fleet: `with_tiers` puts in what `core.tiers` found.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from polyslo.core.tiers import tier_of
from polyslo.errors import ConfigError, TraceError, nearest, reject_unknown_keys
from polyslo.workload.mixes import MIXES
from polyslo.workload.tpots import TpotRange, TpotValues
from polyslo.workload.trace import Trace
from polyslo.workload.workload import Workload

RAISED_TO_IDLE = 2.0  # a TTFT out of reach becomes this many idle TTFTs (the paper's rule, SPEC section 6)
SHARE_TOLERANCE = 1e-6
_SLO_STREAM = 3
AUTO = "auto"
_MIX_KEYS = ("name", "source", "ttft_ms", "ttft_shares", "tiers", "binning", "drift")
_DRIFTS = ("linear", "flip")
_BINNING_KEYS = ("tiers_ms", "learn")
_RANGE_KEYS = ("from", "to")
_TIER_KEYS = ("tpot_ms", "share", "share_later", "ttft_ms", "ttft_shares")


@dataclass(frozen=True, slots=True)
class TtftChoices:
    """TTFTs in seconds, each with its share; the shares sum to 1."""

    ttft_s: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SloClass:
    """One entry of a mix: the TPOTs that it asks for, its share of the requests, its TTFTs."""

    name: str
    tpot: TpotValues | TpotRange
    share: float
    ttft: TtftChoices
    share_later: float = 0.0  # where the mix drifts to, if it does


@dataclass(frozen=True, slots=True)
class SloMix:
    """SLO classes whose shares sum to 1, and the tiers that their requests belong to.

    `tiers_s` are the tiers' TPOTs in seconds, ascending; None until they are learned. `learn` is the largest
    number of tiers to learn, or `AUTO`; None where tiers are given.
    """

    name: str
    source: str
    classes: tuple[SloClass, ...]
    tiers_s: tuple[float, ...] | None
    learn: int | str | None = None
    drift: str | None = None  # "linear" or "flip"

    @property
    def tpots_s(self) -> tuple[float, ...]:
        """TPOTs of the tiers in seconds, ascending. Raises `ConfigError` where they have not been learned yet."""
        if self.tiers_s is None:
            raise ConfigError(f"SLO mix {self.name!r}: its tiers are to be learned; call with_tiers first")
        return self.tiers_s

    @property
    def tier_shares(self) -> tuple[float, ...]:
        """Share of the requests in each tier of `tpots_s`."""
        below = [self._share_below(tpot_s) for tpot_s in self.tpots_s[1:]]
        return tuple(high - low for low, high in zip([0.0, *below], [*below, 1.0], strict=True))

    def tier_text(self, tpot_s: float) -> str:
        """Name a tier by the classes that ask for its TPOT, and by this: `'chat' (50 ms)`."""
        names = [repr(entry.name) for entry in self.classes if tpot_s in entry.tpot.points_s(middle=False)]
        return f"{', '.join(names)} ({tpot_s * 1e3:g} ms)" if names else f"{tpot_s * 1e3:g} ms"

    def at_end(self) -> SloMix:
        """Return the mix that a drifting one ends with; itself where it does not move."""
        if self.drift is None:
            return self
        return replace(self, classes=tuple(replace(c, share=c.share_later) for c in self.classes), drift=None)

    def with_tiers(self, tpots_s: Sequence[float]) -> SloMix:
        """Return the mix with these tiers, in seconds. Raises `ConfigError` for requests tighter than all of them."""
        tiers_s = tuple(sorted(set(tpots_s)))
        for entry in self.classes:
            asked_s = _tightest_s(entry)
            if asked_s < tiers_s[0]:
                raise ConfigError(
                    f"tier {entry.name!r}: asks for a TPOT of {asked_s * 1e3:g} ms, the tightest of "
                    f"binning.tiers_ms is {tiers_s[0] * 1e3:g}; add one of {asked_s * 1e3:g} or less"
                )
        return replace(self, tiers_s=tiers_s)

    def requested_tpots(self, *, middle: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the TPOTs that requests ask for, in seconds, and their shares; both (d,), in no order.

        A range is given by points of equal shares: their smallest TPOTs (what tiers may begin at) or `middle` ones.
        """
        points_s = [entry.tpot.points_s(middle=middle) for entry in self.classes]
        shares = [
            np.full(len(points), entry.share / len(points))
            for entry, points in zip(self.classes, points_s, strict=True)
        ]
        return np.concatenate([np.asarray(points) for points in points_s]), np.concatenate(shares)

    def _share_below(self, tpot_s: float) -> float:
        return sum(entry.share * entry.tpot.share_below(tpot_s) for entry in self.classes)


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
        raise ConfigError(f"SLO mix {path}: can't read it: {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"SLO mix {path}: not TOML: {error}; correct the file") from error
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
    lengths and arrivals, and the same at every rate. Raises `TraceError` for a trace without arrivals and
    `ConfigError` for a mix whose tiers have not been learned.
    """
    if not trace.has_arrivals:
        raise TraceError(f"trace {trace.name!r}: has no arrivals; draw some and use with_arrivals")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_SLO_STREAM,))))
    drawn = _draw_classes(mix, len(trace), rng)
    rank, tpot_rank = rng.random(len(trace)), rng.random(len(trace))
    ttft_s, tpot_s = np.empty(len(trace)), np.empty(len(trace))
    for index, entry in enumerate(mix.classes):
        here = drawn == index
        ttft_s[here] = _at_rank(entry.ttft, rank[here])
        tpot_s[here] = entry.tpot.at_rank(tpot_rank[here])
    idle_s = np.asarray(idle_ttft_s(trace.input_tokens), np.float64)
    out_of_reach = ttft_s < idle_s
    return Workload(
        name=trace.name,
        arrival_s=trace.arrival_s,
        input_tokens=trace.input_tokens,
        output_tokens=trace.output_tokens,
        ttft_s=np.where(out_of_reach, RAISED_TO_IDLE * idle_s, ttft_s),
        tpot_s=tpot_s,
        tpots_s=mix.tpots_s,
        tier=tier_of(tpot_s, mix.tpots_s),
        num_ttft_raised=int(np.count_nonzero(out_of_reach)),
        notices=trace.notices,
    )


def _draw_classes(mix: SloMix, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the class of each of `count` requests, in order of arrival."""
    shares = np.array([entry.share for entry in mix.classes])
    if mix.drift is None:
        return rng.choice(len(shares), count, p=shares)
    progress = np.arange(count) / count
    later = (progress >= 0.5).astype(np.float64) if mix.drift == "flip" else progress
    shares_later = np.array([entry.share_later for entry in mix.classes])
    upper = np.cumsum(np.outer(1 - later, shares) + np.outer(later, shares_later), axis=1)
    return np.minimum((upper <= rng.random((count, 1))).sum(axis=1), len(shares) - 1)


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
    mix = _drifting(SloMix(str(table.get("name", name)), str(table.get("source", "")), classes, None), table, file)
    return _binned(mix, table.get("binning"), file)


def _drifting(mix: SloMix, table: Mapping[str, Any], file: str) -> SloMix:
    """Return the mix with where its shares go to, if they do."""
    later = {name: tier["share_later"] for name, tier in table["tiers"].items() if "share_later" in tier}
    if "drift" not in table:
        if later:
            raise ConfigError(
                f'share_later: is for a mix that moves, got it without drift; set drift = "linear" in {file}'
            )
        return mix
    drift = table["drift"]
    if drift not in _DRIFTS:
        raise ConfigError(f"drift: got {drift!r} in {file}{nearest(str(drift), _DRIFTS)}")
    if missing := [entry.name for entry in mix.classes if entry.name not in later]:
        raise ConfigError(
            f"tier {missing[0]!r}: a mix that drifts needs share_later; set tiers.{missing[0]}.share_later"
        )
    given = [
        0.0 if share == 0 else _positive(share, f"tier {name!r}: share_later", f"tiers.{name}.share_later", file)
        for name, share in later.items()
    ]
    shares = _normalised(given, "tiers: share_later", "tiers.NAME.share_later", file)
    classes = tuple(replace(entry, share_later=share) for entry, share in zip(mix.classes, shares, strict=True))
    return replace(mix, classes=classes, drift=drift)


def _binned(mix: SloMix, table: Any, file: str) -> SloMix:
    """Return the mix with its tiers, or with how many of them to learn."""
    if table is None:
        if all(isinstance(c.tpot, TpotValues) and len(c.tpot.values_s) == 1 for c in mix.classes):
            return mix.with_tiers([_tightest_s(entry) for entry in mix.classes])
        return replace(mix, learn=AUTO)
    if not isinstance(table, dict):
        raise ConfigError(f"binning: must be a table, got {table!r}; write [binning] in {file}")
    reject_unknown_keys(table, _BINNING_KEYS, f"{file}, [binning]")
    if len(table) != 1:
        got = " and ".join(table) or "nothing"
        raise ConfigError(f"binning: needs tiers_ms or learn, one of them, got {got}; set it in {file}, [binning]")
    if "tiers_ms" in table:
        tiers_s = _milliseconds(table["tiers_ms"], "binning: tiers_ms", "binning.tiers_ms", file)
        try:
            return mix.with_tiers(tiers_s)
        except ConfigError as error:
            raise ConfigError(f"{error} in {file}") from None
    return replace(mix, learn=_tiers_to_learn(table["learn"], file))


def _tiers_to_learn(learn: Any, file: str) -> int | str:
    if isinstance(learn, str) and learn != AUTO:
        raise ConfigError(f"binning: learn got {learn!r} in {file}{nearest(learn, [AUTO])}")
    if learn != AUTO and (not isinstance(learn, int) or isinstance(learn, bool) or learn < 1):
        raise ConfigError(f'binning: learn must be a whole number >= 1 or "auto", got {learn!r}; set it in {file}')
    return cast(int | str, learn)


def _tightest_s(entry: SloClass) -> float:
    return entry.tpot.low_s if isinstance(entry.tpot, TpotRange) else min(entry.tpot.values_s)


def _slo_class(name: str, tier: Any, common: TtftChoices | None, file: str) -> SloClass:
    if not isinstance(tier, dict):
        raise ConfigError(f"tier {name!r}: must be a table, got {tier!r}; write [tiers.{name}] in {file}")
    reject_unknown_keys(tier, _TIER_KEYS, f"{file}, [tiers.{name}]")
    key = f"tiers.{name}."
    ttft = _ttft_choices(tier, f"tier {name!r}", key, file) if "ttft_ms" in tier else common
    if ttft is None:
        raise ConfigError(f"tier {name!r}: has no ttft_ms and neither has the mix; set {key}ttft_ms in {file}")
    tpot = _tpots(tier.get("tpot_ms"), f"tier {name!r}: tpot_ms", f"{key}tpot_ms", file)
    share = _positive(tier.get("share"), f"tier {name!r}: share", f"{key}share", file)
    return SloClass(name, tpot, share, ttft)


def _tpots(value: Any, what: str, key: str, file: str) -> TpotValues | TpotRange:
    if not isinstance(value, dict):
        return TpotValues(_milliseconds(value, what, key, file))
    reject_unknown_keys(value, _RANGE_KEYS, f"{file}, {key}")
    low_s, high_s = (_positive(value.get(end), f"{what}.{end}", f"{key}.{end}", file) / 1e3 for end in _RANGE_KEYS)
    if not low_s < high_s:
        raise ConfigError(
            f"{what}: from must be below to, got from = {value['from']} and to = {value['to']}; set {key} in {file}"
        )
    return TpotRange(low_s, high_s)


def _milliseconds(value: Any, what: str, key: str, file: str) -> tuple[float, ...]:
    """Return one number or a list of them in seconds."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{what} needs at least one value, got []; set {key} in {file}")
    return tuple(_positive(ms, what, key, file) / 1e3 for ms in values)


def _ttft_choices(table: Mapping[str, Any], what: str, key: str, file: str) -> TtftChoices:
    ttft_ms = table["ttft_ms"] if isinstance(table["ttft_ms"], list) else [table["ttft_ms"]]
    shares = table.get("ttft_shares", [1 / len(ttft_ms)] * len(ttft_ms) if ttft_ms else [])
    if not ttft_ms or not isinstance(shares, list) or len(shares) != len(ttft_ms):
        raise ConfigError(
            f"{what}: ttft_ms needs at least one value and one share for each, got {len(ttft_ms)} values "
            f"and ttft_shares = {shares!r}; set {key}ttft_ms and {key}ttft_shares in {file}"
        )
    ttft_s = _milliseconds(ttft_ms, f"{what}: ttft_ms", f"{key}ttft_ms", file)
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
