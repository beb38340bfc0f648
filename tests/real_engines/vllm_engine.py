"""A real vLLM on this machine: one `vllm serve` with its processes, started, frozen, killed and stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway_process import read_metric
from vllm_environment import CHECKOUT, VllmEnvironment

from polyslo.fleets.ports import free_ports

START_S = 400.0  # on a machine that is busy with other things
STOP_S = 20.0
_OPTIONS = (
    "--host", "127.0.0.1", "--enforce-eager", "--dtype", "float32", "--distributed-executor-backend", "uni",
    "--disable-uvicorn-access-log",
)  # fmt: skip
# One thread an instance, free to move: else all instances would share the first core.
_ENVIRON = {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONPATH": str(CHECKOUT / "src"),
}  # fmt: skip
# KV through host memory, between engines on this machine.
_KV_TRANSFER = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}


class VllmEngine:
    """One instance. `polyslo` are the plug-in's settings; without them it is stock vLLM.

    `splits` gives a process to what computes, apart from the core's, as with several GPUs; it takes longer to start.
    With `shares_kv` it gives KV to other engines and takes theirs. With `cpu` its core computes on that one of the
    machine's, once it serves; not with `splits`.
    """

    def __init__(
        self,
        environment: VllmEnvironment,
        log: Path,
        *,
        name: str,
        model: str = "nano",
        polyslo: Mapping[str, Any] | None = None,
        splits: bool = False,
        shares_kv: bool = False,
        cpu: int | None = None,
        kv_bytes: int = 128 << 20,
        max_model_len: int = 8192,
        max_num_seqs: int = 64,
        token_limit: int = 2048,
        more: tuple[str, ...] = (),
    ) -> None:
        if splits and cpu is not None:
            raise ValueError("cpu: an engine that is split does not compute in its core; leave one of both out")
        self.name, self.log, self.port, self._cpu = name, log, free_ports(1)[0], cpu
        scheduler = () if polyslo is None else (
            "--scheduler-cls", "polyslo.engines.vllm.Scheduler",
            "--additional-config", json.dumps({"polyslo": dict(polyslo)}),
        )  # fmt: skip
        transfer = ("--kv-transfer-config", json.dumps(_KV_TRANSFER)) if shares_kv else ()
        command = [
            str(environment.python), "-m", "vllm.entrypoints.cli.main", "serve", str(environment.models / model),
            "--served-model-name", name, "--port", str(self.port), "--kv-cache-memory-bytes", str(kv_bytes),
            "--max-model-len", str(max_model_len), "--max-num-seqs", str(max_num_seqs),
            "--max-num-batched-tokens", str(token_limit), *_OPTIONS, *scheduler, *transfer, *more,
        ]  # fmt: skip
        environ = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(splits)), "VLLM_CACHE_ROOT": str(environment.cache),
            "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_ports(1)[0]),
            "UCX_NET_DEVICES": "lo",
        }  # fmt: skip
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | _ENVIRON | environ,
            )

    @property
    def url(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def has_ended(self) -> bool:
        """Tell whether its first process is gone."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait until it serves; raises `RuntimeError` with its last words when it ends before."""
        until_s = time.monotonic() + START_S
        while self.health() != 200:
            if self.has_ended or time.monotonic() > until_s:
                words = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self.name} did not start; its last words: {words}")
            time.sleep(0.3)
        if self._cpu is not None:
            self._pin_core(self._cpu)

    def health(self) -> int | None:
        """Return what /health answers; None when nobody does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except OSError:
            return None
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        return sum(read_metric(self.url, name))

    def freeze(self) -> None:
        """Stop the engine's core in its tracks; what it serves HTTP with goes on."""
        self._tell_core(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._tell_core(signal.SIGCONT)

    def kill_core(self) -> None:
        """Kill the engine's core, as a crash would."""
        self._tell_core(signal.SIGKILL)

    def stop(self) -> None:
        """End all its processes."""
        for signal_number in (signal.SIGCONT, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _pin_core(self, cpu: int) -> None:
        """Let the core's threads, and what they start, compute on one CPU."""
        for pid in self._core_pids():
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
                    os.sched_setaffinity(int(thread), {cpu})

    def _tell_core(self, number: signal.Signals) -> None:
        """Send a signal to the core."""
        for pid in self._core_pids():
            with contextlib.suppress(ProcessLookupError):  # one that ends with the others
                os.kill(pid, number)

    def _core_pids(self) -> list[int]:
        """Return the core's process, which has named itself, and those that it forked under its name."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # processes come and go
                is_ours = os.getpgid(int(folder.name)) == self._process.pid
                if is_ours and b"EngineCore" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        if not found:
            raise RuntimeError(f"{self.name}: there is no process of its core; it has ended, or is called otherwise")
        return found
