"""Whether compiled functions are machine code already, or somebody is about to wait for it: see `compiled`.

numba keeps what it compiles by the path of the source too, so what another installation has compiled is no help.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numba.extending

is_jitted: Any = numba.extending.is_jitted  # untyped


def is_warm(module: str) -> bool:
    """Tell whether this installation has compiled a module on this machine before; imports it."""
    functions: Any = [value for value in vars(import_module(module)).values() if is_jitted(value)]
    own = next((function for function in functions if function.__module__ == module), None)
    return own is not None and any(Path(own.stats.cache_path).glob("*.nbc"))
