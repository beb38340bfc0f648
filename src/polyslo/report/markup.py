"""The parts that a page is made of: document, section, table, figure, list, download.

Arguments called `html` (or made by a function of this file) are inserted as they are; everything else is
text and is escaped here, once. A page refers to nothing outside itself.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from polyslo.report.canvas import to_svg
from polyslo.report.palette import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE_PX = 720
NARROW_PX = 340


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: its name, its cells, which of them are best, and whether it is polyserve's."""

    name: str
    cells: Sequence[str]
    best: Collection[int] = ()
    is_ours: bool = False


def document(title: str, kicker: str, body_html: str) -> str:
    """Wrap a body into a whole page with its styles and script."""
    parts = files("polyslo.report")
    css = _theme_css() + parts.joinpath("page.css").read_text(encoding="utf-8")
    script = parts.joinpath("page.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        '<div class="page">\n<header class="top">'
        f'<span class="kicker"><b>polyslo</b> {escape(kicker)}</span>'
        '<button class="toggle" type="button" hidden>Dark theme</button></header>\n'
        f"<main>\n{body_html}\n</main>\n"
        "<footer>Made by polyslo. This page is one file: nothing is loaded from anywhere.</footer>\n"
        f"</div>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """Make the page's one main heading; ratios such as `1.31x` stand out in it."""
    ratio = re.compile(r"(\bonly )?\b\d+\.\d\dx\b")
    return f"<h1>{ratio.sub(lambda found: f'<strong>{found[0]}</strong>', escape(text))}</h1>"


def section(title: str, *parts_html: str) -> str:
    """Make a titled section."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts_html, "</section>"])


def paragraph(text: str, css_class: str = "") -> str:
    """Make a paragraph."""
    attribute = f' class="{css_class}"' if css_class else ""
    return f"<p{attribute}>{escape(text)}</p>"


def bullets(sentences: Iterable[str]) -> str:
    """Make a list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def notes(sentences: Iterable[str]) -> Iterator[str]:
    """Make a titled list of notes; nothing where there are none."""
    found = list(sentences)
    if found:
        yield "<h3>Notes</h3>" + bullets(found)


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Make a list of terms and what they mean."""
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in pairs) + "</dl>"


def table(caption: str, head: Sequence[str], rows: Iterable[Row]) -> str:
    """Make a table that scrolls by itself when it is wider than the screen; best cells get a star."""
    size = "scroll small" if len(head) <= 3 else "scroll"
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(_row(row) for row in rows)
    return (
        f'<p class="caption">{escape(caption)}</p>\n'
        f'<div class="{size}" role="region" tabindex="0" aria-label="{escape(caption)}"><table>\n'
        f"<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def details(summary: str, body_html: str) -> str:
    """Fold a part away behind its summary."""
    return f"<details><summary>{escape(summary)}</summary>\n{body_html}\n</details>"


def figure(name: str, caption: str, label: str, draw: Callable[[float], Figure]) -> str:
    """Draw a figure for wide and for narrow screens; styles show one of them.

    `draw` takes the width in pixels. `label` says in words what the figure shows, for those who can't see it.
    """
    wide = to_svg(draw(WIDE_PX), f"{name}-wide", label)
    narrow = to_svg(draw(NARROW_PX), f"{name}-narrow", label)
    return (
        f'<figure id="{name}">\n<div><div class="figure-wide">{wide}</div>\n'
        f'<div class="figure-narrow">{narrow}</div></div>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )


def attachment_href(text: str) -> str:
    """Pack a text into a data: address, compressed; equal texts give equal addresses."""
    packed = gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)
    return "data:application/gzip;base64," + base64.b64encode(packed).decode("ascii")


def download(href: str, file_name: str, text: str) -> str:
    """Make a link that saves an attachment."""
    return f'<p><a class="download" download="{escape(file_name)}" href="{href}">{escape(text)}</a></p>'


def _row(row: Row) -> str:
    cells = "".join(
        f'<td class="best">{escape(cell)}</td>' if i in row.best else f"<td>{escape(cell)}</td>"
        for i, cell in enumerate(row.cells)
    )
    attribute = ' class="ours"' if row.is_ours else ""
    return f'<tr{attribute}><th scope="row">{escape(row.name)}</th>{cells}</tr>'


def _theme_css() -> str:
    """Define the colours: light, dark when the system or the switch says so, and light on paper."""
    light, dark = _variables(LIGHT), _variables(DARK)
    return (
        f":root {{ color-scheme: light; {light} }}\n"
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) '
        f"{{ color-scheme: dark; {dark} }} }}\n"
        f':root[data-theme="dark"] {{ color-scheme: dark; {dark} }}\n'
        f"@media print {{ :root:root:root {{ color-scheme: light; {light} }} }}\n"
    )


def _variables(theme: Theme) -> str:
    return " ".join(f"--{role}: {colour};" for role, colour in theme.colours().items())
