"""Pages for people: `comparison_page` and `run_page` write one self-contained HTML file each."""

from __future__ import annotations

from polyslo.report.comparison_page import comparison_page
from polyslo.report.run_page import run_page

__all__ = ["comparison_page", "run_page"]
