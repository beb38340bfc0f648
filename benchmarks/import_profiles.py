"""Rewrite measured-iteration files as the profiles that the package ships: the same numbers, one row a line.

python benchmarks/import_profiles.py FOLDER_WITH_JSON_FILES [FOLDER_TO_WRITE]

Measured tables have spikes: a batch that takes longer than a larger one, because a kernel was chosen badly or the
measurement was disturbed. A profile may not fall by more than 10% as work grows. Where a table does, every point of
it is lowered to the least time of those with more work, and the file says how many and by how much: disturbances only
ever add time. (Dips of up to 10% are levelled upwards when the profile is built.)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from polyslo.core.measured import DIP_TOLERANCE_RATIO
from polyslo.profiles.library import profile_text

SHIPPED = Path(__file__).parents[1] / "src/polyslo/profiles/data"
COLUMNS = {"decode": ("decodes", "context", "ms"), "prefill": ("chunk", "prefix", "ms"),
           "mixed": ("chunk", "decodes", "context", "ms")}  # fmt: skip


def main() -> None:
    """Convert every file of the folder given."""
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else SHIPPED
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        data = json.loads(path.read_text())
        points = {kind: [{c: row[c] for c in columns} for row in data[kind]] for kind, columns in COLUMNS.items()}
        cuts = [cut for kind in ("decode", "prefill") for cut in lower_spikes(points[kind], COLUMNS[kind][:2])]
        if cuts:
            total = len(points["decode"]) + len(points["prefill"])
            data["levelled"] = (
                f"{len(cuts)} of {total} points lowered to a larger batch's time, by {max(cuts):.0%} at most"
            )
        name = path.stem.replace("_", "-")
        (folder / f"{name}.json").write_text(profile_text(data | points))
        print(name, data.get("levelled", ""))


def lower_spikes(rows: list[dict[str, Any]], axes: tuple[str, ...]) -> list[float]:
    """Lower a falling table to its lower envelope, in place; return the shares cut off, none where nothing falls."""
    envelope = [min(other["ms"] for other in rows if all(other[axis] >= row[axis] for axis in axes)) for row in rows]
    if not any(_falls(rows, axis, other) for axis, other in (axes, axes[::-1])):
        return []
    cuts = [1 - least / row["ms"] for row, least in zip(rows, envelope, strict=True) if least < row["ms"]]
    for row, least in zip(rows, envelope, strict=True):
        row["ms"] = least
    return cuts


def _falls(rows: list[dict[str, Any]], axis: str, fixed: str) -> bool:
    """Tell whether a row with more work, the other axis being the same, takes less by more than the tolerance."""
    return any(
        other[fixed] == row[fixed] and other[axis] > row[axis] and other["ms"] < (1 - DIP_TOLERANCE_RATIO) * row["ms"]
        for row in rows
        for other in rows
    )


if __name__ == "__main__":
    main()
