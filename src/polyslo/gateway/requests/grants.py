"""Which SLO a request gets: what it wishes, as far as its key allows and the fleet can do. Source: ours.

An SLO is a privilege. A class that a key lists is granted as it is; numbers are bounded by the key's minima, by the
tightest tier, which is the fastest that the fleet keeps, and by what the prompt takes alone. A tighter wish is clamped,
and the response says so, or refused: 403 where the key may not, 429 `slo-infeasible` where nobody may, because no
waiting will mend it. A best-effort class grants no SLO; who states times of its own asks for one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from polyslo.core.tiers import tier_of
from polyslo.errors import nearest
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.slo import MAX_TTFT_MS, REFUSE, KeyConfig, SloClass
from polyslo.gateway.requests.openai_errors import BadRequest, Refusal
from polyslo.gateway.requests.wishes import Wish

CLAMPED_HEADER = b"x-polyslo-slo-clamped"
# Times that differ by less are the same: 20 ms as a header's text and as a tier's 0.02 s must not be told apart.
SAME_RATIO = 1e-9
INFEASIBLE_RETRY_S = 60.0  # waiting mends nothing, but clients that obey only Retry-After should not hurry


@dataclass(frozen=True, slots=True)
class Clamp:
    """A time that was wished tighter than granted: `ttft_ms` or `tpot_ms`, both in milliseconds."""

    key: str
    wished_ms: float
    granted_ms: float

    def __str__(self) -> str:
        """Write it as the response header does: `tpot_ms=20->30`."""
        return f"{self.key}={self.wished_ms:g}->{self.granted_ms:g}"


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request is promised, in seconds; `tier` is the index of its tier, tightest first.

    `wished_tpot_s` is the TPOT that its key allows, before the tiers bound it: what tiers are learned from.
    """

    ttft_s: float
    tpot_s: float
    tier: int
    class_name: str | None
    wished_tpot_s: float
    clamps: tuple[Clamp, ...] = ()
    is_best_effort: bool = False  # nothing is promised: its times only order it among its kind

    def due_s(self, arrival_s: float, token: int) -> float:
        """Return when token 0, 1, ... is due. A response that is not streamed is due with its last token."""
        return arrival_s + self.ttft_s + token * self.tpot_s

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the response headers that say what was clamped; none where nothing was."""
        if not self.clamps:
            return ()
        return ((CLAMPED_HEADER, ", ".join(str(clamp) for clamp in self.clamps).encode()),)


@dataclass(frozen=True, slots=True)
class _Time:
    """One of the two times on its way from wish to grant, in milliseconds."""

    key: str  # ttft_ms or tpot_ms
    source: str | None  # the header or field that wished it; None: nobody did, it is a default
    wished_ms: float
    least_ms: float  # that the key may ask for

    @property
    def allowed_ms(self) -> float:
        """What the key allows."""
        return self.least_ms if self.is_too_tight else self.wished_ms

    @property
    def is_too_tight(self) -> bool:
        """Whether the key may not ask for it."""
        return self.wished_ms < self.least_ms * (1 - SAME_RATIO)


def grant(
    wish: Wish,
    key: KeyConfig | None,
    config: GatewayConfig,
    tiers_s: tuple[float, ...] | None = None,
    least_ttft_s: float = 0.0,
) -> Slo | Refusal:
    """Return the SLO of a request, or why it gets none. `key` is None where the gateway has no keys.

    `tiers_s` are the tiers' TPOTs now, ascending; without them the configured ones (learned tiers move).
    `least_ttft_s` is what its prompt takes on an idle instance. Raises `BadRequest` for the name of a class that does
    not exist.
    """
    named = _named_class(wish, key, config)
    if isinstance(named, Refusal):
        return named
    tiers = tiers_s or config.tiers_s
    base = _base(wish, key, config, named)
    if isinstance(base, Refusal):
        return base
    if base.best_effort:
        return _best_effort(base, tiers)
    ttft, tpot = _times(wish, key, config, base)
    if ((key is not None and key.on_tighter) or config.slo.on_tighter) == REFUSE:
        refusal = _too_tight((ttft, tpot)) or _infeasible(tpot, tiers[0]) or _infeasible(ttft, least_ttft_s)
        if refusal is not None:
            return refusal
    ttft_s, wished_tpot_s = ttft.allowed_ms / 1e3, tpot.allowed_ms / 1e3
    if ttft.source is not None:  # a default stays: nobody asked for it
        ttft_s = max(ttft_s, least_ttft_s)
    tpot_s = max(wished_tpot_s, tiers[0])
    is_default = named is None and not _states_times(wish)
    return Slo(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        tier=_tier(tpot_s, tiers),
        class_name=_default(key, config).name if is_default else wish.class_name,
        wished_tpot_s=wished_tpot_s,
        clamps=_clamps((ttft, ttft_s), (tpot, tpot_s)),
    )


def tenant_of(wish: Wish, key: KeyConfig | None) -> str | None:
    """Return whom a request counts for: its key's tenant, else whom it names, else the key's name."""
    if key is not None and key.tenant is not None:
        return key.tenant
    return wish.tenant or (None if key is None else key.name)


def _named_class(wish: Wish, key: KeyConfig | None, config: GatewayConfig) -> SloClass | Refusal | None:
    """Return the class that a request names, None where it names none."""
    if wish.class_name is None:
        return None
    allowed = [entry for entry in config.classes if key is None or key.classes is None or entry.name in key.classes]
    for entry in allowed:
        if entry.name == wish.class_name:
            return entry
    names = [entry.name for entry in allowed]
    if any(entry.name == wish.class_name for entry in config.classes):
        return Refusal(
            "class_not_allowed",
            f"{wish.class_source}: this API key may name {', '.join(names)}, got {wish.class_name!r}; "
            "name one of these, or ask who runs this gateway",
            wish.class_source,
        )
    hint = nearest(wish.class_name, names) if names else "; there are none, leave it out"
    raise BadRequest(
        f"{wish.class_source}: unknown SLO class {wish.class_name!r}{hint}",
        param=wish.class_source,
        code="unknown_slo_class",
    )


def _default(key: KeyConfig | None, config: GatewayConfig) -> SloClass:
    return config.default_class if key is None else config.default_class_of(key)


def _states_times(wish: Wish) -> bool:
    return wish.ttft_ms is not None or wish.tpot_ms is not None


def _base(wish: Wish, key: KeyConfig | None, config: GatewayConfig, named: SloClass | None) -> SloClass | Refusal:
    """Return the class that holds for what a request does not state.

    Beside times that is one that promises something. Raises `BadRequest` where best effort is named beside times.
    """
    base = named or _default(key, config)
    if not base.best_effort or not _states_times(wish):
        return base
    source = wish.tpot_source or wish.ttft_source
    if named is not None:
        raise BadRequest(
            f"{source}: class {base.name!r} is best effort and promises no times, got one; leave one of the two out",
            param=source,
            code="invalid_slo",
        )
    if key is None or key.classes is None:
        return config.loosest_of(config.promises)
    allowed = [entry for entry in config.promises if entry.name in key.classes]
    if allowed:
        return config.loosest_of(allowed)
    return Refusal(
        "class_not_allowed",
        f"{source}: this API key may ask for best effort only, got a time; leave it out, or ask who runs this gateway",
        source,
    )


def _best_effort(base: SloClass, tiers_s: tuple[float, ...]) -> Slo:
    """Return what best effort gets: the loosest pace, and a place behind all whose first token was due once."""
    return Slo(
        ttft_s=MAX_TTFT_MS / 1e3,
        tpot_s=tiers_s[-1],
        tier=len(tiers_s) - 1,
        class_name=base.name,
        wished_tpot_s=tiers_s[-1],
        is_best_effort=True,
    )


def _times(wish: Wish, key: KeyConfig | None, config: GatewayConfig, base: SloClass) -> tuple[_Time, _Time]:
    """Return TTFT and TPOT: as numbers say, else as the class says; each with what the key may ask for."""
    least_ttft_ms, least_tpot_ms = _minima_ms(key, base, config)
    ttft_source, tpot_source = wish.ttft_source or wish.class_source, wish.tpot_source or wish.class_source
    return (
        _Time("ttft_ms", ttft_source, base.ttft_ms if wish.ttft_ms is None else wish.ttft_ms, least_ttft_ms),
        _Time("tpot_ms", tpot_source, base.tpot_ms if wish.tpot_ms is None else wish.tpot_ms, least_tpot_ms),
    )


def _minima_ms(key: KeyConfig | None, base: SloClass, config: GatewayConfig) -> tuple[float, float]:
    """Return the tightest TTFT and TPOT that a key may ask for.

    Its minima; a class that it lists is granted as it is, below them too. Without minima the tightest that its
    classes promise, as it could name these; without classes either there is no bound.
    """
    if key is None:
        return 0.0, 0.0
    listed = [entry for entry in config.promises if key.classes is not None and entry.name in key.classes]
    ttft_ms = min((entry.ttft_ms for entry in listed), default=0.0) if key.min_ttft_ms is None else key.min_ttft_ms
    tpot_ms = min((entry.tpot_ms for entry in listed), default=0.0) if key.min_tpot_ms is None else key.min_tpot_ms
    if base in listed:
        return min(ttft_ms, base.ttft_ms), min(tpot_ms, base.tpot_ms)
    return ttft_ms, tpot_ms


def _too_tight(times: tuple[_Time, ...]) -> Refusal | None:
    """Refuse what a key may not ask for; defaults, which nobody asked for, never."""
    for time in times:
        if time.source is not None and time.is_too_tight:
            return Refusal(
                "too_tight",
                f"{time.source}: this API key may ask for a {time.key} of {time.least_ms:g} or more, "
                f"got {time.wished_ms:g}; ask for {time.least_ms:g}, or ask who runs this gateway",
                time.source,
            )
    return None


def _infeasible(time: _Time, fastest_s: float) -> Refusal | None:
    """Refuse what no instance of the fleet keeps, naming what the fastest do."""
    if time.source is None or time.wished_ms / 1e3 >= fastest_s * (1 - SAME_RATIO):
        return None
    what = "this fleet keeps" if time.key == "tpot_ms" else "an idle instance can give this prompt"
    fastest = f"{math.ceil(1e3 * fastest_s * (1 - SAME_RATIO) * 100) / 100:g}"
    return Refusal(
        "infeasible",
        f"{time.source}: the fastest {time.key} that {what} is {fastest}, got {time.wished_ms:g}; "
        f"ask for {fastest} or more",
        time.source,
        retry_after_s=INFEASIBLE_RETRY_S,
    )


def _clamps(*times: tuple[_Time, float]) -> tuple[Clamp, ...]:
    """Return what was wished and is granted looser; defaults, which nobody wished, are not told."""
    return tuple(
        Clamp(time.key, time.wished_ms, _ms(granted_s))
        for time, granted_s in times
        if time.source is not None and time.wished_ms < 1e3 * granted_s * (1 - SAME_RATIO)
    )


def _ms(time_s: float) -> float:
    return round(1e3 * time_s, 6)


@lru_cache(maxsize=4096)  # tier_of is made for arrays: 12 us a number
def _tier(tpot_s: float, tiers_s: tuple[float, ...]) -> int:
    return int(tier_of(tpot_s, tiers_s))
