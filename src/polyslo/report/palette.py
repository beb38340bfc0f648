"""Colours by role, in a light and a dark theme, and which policy and tier gets which.

A figure is drawn once, with a placeholder colour a role; the placeholder then becomes a CSS variable
(a page that follows the reader's theme) or the colour of one theme (a file). Tiers are a ramp from
tight (deep indigo) to loose (green) whose lightness is monotone, so that it survives colour blindness
and grey printing. Polyserve is the only warm accent; baselines are quiet and differ by dash and marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polyslo.report.curves import OURS, is_ours

NUM_TIER_STEPS = 12  # steps of the tier ramp that have a colour of their own
HEAT_FLOORS = (0.0, 0.5, 0.8, 0.9, 0.99)  # attainment at which each heat class starts

RGB = tuple[int, int, int]


# The ramp is computed when the themes below are: hence ahead of them.
def _ramp(anchors: Sequence[str], num_steps: int) -> list[str]:
    """Interpolate between anchors in sRGB; they are close enough that no muddy middle shows."""
    colours = [_rgb(anchor) for anchor in anchors]
    steps = []
    for i in range(num_steps):
        place = i * (len(colours) - 1) / (num_steps - 1)
        low = min(int(place), len(colours) - 2)
        part = place - low
        mixed = (round(a + part * (b - a)) for a, b in zip(colours[low], colours[low + 1], strict=True))
        steps.append("#" + "".join(f"{channel:02x}" for channel in mixed))
    return steps


def _rgb(colour: str) -> RGB:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@dataclass(frozen=True, slots=True)
class Theme:
    """The colours of one theme, as #rrggbb."""

    name: str
    ink: str
    muted: str
    grid: str
    surface: str
    panel: str  # behind tables and insets
    ours: tuple[str, str]  # polyserve, and its variants
    baselines: tuple[str, ...]
    tier_anchors: tuple[str, ...]  # tight to loose
    idle: str
    prefill: str
    heat: tuple[str, ...]  # one a class of HEAT_FLOORS, failing to attaining
    heat_ink: tuple[str, ...]

    def colours(self) -> dict[str, str]:
        """Map every role to its colour."""
        roles = {name: getattr(self, name) for name in PLAIN_ROLES}
        roles |= {f"policy-ours-{i}": colour for i, colour in enumerate(self.ours)}
        roles |= {f"policy-{i}": colour for i, colour in enumerate(self.baselines)}
        roles |= {f"tier-{i}": colour for i, colour in enumerate(_ramp(self.tier_anchors, NUM_TIER_STEPS))}
        roles |= {f"heat-{i}": colour for i, colour in enumerate(self.heat)}
        roles |= {f"heat-ink-{i}": colour for i, colour in enumerate(self.heat_ink)}
        return roles


@dataclass(frozen=True, slots=True)
class PolicyStyle:
    """How a policy's line is drawn; the dash and marker tell policies apart without colour."""

    colour: str  # placeholder
    dash: Any  # matplotlib linestyle
    marker: str
    width_px: float


PLAIN_ROLES = ("ink", "muted", "grid", "surface", "panel", "idle", "prefill")

LIGHT = Theme(
    name="light",
    ink="#1d1f23",
    muted="#5a6068",
    grid="#e2dfd8",
    surface="#fdfcf9",
    panel="#f5f3ee",
    ours=("#c33d1b", "#a55a30"),
    baselines=("#4f6272", "#80651b", "#7a5483", "#4f7040", "#2f7489", "#85533d", "#9a3f68", "#3d4f9c"),
    tier_anchors=("#2b2470", "#2a66b0", "#1f938c", "#6d9a2c"),
    idle="#e4e1da",
    prefill="#b9b3a6",
    heat=("#b5331c", "#dd7a53", "#f0b98f", "#d5e4e0", "#8fc1ba"),
    heat_ink=("#ffffff", "#1d1f23", "#1d1f23", "#1d1f23", "#1d1f23"),
)

DARK = Theme(
    name="dark",
    ink="#e9e7e2",
    muted="#a3a8b0",
    grid="#2e3238",
    surface="#15171a",
    panel="#1d2024",
    ours=("#ff8a5f", "#d99a72"),
    baselines=("#9db0c1", "#cdb266", "#c6a2ce", "#a0c18e", "#83c0d3", "#d0a188", "#e59ab8", "#a3b1f2"),
    tier_anchors=("#6a70e0", "#4b9ae2", "#45c4b4", "#bfe283"),
    idle="#2e3238",
    prefill="#565c64",
    heat=("#e0563a", "#a94f31", "#6d4431", "#2b4a4a", "#2f7a72"),
    heat_ink=("#15171a", "#ffffff", "#ffffff", "#ffffff", "#ffffff"),
)

ROLES = tuple(LIGHT.colours())

BASELINE_DASHES: tuple[Any, ...] = (
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (7, 2, 1.5, 2)),
    (0, (10, 3)),
    (0, (1, 1.2)),
)
BASELINE_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">")


def placeholder(role: str) -> str:
    """Give the colour that stands for a role while a figure is drawn; no theme uses any of them."""
    return f"#fa{ROLES.index(role):02x}fb"


def placeholders() -> dict[str, str]:
    """Map each placeholder colour to its role."""
    return {placeholder(role): role for role in ROLES}


def policy_style(policy: str, policies: Sequence[str]) -> PolicyStyle:
    """Style one policy of a comparison; its place among the baselines decides hue, dash and marker."""
    if policy == OURS:
        return PolicyStyle(placeholder("policy-ours-0"), "-", "o", 2.4)
    if is_ours(policy):
        variant = [p for p in policies if is_ours(p) and p != OURS].index(policy)
        return PolicyStyle(placeholder("policy-ours-1"), BASELINE_DASHES[variant % 2], "o", 1.6)
    place = [p for p in policies if not is_ours(p)].index(policy)
    return PolicyStyle(
        placeholder(f"policy-{place % len(LIGHT.baselines)}"),
        BASELINE_DASHES[place % len(BASELINE_DASHES)],
        BASELINE_MARKERS[place % len(BASELINE_MARKERS)],
        1.5,
    )


def tier_role(tier: int, num_tiers: int) -> str:
    """Spread the tiers over the whole ramp, so that two tiers differ as much as twelve can."""
    step = round(tier * (NUM_TIER_STEPS - 1) / max(1, num_tiers - 1))
    return f"tier-{min(step, NUM_TIER_STEPS - 1)}"


def heat_class(share: float) -> int:
    """Class of an attainment: the last floor that it reaches."""
    return max(i for i, floor in enumerate(HEAT_FLOORS) if share >= floor)
