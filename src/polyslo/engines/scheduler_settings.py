"""Settings of the scheduler plug-in, as they stand under `polyslo` in an engine's `--additional-config`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from polyslo.core.profile import Profile
from polyslo.errors import ConfigError, reject_unknown_keys
from polyslo.profiles.library import load_profile

WHERE = "additional-config: polyslo"
_RANGES = {
    "speed": (1e-3, 1e3),
    "host_ms": (0.0, 1e3),
    "margin_ratio": (0.0, 0.9),
    "pace": (1e-3, 1e3),
    "steps_max_bytes": (4096, 1 << 40),
}


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """What the plug-in is told. Without a profile it schedules as vLLM does and only records its steps."""

    profile: str | None = None  # a shipped profile, a file or roofline:MODEL:GPU
    speed: float = 1.0  # times the profile's
    host_ms: float = 0.0  # the engine's own time per step, which shipped profiles leave out
    margin_ratio: float = 0.0  # of each TPOT, kept free; the router's pace has its own in it
    pace: float | None = None  # make each step last as long as the profile says, at so many times its speed
    steps_file: str | None = None  # where each step's facts are appended
    steps_max_bytes: int = 64 << 20  # size at which that file becomes FILE.1 and a new one is begun
    untested_vllm: bool = False  # run with a version of vLLM that this was not tested with

    @staticmethod
    def parse(given: Any) -> SchedulerSettings:
        """Read the table; raises `ConfigError` for unknown keys, wrong kinds and ranges."""
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            raise ConfigError(f"{WHERE}: must be a JSON object, got {given!r}")
        kinds = {field.name: field.type for field in fields(SchedulerSettings)}
        reject_unknown_keys(given, kinds, WHERE)
        settings = SchedulerSettings(**{name: _checked(name, str(kinds[name]), given[name]) for name in given})
        if settings.profile is None and settings.steps_file is None:
            raise ConfigError(f"{WHERE}: nothing to do; set profile (that of this engine), or steps_file to measure it")
        if settings.pace is not None and settings.profile is None:
            raise ConfigError(f"{WHERE}: pace needs a profile to keep to; set profile")
        return settings

    def load(self) -> Profile | None:
        """Return the engine's profile; raises `ProfileError`."""
        if self.profile is None:
            return None
        profile = load_profile(self.profile, host_s=self.host_ms / 1e3).profile
        return profile if self.speed == 1.0 else profile.slowed(1.0 / self.speed)


def _checked(name: str, kind: str, value: Any) -> Any:
    if kind.startswith("bool"):
        if not isinstance(value, bool):
            raise ConfigError(f"{WHERE}.{name}: must be true or false, got {value!r}")
        return value
    if kind.startswith("str"):
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{WHERE}.{name}: must be a text, got {value!r}")
        return value
    low, high = _RANGES[name]
    allowed = int if kind == "int" else int | float
    if isinstance(value, bool) or not isinstance(value, allowed) or not math.isfinite(value):
        raise ConfigError(f"{WHERE}.{name}: must be a number, got {value!r}")
    if not low <= value <= high:
        raise ConfigError(f"{WHERE}.{name}: must be from {low:g} to {high:g}, got {value:g}")
    return value
