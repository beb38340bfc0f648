"""Rewrite measured-iteration files as the profiles that the package ships: the same numbers, one row a line.

python benchmarks/import_profiles.py FOLDER_WITH_JSON_FILES
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "src/polyslo/profiles/data"
COLUMNS = {"decode": ("decodes", "context", "ms"), "prefill": ("chunk", "prefix", "ms"),
           "mixed": ("chunk", "decodes", "context", "ms")}  # fmt: skip


def main() -> None:
    """Convert every file of the folder given."""
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        data = json.loads(path.read_text())
        facts = {key: value for key, value in data.items() if key not in COLUMNS}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in facts.items()]
        for kind, columns in COLUMNS.items():
            rows = ",\n    ".join(json.dumps({c: row[c] for c in columns}) for row in data[kind])
            lines.append(f"  {json.dumps(kind)}: [\n    {rows}\n  ]")
        name = path.stem.replace("_", "-")
        (SHIPPED / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
