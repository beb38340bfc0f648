"""Profiles by name (shipped with the package), by file, or estimated: `roofline:MODEL:GPU`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from polyslo.core.extent import Extent
from polyslo.core.measured import MOST, MeasuredPoints, build_profile, read_points
from polyslo.core.point_grid import grid_of
from polyslo.core.profile import Profile
from polyslo.errors import ProfileError, nearest
from polyslo.profiles.default import DEFAULT_PROFILE as DEFAULT_PROFILE
from polyslo.profiles.roofline import PREFIX, SYNTAX, Roofline

_FACTS = (
    "model", "system", "tensor_parallel", "engine", "engine_version", "dtype", "kv_dtype", "source", "levelled",
    "expected_error", "conditions", "measured_on", "noise", "held_out_error",
)  # fmt: skip
_KINDS = ("decode", "prefill", "mixed")


@dataclass(frozen=True, slots=True, eq=False)
class NamedProfile:
    """A profile with its points and the facts that its file states (model, GPU, engine, source)."""

    name: str
    profile: Profile
    points: MeasuredPoints
    facts: Mapping[str, Any]

    @property
    def is_estimate(self) -> bool:
        """Whether its points were estimated; then comparing them with the tables says nothing about a real engine."""
        return "expected_error" in self.facts

    def extrapolations(self, largest: Extent) -> tuple[str, ...]:
        """Say how far iterations went beyond the points, in one notice; none where they did not."""
        beyond = largest.beyond(self.points.extent)
        return (f"iterations were extrapolated beyond the points of profile {self.name}: {beyond}",) if beyond else ()


def shipped_profiles() -> list[str]:
    """Return the names of the profiles in the package."""
    folder = files("polyslo.profiles") / "data"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_profile(name_or_path: str | Path, *, host_s: float = 0.0) -> NamedProfile:
    """Load a shipped profile by name, one from a JSON file, or estimate one; `host_s` is the engine's time per step.

    `roofline:MODEL:GPU[:tpN][:fp8]` estimates, see `roofline.py`. Raises `ProfileError` for unknown names (naming
    the nearest), unreadable files, holes, falling times, and models that don't fit into a GPU's memory.
    """
    if str(name_or_path).startswith(PREFIX):
        return estimate(Roofline.parse(str(name_or_path)), host_s=host_s)
    text, name = _read(str(name_or_path))
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ProfileError(
            f"{name_or_path}:{error.lineno}:{error.colno}: not JSON, {error.msg}; see a shipped profile for the format"
        ) from error
    except ValueError as error:
        raise ProfileError(
            f"{name_or_path}: holds a number of more digits than can be read; correct the file"
        ) from error
    except RecursionError as error:
        raise ProfileError(f"{name_or_path}: no profile, its JSON is nested too deep; correct the file") from error
    return parse_profile(data, name, where=str(name_or_path), host_s=host_s)


def parse_profile(data: Any, name: str, *, where: str, host_s: float = 0.0) -> NamedProfile:
    """Build a profile from the content of a file; errors name `where`."""
    if not isinstance(data, dict):
        raise ProfileError(f"{where}: a profile is a JSON object, got {type(data).__name__}")
    for key in ("kv_capacity_tokens", "kv_bytes_per_token"):
        value = data.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST:
            raise ProfileError(
                f"{where}: {key} must be a number from 1 to 10^9, got {value!r:.40}; state it in the file"
            )
    points = read_points(data, where)
    profile = build_profile(
        points,
        kv_capacity_tokens=int(data["kv_capacity_tokens"]),
        kv_bytes_per_token=float(data["kv_bytes_per_token"]),
        host_s=host_s,
    )
    facts = {key: data[key] for key in _FACTS if key in data}
    return NamedProfile(name, profile, points, facts)


def estimate(roofline: Roofline, *, host_s: float = 0.0) -> NamedProfile:
    """Build the profile of a roofline estimate, through the same tables as a measured one."""
    return parse_profile(roofline.content(), roofline.name, where=roofline.name, host_s=host_s)


def profile_text(content: Mapping[str, Any]) -> str:
    """Return a profile file's text: one fact and one point a line, and the grid that the points must not lose."""
    facts = {key: value for key, value in content.items() if key not in _KINDS} | {"grid": grid_of(content)}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items()]
    for kind in _KINDS:
        if kind in content:
            rows = ",\n    ".join(json.dumps(row) for row in content[kind])
            lines.append(f"  {json.dumps(kind)}: [\n    {rows}\n  ]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _read(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path)
    if path.suffix == ".json" or "/" in name_or_path:
        try:
            return path.read_text(encoding="utf-8"), path.stem
        except OSError as error:
            raise ProfileError(f"{path}: can't be read, {error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise ProfileError(f"{path}: not text in UTF-8 (byte {error.start}); check the path") from error
    if name_or_path not in shipped_profiles():
        raise ProfileError(
            f"profile: unknown {name_or_path!r}{nearest(name_or_path, shipped_profiles())} {SYNTAX} estimates one"
        )
    return (files("polyslo.profiles") / "data" / f"{name_or_path}.json").read_text(), name_or_path
