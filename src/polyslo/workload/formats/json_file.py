"""A file that is one JSON value; the formats of that kind read through this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polyslo.errors import TraceError


def read_json(path: Path) -> Any:
    """Parse a file; raises `TraceError` naming line and column of what is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise TraceError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}; correct the file"
        ) from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise TraceError(f"{path}: holds a number of more digits than can be read; correct the file") from error
