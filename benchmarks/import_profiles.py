"""Rewrite measured-iteration files as the profiles that the package ships: the same numbers, one row a line.

python benchmarks/import_profiles.py FOLDER_WITH_JSON_FILES
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from polyslo.profiles.library import profile_text

SHIPPED = Path(__file__).parents[1] / "src/polyslo/profiles/data"
COLUMNS = {"decode": ("decodes", "context", "ms"), "prefill": ("chunk", "prefix", "ms"),
           "mixed": ("chunk", "decodes", "context", "ms")}  # fmt: skip


def main() -> None:
    """Convert every file of the folder given."""
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        data = json.loads(path.read_text())
        points = {kind: [{c: row[c] for c in columns} for row in data[kind]] for kind, columns in COLUMNS.items()}
        name = path.stem.replace("_", "-")
        (SHIPPED / f"{name}.json").write_text(profile_text(data | points))


if __name__ == "__main__":
    main()
