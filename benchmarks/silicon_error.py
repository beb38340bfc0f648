"""Simulate the measurements of real GPUs that shipped profiles cover, and print how wrong the simulator is.

python benchmarks/silicon_error.py [silicon_sample.csv] [RESULT.json]

Without a path the file is that of the installed package `aiconfigurator-core`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from polyslo.claims.silicon import compare_with_silicon
from polyslo.claims.silicon_rows import find_sample, read_coverage
from polyslo.claims.silicon_section import silicon_markdown


def main() -> None:
    """Print the section; write the data where a second path says so."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else find_sample()
    result = compare_with_silicon(read_coverage(path))
    print(silicon_markdown(result))
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(asdict(result), indent=1) + "\n")


if __name__ == "__main__":
    main()
