"""The simulated fleet's settings, and how policies' names and options become a fleet and engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from polyslo.core.fluid import LengthMoments, instance_need
from polyslo.core.profile import Profile
from polyslo.core.scaling import assign
from polyslo.core.state import (
    CHUNKING,
    DECODE_ONLY,
    EITHER,
    GRADIENT,
    KNOWN,
    LAZINESS,
    LEARNED,
    MEAN,
    MEMORY_TEST,
    NONE,
    PREDICTION,
    PREFILL_ONLY,
    SPREADING,
    WAIT,
    Fleet,
    new_fleet,
)
from polyslo.errors import ConfigError, nearest
from polyslo.policies.table import EXTERNAL, POLICIES, PolicyKind

PlaceFunction = Callable[[Fleet, int, float], int]

LENGTHS = {"known": KNOWN, "learned": LEARNED, "mean": MEAN}

OPTIONS = ("chunk", "relegate", "refuse", "prefill", "without")

# What `polyserve` can be told to do without, to measure what it is worth; NONE: not a bit of the core's settings.
MECHANISMS = {
    "binning": NONE,
    "gradient": GRADIENT,
    "spreading": SPREADING,
    "promotion": NONE,
    "laziness": LAZINESS,
    "chunking": CHUNKING,
    "prediction": PREDICTION,
    "wait": WAIT,
    "memory": MEMORY_TEST,
    "elasticity": NONE,
}

MAX_INSTANCES = 16_384  # with 1,024 residents each they take 1.3 GB

# What a field may be, both ends included. NaN is in no range.
_RANGES: dict[str, tuple[float, float]] = {
    "num_instances": (1, MAX_INSTANCES),
    "max_residents": (1, 8192),
    "chunk_limit_tokens": (16, 32_768),
    "kv_capacity_tokens": (1, 10**9),
    "known_ratio": (0.01, 100.0),
    "spare_ratio": (0.0, 1.0),
    "margin_ratio": (0.0, 0.9),
    "cold_start_s": (0.0, 86_400.0),
    "keep_warm_s": (0.0, 86_400.0),
    "transfer_s": (0.0, 86_400.0),
    "transfer_gb_per_s": (1e-6, 1e6),
    "prefill_budget_s": (1e-6, 86_400.0),
    "noise_ratio": (0.0, 10.0),
    "telemetry_delay_s": (0.0, 86_400.0),
    "num_stragglers": (0, MAX_INSTANCES),
    "slowness": (0.01, 1000.0),
    "prefill_instances": (1, MAX_INSTANCES),
    "num_prefill_only": (0, MAX_INSTANCES),
    "num_decode_only": (0, MAX_INSTANCES),
}


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """What the fleet is and how it misbehaves. Times in seconds; a straggler is `slowness` times slower."""

    num_instances: int = 20
    mode: str = "co"  # co-located, or "pd": disaggregated
    max_residents: int = 1024  # vLLM: max_num_seqs
    chunk_limit_tokens: int = 8192  # vLLM: max_num_batched_tokens, the bound of a dynamic chunk
    kv_capacity_tokens: int | None = None  # None: the profile's
    lengths: str = "learned"  # output lengths: known, learned or mean
    known_ratio: float = 1.0  # known lengths are told times this
    relegate: bool = True
    refuse: bool = False  # answer 429 instead of relegating
    promote: bool = True
    spare_ratio: float = 0.0  # of an instance's memory and pace: with less promised it hosts best-effort work
    margin_ratio: float = 0.0
    cold_start_s: float = 0.0
    keep_warm_s: float | None = None  # how long an idle instance needs no cold start; None: as long as that takes
    transfer_s: float = 0.001
    transfer_gb_per_s: float = 50.0
    prefill_budget_s: float = 0.05
    noise_ratio: float = 0.0
    telemetry_delay_s: float = 0.0
    num_stragglers: int = 0
    slowness: float = 1.5
    prefill_instances: int | None = None  # PD, fixed splits; None: the fluid share
    first_from_decode: bool = False  # PD: the decode side gives the first token, as vLLM's; else the prefill side
    num_prefill_only: int = 0  # PD: instances that can't decode: the last ones
    num_decode_only: int = 0  # PD: instances that can't prefill: the first ones

    def __post_init__(self) -> None:
        """Check ranges; raises `ConfigError` naming the field."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"fleet: {name} must be from {low:g} to {high:g}, got {value:g}")
        if self.mode not in ("co", "pd"):
            raise ConfigError(f"fleet: mode must be co or pd, got {self.mode!r}{nearest(self.mode, ['co', 'pd'])}")
        if self.lengths not in LENGTHS:
            raise ConfigError(f"fleet: lengths got {self.lengths!r}{nearest(self.lengths, LENGTHS)}")
        if self.mode == "pd" and self.num_instances < 2:
            raise ConfigError("fleet: mode pd needs num_instances >= 2, got 1; add one or use mode co")
        if self.num_stragglers > self.num_instances:
            raise ConfigError(
                f"fleet: num_stragglers must be at most num_instances, {self.num_instances}, got {self.num_stragglers}"
            )
        self._check_roles()
        if self.mode == "pd" and self.prefill_instances is not None and self.prefill_instances >= self.num_instances:
            raise ConfigError(
                f"fleet: prefill_instances must leave one of {self.num_instances} to decode, "
                f"got {self.prefill_instances}; lower it"
            )

    def _check_roles(self) -> None:
        num_only = self.num_prefill_only + self.num_decode_only
        if num_only and self.mode != "pd":
            raise ConfigError(f"fleet: num_prefill_only and num_decode_only are for mode pd, got {num_only}; drop them")
        for name, num_others in (
            ("num_prefill_only", self.num_instances - self.num_prefill_only),
            ("num_decode_only", self.num_instances - self.num_decode_only),
        ):
            if num_only and num_others < 1:
                raise ConfigError(f"fleet: {name} must leave an instance for the other side; lower it")
        if num_only > self.num_instances:
            raise ConfigError(
                f"fleet: num_prefill_only and num_decode_only must add up to at most num_instances, "
                f"{self.num_instances}, got {num_only}"
            )


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy with its options, from `name` or `name:option=value,...`."""

    name: str
    kind: PolicyKind
    chunk_tokens: int
    relegate: bool | None = None  # None: as the fleet says
    refuse: bool | None = None
    prefill_instances: int | None = None
    without: frozenset[str] = frozenset()  # of MECHANISMS
    place: PlaceFunction | None = None  # an external policy's function

    @classmethod
    def parse(cls, text: str) -> PolicySpec:
        """Read `name`, `name:option=value,...` or `module:function` (an external policy).

        Raises `ConfigError` naming the nearest when unknown.
        """
        name, _, options = text.partition(":")
        if options and "=" not in options:
            return cls(text, PolicyKind(EXTERNAL, text), 2048, place=_load_place(name, options))
        if name not in POLICIES:
            raise ConfigError(f"policy: unknown {name!r}{nearest(name, POLICIES)}")
        kind = POLICIES[name]
        spec = cls(text, kind, kind.default_chunk)
        for option in filter(None, options.split(",")):
            spec = _with_option(spec, option)
        return spec


def _load_place(module: str, name: str) -> PlaceFunction:
    try:
        place: PlaceFunction = getattr(import_module(module), name)
    except Exception as error:  # importing runs code of the user's, which may fail in any way
        reason = error if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"policy '{module}:{name}': can't be loaded, {reason}; check the module and PYTHONPATH"
        ) from error
    if not callable(place):
        raise ConfigError(f"policy '{module}:{name}': must be a function, got {type(place).__name__}; name another")
    return place


def _with_option(spec: PolicySpec, option: str) -> PolicySpec:
    key, _, value = option.partition("=")
    if key == "chunk":
        if not value.isdigit() or int(value) < 16:
            raise ConfigError(f"policy {spec.name!r}: chunk must be a whole number of tokens >= 16, got {value!r}")
        return replace(spec, chunk_tokens=int(value))
    if key == "prefill":
        if not value.isdigit() or int(value) < 1:
            raise ConfigError(f"policy {spec.name!r}: prefill must be a whole number of instances >= 1, got {value!r}")
        return replace(spec, prefill_instances=int(value))
    if key == "without":
        if not spec.kind.elastic:
            raise ConfigError(f"policy {spec.name!r}: without is for polyserve's mechanisms; leave it out")
        names = frozenset(value.split("+"))
        for name in sorted(names - set(MECHANISMS)):
            raise ConfigError(f"policy {spec.name!r}: unknown mechanism {name!r}{nearest(name, MECHANISMS)}")
        return replace(spec, without=names)
    if key in ("relegate", "refuse"):
        if value not in ("on", "off"):
            raise ConfigError(f"policy {spec.name!r}: {key} must be on or off, got {value!r}")
        is_on = value == "on"
        return replace(spec, relegate=is_on) if key == "relegate" else replace(spec, refuse=is_on)
    raise ConfigError(f"policy {spec.name!r}: unknown option {key!r}{nearest(key, OPTIONS)}")


def build_fleet(
    config: FleetConfig,
    policy: PolicySpec,
    profile: Profile,
    tpots_s: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
    moments: LengthMoments,
    num_requests: int,
    num_slots: int = 0,
    roles: npt.NDArray[np.int64] | None = None,
) -> Fleet:
    """Allocate the belief and give the instances their first tiers and roles.

    `num_slots`: room for so many instances, where more may come than there are at first. `roles` (N,) is what each of
    the first may do (PD, see `core.state`); None: as many as the configuration says.
    """
    tiered = policy.kind.tiers
    is_elastic = policy.kind.elastic and "elasticity" not in policy.without
    constant_chunk = not tiered or "chunking" in policy.without
    if config.kv_capacity_tokens is not None:
        profile = profile.with_capacity(config.kv_capacity_tokens)
    fleet = new_fleet(
        profile,
        num_instances=max(config.num_instances, num_slots),
        tpots_s=tpots_s,
        num_requests=num_requests,
        max_residents=config.max_residents,
        chunk_limit=policy.chunk_tokens if constant_chunk else config.chunk_limit_tokens,
    )
    settings = fleet.settings
    settings["disaggregated"] = config.mode == "pd"
    settings["relegate"] = config.relegate if policy.relegate is None else policy.relegate
    settings["refuse"] = config.refuse if policy.refuse is None else policy.refuse
    settings["by_deadline"] = tiered
    settings["lengths"] = LENGTHS[config.lengths]
    settings["elastic"] = is_elastic
    settings["promote"] = config.promote and "promotion" not in policy.without
    settings["without"] = sum(1 << MECHANISMS[name] for name in policy.without if MECHANISMS[name] != NONE)
    settings["cold_start_s"] = config.cold_start_s
    settings["keep_warm_s"] = config.cold_start_s if config.keep_warm_s is None else config.keep_warm_s
    settings["spare_ratio"] = config.spare_ratio
    settings["margin_ratio"] = config.margin_ratio
    settings["transfer_s"] = config.transfer_s
    settings["transfer_s_per_token"] = profile.physics["kv_bytes_per_token"] / (config.transfer_gb_per_s * 1e9)
    settings["prefill_budget_s"] = config.prefill_budget_s
    settings["first_from_decode"] = config.first_from_decode and config.mode == "pd"
    fleet.instances["role"][: config.num_instances] = _roles(config) if roles is None else roles
    settings["num_roles"] = np.count_nonzero(fleet.instances["role"] != EITHER)
    if not is_elastic:
        _partition(fleet, config, policy, instance_need(profile, tpots_s, shares, moments, mode=config.mode))
    return fleet


def _roles(config: FleetConfig) -> npt.NDArray[np.int64]:
    """Return what each instance may do: those that only decode first, those that only prefill last."""
    roles = np.full(config.num_instances, EITHER, dtype=np.int64)
    roles[: config.num_decode_only] = DECODE_ONLY
    roles[config.num_instances - config.num_prefill_only :] = PREFILL_ONLY
    return roles


def _partition(fleet: Fleet, config: FleetConfig, policy: PolicySpec, need: npt.NDArray[np.float64]) -> None:
    """Fix every instance's group for good: by the fluid need of tiers and of the prefill side."""
    weights = need if policy.kind.tiers else np.array([need[:-1].sum(), *[0.0] * (len(need) - 2), need[-1]])
    counts = whole_shares(weights, config.num_instances)
    prefill_instances = policy.prefill_instances or config.prefill_instances
    roles = fleet.instances["role"][: config.num_instances]
    if config.mode == "pd" and prefill_instances is None and (roles != EITHER).any():
        least, most = (roles == PREFILL_ONLY).sum(), (roles != DECODE_ONLY).sum()
        prefill_instances = int(np.clip(counts[-1], max(1, least), min(most, config.num_instances - 1)))
    if config.mode == "pd" and prefill_instances is not None:
        if prefill_instances >= config.num_instances:
            raise ConfigError(
                f"policy {policy.name!r}: prefill must leave one of {config.num_instances} instances to decode, "
                f"got {prefill_instances}; lower it"
            )
        rest = whole_shares(weights[:-1], config.num_instances - prefill_instances)
        counts = np.append(rest, prefill_instances)
    first, slots = config.num_instances, len(fleet.instances)
    side = np.array([1, 2, 0])[roles]  # those that only decode come first, as the tiers' groups do
    groups = np.repeat(np.arange(len(counts)), counts).tolist() + _later_groups(weights, counts, slots - first)
    for i, group in zip([*np.argsort(side, kind="stable").tolist(), *range(first, slots)], groups, strict=True):
        assign(fleet.handle, i, group, 0.0)
        if not policy.kind.tiers:
            fleet.instances["budget_s"][i] = np.inf


def _later_groups(weights: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], num_later: int) -> list[int]:
    """Return the groups of instances that come later: each time the one that is furthest below its share."""
    groups, have = [], counts.copy()
    for _ in range(num_later):
        groups.append(int(np.argmax(_shares(weights) * (have.sum() + 1) - have)))
        have[groups[-1]] += 1
    return groups


def _shares(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return weights as shares of 1; infinite ones count as the largest finite one."""
    finite = np.where(np.isfinite(weights), weights, weights[np.isfinite(weights)].max(initial=1.0))
    return finite / finite.sum()


def whole_shares(weights: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.int64]:
    """Split `total` by weights into whole numbers (largest remainder), at least 1 where a weight is positive."""
    wanted = _shares(weights) * total
    counts = np.floor(wanted).astype(np.int64)
    for k in np.argsort(counts - wanted, kind="stable")[: total - counts.sum()]:
        counts[k] += 1
    for k in np.flatnonzero((weights > 0) & (counts == 0)):
        if counts.max() > 1:
            counts[np.argmax(counts)] -= 1
            counts[k] += 1
    return counts


def field_kinds() -> dict[str, type]:
    """Return what a `[fleet]` table may have: each key with the type of its value."""
    kinds = get_type_hints(FleetConfig)
    return {f.name: next(k for k in (bool, int, float, str) if k in (kinds[f.name], *get_args(kinds[f.name])))
            for f in fields(FleetConfig)}  # fmt: skip
