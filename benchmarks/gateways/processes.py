"""What a process and all its children cost, by /proc: CPU seconds and memory."""

from __future__ import annotations

import os
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(_fields(path)[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    found = [pid]
    for member in found:
        found += parents.get(member, [])
    return found


def cpu_s(pid: int) -> float:
    """Return user and system time of a process, its descendants and those of them that it has waited for."""
    total = 0
    for member in family(pid):
        try:
            total += sum(map(int, _fields(Path(f"/proc/{member}/stat"))[11:15]))
        except OSError:
            continue
    return total * _TICK_S


def memory_bytes(pid: int) -> int:
    """Return the memory that a process and its descendants have to themselves, shared pages in parts."""
    total = 0
    for member in family(pid):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def _fields(path: Path) -> list[str]:
    """Return a stat file's fields after the command, which may hold anything: state, parent, ..."""
    return path.read_text().rpartition(")")[2].split()
