"""How polyslo's functions become machine code: numba, with a cache that knows every callee.

numba's own cache looks only at the file of the function itself, so a change in a callee's file would leave
stale machine code behind. Here the cache folder carries a fingerprint of the function's module and of every
polyslo module that it imports, directly or not. The folder is `NUMBA_CACHE_DIR` when set, else
`$XDG_CACHE_HOME/polyslo` (default `~/.cache/polyslo`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numba.core.caching

njit: Any = numba.njit  # typed without one of its options
unliteral: Any = numba.types.unliteral  # untyped
FunctionCache: Any = numba.core.caching.FunctionCache  # untyped

F = TypeVar("F", bound=Callable[..., Any])

_IMPORT = re.compile(r"^from (polyslo[\w.]*) import ([\w, ()\n]+?)$", re.MULTILINE)


def compiled(function: F) -> F:
    """Compile `function` with numba on first call: cached on disk, without the GIL, IEEE division."""
    dispatcher: Any = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)  # nobody asks for a cfunc
    dispatcher._cache = _LateCache(function)
    resolve = dispatcher.get_call_template

    def resolve_values_alike(arguments: Any, keywords: Any) -> Any:
        return resolve(tuple(unliteral(a) for a in arguments), keywords)

    # numba would compile a function anew for each constant that it is called with: three times the work.
    dispatcher.get_call_template = resolve_values_alike
    return cast(F, dispatcher)


class _LateCache:
    """numba's cache of a function, opened when it is first asked for: most functions are only called by compiled ones.

    Opening one tries out its folder on the disk, and there are hundreds of functions. Which folder it is is settled
    at once: the source may change while a process runs.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._folder = cache_folder() / fingerprint(function.__module__)
        self._opened: Any = None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Save one at a time: numba numbers the files of a function's signatures by what is there already."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._cache().save_overload(signature, result)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache(), name)

    def _cache(self) -> Any:
        if self._opened is None:
            config: Any = numba.config  # its settings are made at run time
            saved = config.CACHE_DIR
            config.CACHE_DIR = str(self._folder)
            try:
                self._opened = FunctionCache(self._function)
            finally:
                config.CACHE_DIR = saved
        return self._opened


@cache
def cache_folder() -> Path:
    """Return the folder of the compiled code: the first of the known places that can be written."""
    configured = os.environ.get("NUMBA_CACHE_DIR")
    if configured:
        return Path(configured)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "polyslo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir()) / f"polyslo-{os.getuid()}"
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()) / f"polyslo-{os.getuid()}"


@cache
def fingerprint(module: str) -> str:
    """Return 16 hex digits that change when `module`, or any polyslo module below it, changes."""
    seen: set[str] = set()
    _collect(module, seen)
    digest = hashlib.sha256(f"{numba.__version__}".encode())
    for name in sorted(seen):
        digest.update(name.encode() + _source(name))
    return digest.hexdigest()[:16]


def _collect(module: str, seen: set[str]) -> None:
    if module not in seen:
        seen.add(module)
        for imported in _imports(module):
            _collect(imported, seen)


@cache
def _imports(module: str) -> list[str]:
    """Return the polyslo modules that a module's source imports."""
    found = []
    for package, names in _IMPORT.findall(_source(module).decode()):
        submodules = [f"{package}.{name.strip(' ()')}" for name in names.replace("\n", "").split(",")]
        found += [name for name in (package, *submodules) if name != "polyslo" and _source(name)]
    return found


@cache
def _source(module: str) -> bytes:
    try:
        spec = find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return b""
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return b""
    return Path(spec.origin).read_bytes()
