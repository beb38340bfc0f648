"""What of a changed configuration can be had without a restart: whom requests may come from and what they may ask for.

Keys, classes and `[slo]` are read by each request as it arrives, so new ones hold from the next one on; a request
under way keeps what it was granted. The models' endpoints join and leave. Everything else is built into the fleet or
the ports, and is named, so that nobody believes it to hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import ModelConfig
from polyslo.gateway.config.table import Table, settings_of

GRANTING = ("slo", "classes", "keys")
SERVER_KEYS = {"admin_key_hash": "the admin key", "view_key_hash": "the key for looking"}  # of [server]
CHANGING = (*GRANTING, *(f"server.{name}" for name in SERVER_KEYS))


def reconfigured(started: GatewayConfig, new: GatewayConfig) -> GatewayConfig:
    """Return the configuration that a gateway was started with, with what may change at run time as in `new`.

    The tiers stay, also where they followed from the classes.
    """
    tiers = started.tiers
    if tiers.learn is None:
        tiers = replace(tiers, tpots_ms=tuple(1e3 * tpot_s for tpot_s in started.tiers_s))
    return replace(
        started,
        slo=new.slo,
        classes=new.classes,
        keys=new.keys,
        tiers=tiers,
        server=replace(started.server, **{name: getattr(new.server, name) for name in SERVER_KEYS}),
    )


def granting_changes(old: GatewayConfig, new: GatewayConfig) -> list[str]:
    """Name what differs of that which may change; keys and classes by their names."""
    told = [] if old.slo == new.slo else ["slo"]
    for noun, before, after in (("class", old.classes, new.classes), ("key", old.keys, new.keys)):
        was, now = {entry.name: entry for entry in before}, {entry.name: entry for entry in after}
        told += [f"{noun} {name} is new" for name in now if name not in was]
        told += [f"{noun} {name} is gone" for name in was if name not in now]
        told += [f"{noun} {name} is another" for name in now if name in was and was[name] != now[name]]
    changed = [noun for name, noun in SERVER_KEYS.items() if getattr(old.server, name) != getattr(new.server, name)]
    return [*told, *(f"{noun} is another" for noun in changed)]


def fixed_changes(started: GatewayConfig, new: GatewayConfig) -> list[str]:
    """Name the keys that differ and hold only from the next start on."""
    told = list(_differing(started, new, ""))
    if started.tiers == new.tiers and started.tiers_s != new.tiers_s:
        told.append("tiers (they follow the classes)")
    return told


def too_tight_classes(started: GatewayConfig, new: GatewayConfig) -> list[str]:
    """Name the classes that are tighter than the tightest tier that there is: they get that one's TPOT."""
    tightest_ms = 1e3 * started.tiers_s[0] * (1 - 1e-9)
    return [entry.name for entry in new.classes if entry.tpot_ms < tightest_ms]


def _differing(old: Any, new: Any, path: str) -> Iterator[str]:
    """Go through the keys of a table that differ, without those that may change."""
    for entry, declared in settings_of(type(old)):
        name, before, after = f"{path}{entry.name}", getattr(old, entry.name), getattr(new, entry.name)
        if before == after or name in CHANGING:
            continue
        if isinstance(declared.kind, Table):
            yield from _differing(before, after, f"{name}.")
        elif name == "models":
            yield from _differing_models(before, after)
        else:
            yield name


def _differing_models(old: tuple[ModelConfig, ...], new: tuple[ModelConfig, ...]) -> Iterator[str]:
    if [model.name for model in old] != [model.name for model in new]:
        yield "models"
        return
    for before, after in zip(old, new, strict=True):
        for entry, _ in settings_of(ModelConfig):
            if entry.name != "endpoints" and getattr(before, entry.name) != getattr(after, entry.name):
                yield f"models.{before.name}.{entry.name}"
