"""Pages for people: each function writes one self-contained HTML file."""

from __future__ import annotations

from polyslo.report.comparison_page import comparison_page
from polyslo.report.goodput_page import goodput_page
from polyslo.report.plan_page import plan_page
from polyslo.report.run_page import run_page

__all__ = ["comparison_page", "goodput_page", "plan_page", "run_page"]
