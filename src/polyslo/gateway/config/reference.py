"""The reference of the configuration, written from the classes that read it, so that the two can't differ.

`python -m polyslo.gateway.config.reference docs/gateway-config.md` writes it anew between the page's two marks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.kinds import Kind
from polyslo.gateway.config.slo import UNPROMISED_MS
from polyslo.gateway.config.table import NamedTables, Setting, Table, Tables, settings_of

BEGIN, END = "<!-- written by polyslo.gateway.config.reference -->", "<!-- end of what is written -->"
HEADER = "| key | allowed | default | meaning |\n|---|---|---|---|"


def reference() -> str:
    """Return the reference in Markdown: a section for each table, a row for each key."""
    own = [(entry, declared) for entry, declared in settings_of(GatewayConfig) if _table_of(declared.kind) is None]
    parts = ["### Before the first table", "", HEADER, *(_row(entry, declared) for entry, declared in own)]
    for entry, declared in settings_of(GatewayConfig):
        parts += _section(entry.name, declared)
    return "\n".join(parts) + "\n"


def with_reference(page: str) -> str:
    """Return a page with the reference between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{reference()}{END}{after}"


def _section(path: str, declared: Setting) -> Iterator[str]:
    """Yield the lines of a table and of the tables in it; none for a key that is no table."""
    cls = _table_of(declared.kind)
    if cls is None:
        return
    yield from ("", f"### `{_heading(path, declared.kind)}`", "", declared.meaning, "", HEADER)
    inner = list(settings_of(cls))
    for entry, below in inner:
        if _table_of(below.kind) is None:
            yield _row(entry, below)
    for entry, below in inner:
        yield from _section(f"{path}.{entry.name}", below)


def _table_of(kind: Kind) -> type | None:
    return kind.cls if isinstance(kind, Table | NamedTables | Tables) else None


def _heading(path: str, kind: Kind) -> str:
    if isinstance(kind, Tables):
        return f"[[{path}]]"
    return f"[{path}.{kind.noun}]" if isinstance(kind, NamedTables) else f"[{path}]"


def _row(entry: Field[Any], declared: Setting) -> str:
    allowed = declared.kind.allowed.replace("|", "\\|")
    return f"| `{entry.name}` | {allowed} | {_default(entry.default)} | {declared.meaning} |"


def _default(value: Any) -> str:
    """Write a default as TOML does; a dash where there is none, `required` where it must be given."""
    if value is MISSING:
        return "required"
    if value in (None, (), UNPROMISED_MS):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_reference(target.read_text(encoding="utf-8")), encoding="utf-8")
