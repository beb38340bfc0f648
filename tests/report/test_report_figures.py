from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from drawn_texts import overlaps
from plausible import plausible_comparison, plausible_goodputs, plausible_plan

from polyslo.errors import InputError
from polyslo.profiles.library import load_profile, shipped_profiles
from polyslo.report.canvas import save_figure, to_svg
from polyslo.report.curve_figures import attainment_figure, cost_figure
from polyslo.report.goodput_figure import goodput_figure
from polyslo.report.palette import DARK, LIGHT, NUM_TIER_STEPS, ROLES, Theme, policy_style, tier_role
from polyslo.report.plan_figure import plan_figure
from polyslo.report.profile_figure import profile_figure
from polyslo.report.run_figures import (
    gradient_figure,
    instances_figure,
    pending_figure,
    rolling_attainment_figure,
)
from polyslo.report.scales import short_text
from polyslo.report.tier_figure import tier_figure
from polyslo.sim.results import Comparison, RunResult

OF_COMPARISON = (attainment_figure, cost_figure, goodput_figure, tier_figure)
OF_RUN = (gradient_figure, instances_figure, pending_figure, rolling_attainment_figure)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio as WCAG defines it, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("width_px", [340, 720, 1000])
@pytest.mark.parametrize("draw", OF_COMPARISON)
def test_no_label_of_a_comparison_overlaps(comparison: Comparison, draw: Callable[..., Any], width_px: int) -> None:
    """At every width, texts keep clear of each other and of the edges."""
    assert overlaps(draw(comparison, width_px=width_px)) == []


@pytest.mark.parametrize("width_px", [340, 720])
@pytest.mark.parametrize("draw", OF_RUN)
def test_no_label_of_a_run_overlaps(run: RunResult, draw: Callable[..., Any], width_px: int) -> None:
    """At every width, texts keep clear of each other and of the edges."""
    assert overlaps(draw(run, width_px=width_px)) == []


@pytest.mark.parametrize("width_px", [340, 720])
@pytest.mark.parametrize("draw", OF_COMPARISON)
def test_crowded_lines_and_long_names_do_not_overlap(draw: Callable[..., Any], width_px: int) -> None:
    """Nine policies that end at the same attainment, some with long names, still read."""
    names = ["polyserve", "chunk-512-with-relegation", *(f"baseline-{i}" for i in range(7))]
    crowded = plausible_comparison(dict.fromkeys(names, 380.0), with_timeline=False)
    assert overlaps(draw(crowded, width_px=width_px)) == []


@pytest.mark.parametrize("width_px", [340, 720])
def test_no_label_of_goodputs_or_plans_overlaps(width_px: int) -> None:
    """With few policies and many, long names, small fleets and large."""
    assert overlaps(goodput_figure(plausible_goodputs(), width_px)) == []
    assert overlaps(plan_figure(plausible_plan(mode="pd"), width_px)) == []
    names = ["polyserve", "chunk-512-with-relegation", *(f"baseline-{i}" for i in range(7))]
    for size in (1, 17, 4096):
        assert overlaps(plan_figure(plausible_plan(dict.fromkeys(names, size)), width_px)) == []


@pytest.mark.parametrize("draw", OF_COMPARISON)
def test_an_svg_follows_the_theme(comparison: Comparison, draw: Callable[..., Any]) -> None:
    """Every colour is a CSS variable, text is text, and nothing points outside."""
    svg = to_svg(draw(comparison), "name", "what it shows")
    assert ElementTree.fromstring(svg).get("role") == "img"
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert set(re.findall(r"var\(--([\w-]+)\)", svg)) <= {*ROLES, "figure-font"}
    assert "<text" in svg
    assert "http" not in svg
    assert "20" in svg


@pytest.mark.parametrize("draw", [*OF_COMPARISON, *OF_RUN])
def test_an_svg_is_the_same_every_time(comparison: Comparison, run: RunResult, draw: Callable[..., Any]) -> None:
    """Equal results give equal bytes: no dates, no random ids."""
    subject = comparison if draw in OF_COMPARISON else run
    assert to_svg(draw(subject), "name", "label") == to_svg(draw(subject), "name", "label")


def test_drawing_leaves_the_callers_settings_alone(comparison: Comparison) -> None:
    """A notebook's own matplotlib style neither changes the figure nor is changed."""
    import matplotlib

    plain = to_svg(attainment_figure(comparison), "name", "label")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert to_svg(attainment_figure(comparison), "name", "label") == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_a_policy_name_is_never_read_as_mathematics(comparison: Comparison) -> None:
    """Dollar signs and angle brackets in a name are shown as they are."""
    odd = plausible_comparison({"polyserve": 400.0, "a$b$<c>": 350.0}, with_timeline=False)
    svg = to_svg(attainment_figure(odd), "name", "label")
    assert "a$b$&lt;c&gt;" in svg


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_files_are_written_in_the_colours_of_a_theme(
    comparison: Comparison, tmp_path: Path, theme: Theme, suffix: str
) -> None:
    """The surface and the accent of the theme are in the file; no placeholder is left."""
    import matplotlib.image

    figure = attainment_figure(comparison)
    path = tmp_path / f"attainment{suffix}"
    save_figure(figure, path, theme)
    if suffix == ".svg":
        svg = path.read_text(encoding="utf-8")
        assert theme.surface in svg
        assert theme.ours[0] in svg
        assert not re.search(r"#fa[0-9a-f]{2}fb", svg)
    else:
        pixels = matplotlib.image.imread(path)[:, :, :3]
        corner = "#" + "".join(f"{round(255 * float(c)):02x}" for c in pixels[0, 0])
        assert corner == theme.surface
        assert not ((pixels[:, :, 0] > 0.9) & (pixels[:, :, 1] < 0.3) & (pixels[:, :, 2] > 0.9)).any()


def test_another_file_type_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    """The error names the types that can be written."""
    with pytest.raises(InputError, match=r"ends in \.svg or \.png, got '\.bmp'"):
        save_figure(attainment_figure(comparison), tmp_path / "x.bmp", LIGHT)


def test_a_run_without_a_timeline_can_not_be_drawn(run: RunResult) -> None:
    """The error says what is missing."""
    with pytest.raises(InputError, match="no timeline"):
        instances_figure(replace(run, timeline=None))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_colours_have_contrast(theme: Theme) -> None:
    """Text has a contrast of 4.5 to its ground, lines and areas of 3 (WCAG AA)."""
    colours = theme.colours()
    for role, colour in colours.items():
        if role in ("ink", "muted") or role.startswith("policy-"):
            assert contrast(colour, theme.surface) >= 4.5, role
        if role.startswith("tier-"):
            assert contrast(colour, theme.surface) >= 3, role
    for ground, ink in zip(theme.heat, theme.heat_ink, strict=True):
        assert contrast(ground, ink) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_the_tier_ramp_only_gets_lighter(theme: Theme) -> None:
    """Tight to loose is dark to light, so that the order survives colour blindness and grey paper."""
    colours = theme.colours()
    steps = [luminance(colours[f"tier-{i}"]) for i in range(NUM_TIER_STEPS)]
    assert steps == sorted(steps)


def test_policies_and_tiers_look_different() -> None:
    """Five baselines differ by dash and marker as well as by colour; tiers spread over the whole ramp."""
    policies = ["polyserve", *"abcde"]
    styles = [policy_style(policy, policies) for policy in policies]
    assert len({str((s.dash, s.marker)) for s in styles}) == len(policies)
    assert len({s.colour for s in styles}) == len(policies)
    assert [tier_role(k, 4) for k in range(4)] == ["tier-0", "tier-4", "tier-7", "tier-11"]


@pytest.mark.parametrize("name", [*shipped_profiles(), "roofline:llama-3.1-8b:h100"])
def test_no_label_of_a_profile_overlaps(name: str) -> None:
    """Ticks on logarithmic axes, titles and legends keep clear of each other and of the edges."""
    assert overlaps(profile_figure(load_profile(name))) == []


@pytest.mark.parametrize(("number", "text"), [(0.5, "0.5"), (20.0, "20"), (5000.0, "5k"), (2e6, "2M")])
def test_round_numbers_are_short(number: float, text: str) -> None:
    """Ticks read at a glance."""
    assert short_text(number) == text


def test_lines_that_end_apart_have_a_legend(comparison: Comparison) -> None:
    """Where one policy was run further than the others, no leader crosses the figure."""
    runs = tuple(run for run in comparison.runs if run.policy == "polyserve" or run.rate_rps < 450)
    ragged = replace(comparison, runs=runs)
    for draw in OF_COMPARISON:
        assert overlaps(draw(ragged, width_px=720)) == []
