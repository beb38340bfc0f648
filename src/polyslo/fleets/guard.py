"""Between polyslo and an engine: a small process that never leaves the engine behind.

Run by its path, with the standard library alone: `python -I -S guard.py GRACE_S COMMAND...`. Its stdin is a pipe that
polyslo holds open and never writes to. When that closes, because polyslo lets go of it or because polyslo died,
however it died, the engine's process group is asked to end and, after the grace, ended. When the guard itself is
killed, the kernel ends the engine (Linux: PR_SET_PDEATHSIG). An engine's processes that left its group, or outlive
its first process, become the guard's children (PR_SET_CHILD_SUBREAPER) and end with it.

Exits as the engine did: its status, or 128 and the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CANT_START = 127
POLL_S = 0.05


def main(arguments: list[str]) -> int:
    """Run a command until it ends or nobody wants it any more."""
    grace_s, command = float(arguments[0]), arguments[1:]
    woken = _wake_up_on_signals()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    try:
        engine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: _die_with(guard)
        )
    except OSError as error:
        print(f"polyslo: can't start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return CANT_START
    while engine.poll() is None and not _is_told_to_stop(woken):
        pass
    _end(engine, grace_s)
    return 128 - engine.returncode if engine.returncode < 0 else engine.returncode


def _wake_up_on_signals() -> int:
    """Turn signals into bytes: `C` for a child that ended, `T` to stop. Return where to read them."""
    read, write = os.pipe()
    for number, byte in ((signal.SIGCHLD, b"C"), (signal.SIGTERM, b"T"), (signal.SIGHUP, b"T")):
        signal.signal(number, lambda *_, byte=byte: os.write(write, byte))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is polyslo's to act on
    return read


def _is_told_to_stop(woken: int) -> bool:
    """Wait until something happens; tell whether it says that nobody wants the engine any more."""
    ready, _, _ = select.select([sys.stdin.fileno(), woken], [], [])
    if woken in ready and b"T" in os.read(woken, 64):
        return True
    return sys.stdin.fileno() in ready and not os.read(sys.stdin.fileno(), 64)


def _end(engine: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask the engine to end, wait, and end all that is left of it."""
    if engine.poll() is None:
        _signal_group(engine.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.wait(grace_s)
    _signal_group(engine.pid, signal.SIGKILL)
    engine.wait()
    until_s = time.monotonic() + grace_s
    while time.monotonic() < until_s and (left := _children()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(POLL_S)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _children() -> list[int]:
    """Return the pids of this process's children, where the system tells them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _die_with(guard: int) -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it died before that took effect
        os._exit(CANT_START)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
