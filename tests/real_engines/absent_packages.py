"""Stands in for packages that SGLang imports and a CPU has no use for; copied into its environment.

They are builds for GPUs, or for pictures; without them SGLang does not start, and on a CPU, with PyTorch's own
attention, it calls nothing of them. So whatever is asked of such a module is a class that can be called, subclassed and
used as a decorator, and does nothing. They are visible to SGLang alone, as other packages would find and use them; but
Triton is to all, as PyTorch loads parts of it once SGLang has loaded it.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FOR_SGLANG = ("sgl_kernel", "torchvision")
FOR_ALL = ("triton",)


class _Anything(type):
    """Has every attribute, each a class like itself."""

    def __getattr__(cls, name: str) -> type:
        return _made(name)

    def __or__(cls, other: object) -> type:
        return cls

    __ror__ = __or__


class _Nothing(metaclass=_Anything):
    """May be called in all ways; an instance has nothing, so that what must find a GPU does not."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> object:
        return self

    def __class_getitem__(cls, _: object) -> type:
        return cls


class _Absent(ModuleType):
    """A module, or a package of such."""

    __version__ = "3.0.0"  # SGLang compares Triton's

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        made = _made(name)
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        package = fullname.partition(".")[0]
        is_told = package in FOR_ALL or (package in FOR_SGLANG and _asker().partition(".")[0] == "sglang")
        return ModuleSpec(fullname, self, is_package=True) if is_told else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _made(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything(name, (_Nothing,), {})


def _asker() -> str:
    """Return the module whose import, or question, this is."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("importlib") and not frame.f_code.co_filename.startswith("<frozen importlib"):
            return str(name)
        frame = frame.f_back
    return ""


sys.meta_path.append(_Finder())
