"""The machines that did the computing, as their systems tell of them; what a system doesn't tell stays unsaid. Ours."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from polyslo.report.notation import amount_text, count_text

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, or some that are alike."""

    cpu: str | None  # model name; None where the system doesn't tell it
    num_cores: int
    memory_gib: float | None  # physical; None likewise
    architecture: str
    python: str
    num_alike: int = 1

    def __str__(self) -> str:
        known = [
            self.cpu or self.architecture,
            count_text(self.num_cores, "core"),
            *([] if self.memory_gib is None else [f"{amount_text(self.memory_gib)} GiB of memory"]),
            *([self.architecture] if self.cpu else []),
            f"Python {self.python}",
        ]
        return (f"{self.num_alike} machines of " if self.num_alike > 1 else "") + ", ".join(known)


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    return Machine(
        cpu=_cpu(),
        num_cores=os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        architecture=platform.machine() or "unknown architecture",
        python=platform.python_version(),
    )


def _cpu() -> str | None:
    """Return the CPU's model name: Linux has it in a file (not on ARM), others may tell Python."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    named = next((value.strip() for name, _, value in fields if name.strip() == "model name"), "")
    told = platform.processor()
    return named or (told if told != platform.machine() else "") or None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):  # no sysconf (Windows), or it doesn't know the name
        return None
