"""A gateway of several processes, as processes: they are started, killed and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from gateway_bench import COMPLETIONS, MODEL, Bench, completion, run

from polyslo.fleets.local_process import LocalProcess
from polyslo.gateway.processes.carriers import bind
from polyslo.gateway.processes.link import socket_pair
from polyslo.gateway.processes.tally import OPEN, Tally

LONG = 100_000  # tokens: more than any of these tests waits for
START_S = 60.0  # only so that a hang fails
TWO = {"processes": 2}


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def _until_dead(pids):
    while any(_is_alive(pid) for pid in pids):
        await asyncio.sleep(0.01)


def test_processes_serve_and_end_with_the_gateway():
    """Requests through several processes are answered and leave nothing behind; so does the end."""

    async def main():
        async with Bench(2, server=TWO) as bench:
            pids = list(bench.gateway.listener.pids.values())
            assert len(set(pids) | {os.getpid()}) == 3
            replies = [bench.send(COMPLETIONS, completion(20, stream=k % 2 > 0)) for k in range(20)]
            for reply in replies:
                assert (await reply.over()).status == 200
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["attained"] == 20
            running = bench.send(COMPLETIONS, completion(2000, stream=True))
            await running.until(lambda reply: reply.body)
            await bench.gateway.stop()
            assert (await running.over()).body.endswith(b"data: [DONE]\n\n")
            assert not any(map(_is_alive, pids))
            bench.check_empty()

    run(main)


def test_a_process_that_is_killed_is_started_again(caplog):
    """Its requests are failed and forgotten at once, the others go on; then a new process has its port and serves."""

    async def main():
        async with Bench(server=TWO) as bench:
            carriers = bench.gateway.listener
            streams = [bench.send(COMPLETIONS, completion(LONG, stream=True)) for _ in range(12)]
            for stream in streams:
                await stream.until(lambda reply: reply.body)
            victim, pid = next((row, pid) for row, pid in carriers.pids.items() if bench.gateway.tally.rows[row, OPEN])
            os.kill(pid, signal.SIGKILL)
            while carriers.pids[victim] == pid:
                await asyncio.sleep(0.01)
            cut = [stream for stream in streams if stream.is_over]
            assert cut
            assert bench.gateway.boards[MODEL].totals["failed"] == len(cut) == 12 - bench.model.num_in_flight
            for stream in streams:
                stream.call.abort()
            await bench.settle()
            bench.origin.max_idle = 0  # a new connection each
            for _ in range(8):
                assert (await bench.ask(COMPLETIONS, completion())).status == 200
            await bench.settle()

    with caplog.at_level("ERROR", logger="polyslo"):
        run(main)
    (line,) = [record.getMessage() for record in caplog.records if "is started again" in record.getMessage()]
    assert "ended with status -9" in line


def test_processes_end_when_the_gateway_is_killed(tmp_path):
    """Without decisions they are of no use: none is left over."""

    async def main():
        async with Bench() as bench:
            config = tmp_path / "gateway.toml"
            config.write_text(
                "[server]\nport = 0\nmetrics_port = 0\nprocesses = 2\n"
                f'[[models]]\nname = "{MODEL}"\nendpoints = [{{url = "{bench.engines[0].url}"}}]\n'
            )
            gateway = LocalProcess("gateway", ["serve", str(config)])
            try:
                await asyncio.to_thread(gateway.addresses, 2, START_S)
                parent = gateway._process.pid
                children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
                pids = [int(child) for child in children if b"polyslo.gateway.processes.carrier" in _command(child)]
                assert len(pids) == 2
                os.kill(parent, signal.SIGKILL)
                await _until_dead(pids)
            finally:
                gateway.stop()
                gateway._process.wait()
                gateway._process.stderr.close()

    run(main)


def _command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_carrier_ignores_signals_that_are_the_gateways():
    """SIGTERM to all processes of a service is obeyed once: by the gateway, which lets what runs end."""

    async def main():
        async with Bench(server=TWO) as bench:
            stream = bench.send(COMPLETIONS, completion(2000, stream=True))
            await stream.until(lambda reply: reply.body)
            for pid in bench.gateway.listener.pids.values():
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
            assert (await stream.over()).body.endswith(b"data: [DONE]\n\n")
            assert all(map(_is_alive, bench.gateway.listener.pids.values()))
            await bench.settle()

    run(main)


def test_a_carrier_by_itself_says_nothing_and_ends():
    """Whose other end is gone before it began has nothing to do."""
    ours, theirs = socket_pair()
    (bound,) = bind("127.0.0.1", 0, 1)
    tally = Tally(1)
    files = (theirs.fileno(), bound.fileno(), tally.fd)
    command = [sys.executable, "-m", "polyslo.gateway.processes.carrier", *map(str, files), "0", "1"]
    process = subprocess.Popen(command, pass_fds=files, stderr=subprocess.PIPE)
    theirs.close()
    ours.close()
    _, said = process.communicate(timeout=START_S)
    bound.close()
    tally.close()
    assert (process.returncode, said) == (0, b"")
