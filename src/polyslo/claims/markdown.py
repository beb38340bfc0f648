"""Markdown as the page needs it: tables whose cells can hold anything, folded parts, pictures in two themes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

Row = Sequence[str]

NBSP = "\u00a0"  # a space at which no line breaks


def table(header: Row, rows: Sequence[Row], align: str) -> str:
    """Return a table; `align` has a letter a column, `l` or `r`. A row that is shorter is filled with empty cells."""
    rules = ["---:" if letter == "r" else "---" for letter in align]
    filled = [[*row, *[""] * (len(header) - len(row))] for row in rows]
    return "\n".join(
        _line(cells) for cells in ([_safe(c) for c in header], rules, *([_safe(c) for c in r] for r in filled))
    )


def plain(text: str) -> str:
    """Write a name so that Markdown leaves its characters alone."""
    return re.sub(r"([\\`*<\[\]])", r"\\\1", text)


def code(text: str) -> str:
    """Write a policy or a command as code."""
    return f"`{text}`"


def bold(text: str) -> str:
    """Write in bold."""
    return f"**{text}**"


def opening(text: str) -> str:
    """Write a text as it begins a sentence or a heading."""
    return text[:1].upper() + text[1:]


def bullets(sentences: Sequence[str]) -> str:
    """Return a list of sentences."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def folded(summary: str, *parts: str) -> str:
    """Return parts that are shown when a reader asks for them."""
    return "\n\n".join([f"<details><summary>{escape(summary)}</summary>", *parts, "</details>"])


def picture(path: str, alt: str, caption: str) -> str:
    """Embed `PATH-light.svg`, or `PATH-dark.svg` where the reader's theme is dark, over its caption."""
    dark, light = (f"{path}-{theme}.svg" for theme in ("dark", "light"))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(alt)}" src="{light}"></picture>\n\n*{caption}*'
    )


def listed(names: Sequence[str]) -> str:
    """Write names in a sentence: `a`, `a and b`, `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _safe(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " ")


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"
