"""A matplotlib figure measured in CSS pixels, and its way to SVG that follows the page's theme.

One unit is one pixel: figures are set at 72 dpi, where a point is a pixel. Margins are set by hand and
not by a layout engine, so that the same data gives the same bytes. Text stays text, in the reader's
system font; matplotlib measures it with DejaVu Sans, which is wider than those, so what fits here fits there.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyslo.report.palette import Theme, placeholder, placeholders

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 72
PNG_DPI = 144
FONT_PX = 12
MARGIN_PX = 16  # around a figure in a file of its own
TITLE_PX = 24  # height of the title row
FONT_STACK = "system-ui,-apple-system,Segoe UI,Roboto,Helvetica,Arial,sans-serif"

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "polyslo",
    "font.family": ["DejaVu Sans"],
    "font.size": FONT_PX,
    "axes.unicode_minus": False,
    "text.parse_math": False,  # a policy may be called "a$b$"
}


def new_figure(width_px: float, height_px: float) -> Figure:
    """Make an empty figure; no pyplot, so no global list of figures grows."""
    from matplotlib.figure import Figure

    with drawing():
        return Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, facecolor="none")


def add_axes(figure: Figure, *, left_px: float, right_px: float, top_px: float, bottom_px: float) -> Axes:
    """Add axes by their margins to the figure's edges, styled quietly: no frame, a horizontal grid."""
    width_px, height_px = figure.get_size_inches() * DPI
    box = (
        left_px / width_px,
        bottom_px / height_px,
        max(1.0, width_px - left_px - right_px) / width_px,
        max(1.0, height_px - top_px - bottom_px) / height_px,
    )
    with drawing():
        axes = figure.add_axes(box, facecolor="none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(placeholder("muted"))
    axes.tick_params(colors=placeholder("muted"), length=0, pad=6, labelsize=FONT_PX)
    axes.grid(axis="y", color=placeholder("grid"), linewidth=1)
    axes.set_axisbelow(True)
    return axes


def write_title(figure: Figure, text: str) -> None:
    """Name the quantity of the y axis in the top `TITLE_PX` of the figure, where it reads without turning."""
    figure.text(0, 1, text, ha="left", va="top", color=placeholder("muted"))


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Render as an inline SVG whose colours are CSS variables.

    `name` prefixes every id, so that several figures can stand in one page; `label` is read out by
    screen readers.
    """
    svg = _render_svg(figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\g<1>#{name}-", svg)
    width, height = (round(float(v)) for v in re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2])
    opening = f'<svg class="figure" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}">'
    svg = opening + svg[svg.index(">") + 1 :]
    svg = _replace_colours(svg, lambda role: f"var(--{role})")
    return _shrink(svg.replace("'DejaVu Sans'", "var(--figure-font)").replace("xlink:href", "href"))


def save_figure(figure: Figure, path: Path | str, theme: Theme) -> None:
    """Write a figure to a .svg or .png file in the colours of one theme; the figure itself is unchanged."""
    from polyslo.errors import InputError

    path = Path(path)
    if path.suffix == ".svg":
        colours = theme.colours()
        svg = _replace_colours(_render_svg(figure, background=True), lambda role: colours[role])
        path.write_text(_shrink(svg.replace("'DejaVu Sans'", FONT_STACK)), encoding="utf-8")
    elif path.suffix == ".png":
        themed = pickle.loads(pickle.dumps(figure))
        _recolour(themed, theme)
        with drawing():
            box = _with_margin(themed)
            themed.savefig(path, dpi=PNG_DPI, facecolor=theme.surface, metadata={"Software": None}, bbox_inches=box)
    else:
        raise InputError(f"figure file {path}: expected a name that ends in .svg or .png, got {path.suffix!r}")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw under our settings; as a decorator, it makes a function that draws indifferent to the user's."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def _render_svg(figure: Figure, *, background: bool = False) -> str:
    buffer = io.StringIO()
    colour = placeholder("surface") if background else "none"
    box = _with_margin(figure) if background else None
    with drawing():
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor=colour, bbox_inches=box
        )
    return buffer.getvalue()


def _with_margin(figure: Figure) -> Any:
    """Return the figure's box, in inches, with a margin: a file has no page around it to give it one."""
    from matplotlib.transforms import Bbox

    width, height = figure.get_size_inches()
    margin = MARGIN_PX / DPI
    return Bbox([[-margin, -margin], [width + margin, height + margin]])


def _replace_colours(svg: str, colour: Callable[[str], str]) -> str:
    for stand_in, role in placeholders().items():
        svg = svg.replace(stand_in, colour(role))
    return svg


def _shrink(svg: str) -> str:
    """Round coordinates to a tenth of a pixel and drop indentation; halves the size, changes no look."""

    def rounded(tag: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), tag[0])

    return re.sub(r"\n\s*", "\n", re.sub(r"<[^>]*>", rounded, svg)).strip()


def _recolour(figure: Figure, theme: Theme) -> None:
    """Exchange placeholders for a theme's colours in every artist (a PNG can't be edited as text)."""
    from matplotlib.colors import to_hex, to_rgba

    colours = theme.colours()
    roles = placeholders()

    def themed(value: Any) -> Any:
        if isinstance(value, str) and value == "none":
            return value
        rgba = to_rgba(value)
        role = roles.get(to_hex(rgba))
        return value if role is None else to_rgba(colours[role], rgba[3])

    figure.draw_without_rendering()
    for artist in figure.findobj():
        for getter, setter in _colour_properties(artist):
            value = getter()
            many = hasattr(value, "ndim") and value.ndim == 2
            setter([themed(v) for v in value] if many else themed(value))


def _colour_properties(artist: Any) -> Iterator[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    for name in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
        getter = getattr(artist, f"get_{name}", None)
        setter = getattr(artist, f"set_{name}", None)
        if getter and setter:
            yield getter, setter
