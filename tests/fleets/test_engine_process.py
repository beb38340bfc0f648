"""Engine processes and their guard: nothing is left behind, whoever dies first."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from polyslo.fleets.engine_process import EngineProcess, last_words
from polyslo.fleets.ports import free_ports

ENGINE = str(Path(__file__).parent / "engine.py")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")


async def _start(folder, *options, grace_s=5.0):
    """Start a stand-in engine and wait until it answers; return it and its port."""
    (port,) = free_ports(1)
    process = await EngineProcess.start(
        [sys.executable, "-S", ENGINE, str(port), *options], {}, folder / "log", grace_s=grace_s
    )
    for _ in range(2000):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
            continue
        writer.close()
        await writer.wait_closed()
        return process, port
    raise AssertionError("the engine never listened")


async def _is_gone(pid):
    """Wait for the end of a process that need not be ours."""
    for _ in range(2000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        await asyncio.sleep(0.01)
    return False


@needs_linux
def test_stopping_ends_the_engine_and_what_it_started(tmp_path):
    """Also a child in a session of its own, and an engine that does not listen to SIGTERM."""

    async def main():
        process, _ = await _start(tmp_path, "--child", str(tmp_path / "pid"), "--deaf", grace_s=0.2)
        await process.stop()
        assert await process.ended() == 128 + signal.SIGKILL
        assert await _is_gone(int((tmp_path / "pid").read_text()))

    asyncio.run(main())


def test_an_engine_that_is_killed_is_told_of(tmp_path):
    """Its guard exits with 128 and the signal, at once."""

    async def main():
        process, port = await _start(tmp_path)
        subprocess.run([sys.executable, "-c", _KILL.format(port=port)], check=True)
        assert await process.ended() == 128 + signal.SIGKILL
        await process.stop()

    asyncio.run(main())


@needs_linux
def test_no_engine_outlives_polyslo_or_its_guard(tmp_path):
    """The process that started it is killed with SIGKILL; so is, in the second round, the guard itself."""

    async def main():
        script = (
            "import asyncio, sys, pathlib\n"
            f"sys.path.insert(0, {str(Path(ENGINE).parents[2])!r})\n"
            "from tests.fleets.test_engine_process import _start\n"
            "async def main():\n"
            "    process, port = await _start(pathlib.Path(sys.argv[1]))\n"
            "    print(process._process.pid, flush=True)\n"
            "    await asyncio.sleep(600)\n"
            "asyncio.run(main())\n"
        )
        for victim in ("polyslo", "guard"):
            parent = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
            )
            guard = int(await parent.stdout.readline())
            children = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
            assert len(children) == 1
            os.kill(parent.pid if victim == "polyslo" else guard, signal.SIGKILL)
            assert await _is_gone(int(children[0]))
            if parent.returncode is None and victim == "guard":
                parent.kill()
            await parent.wait()

    asyncio.run(main())


def test_a_command_that_does_not_exist_and_last_words(tmp_path):
    """The status is a shell's, 127; the log has the reason, and its last line is told."""

    async def main():
        process = await EngineProcess.start(["/nowhere/vllm", "serve"], {}, tmp_path / "log")
        assert await process.ended() == 127
        await process.stop()
        assert last_words(tmp_path / "log") == "polyslo: can't start /nowhere/vllm: No such file or directory"
        assert last_words(tmp_path / "none") == "nothing"

    asyncio.run(main())


_KILL = """
import os, pathlib, signal
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (folder / "cmdline").read_bytes().split(b"\\0")
    except OSError:
        continue
    if words[-2:-1] == [b"{port}"] and not any(word.endswith(b"guard.py") for word in words):
        os.kill(int(folder.name), signal.SIGKILL)
"""
