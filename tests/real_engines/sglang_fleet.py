"""One SGLang on this machine's CPU, as `polyslo up` starts it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from gateway_process import read_metric
from sglang_environment import SglangEnvironment

from polyslo.fleets.local_process import LocalProcess
from polyslo.gateway.warmup import warm_up

START_S = 400.0  # on a machine that is busy with other things
ENGINE_OPTIONS = (
    "--device", "cpu", "--dtype", "float32", "--attention-backend", "torch_native", "--sampling-backend", "pytorch",
    "--disable-overlap-schedule", "--disable-cuda-graph", "--skip-server-warmup",
    "--max-total-tokens", "16384", "--chunked-prefill-size", "512",
)  # fmt: skip
ENVIRON = {
    "SGLANG_USE_CPU_ENGINE": "1", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}  # fmt: skip


@dataclass(frozen=True)
class SglangFleet:
    """Addresses of the engine, of the gateway before it, and of the gateway's metrics."""

    engine: str
    gateway: str
    metrics: str

    def metric(self, name: str) -> float:
        """Return the sum of the samples of one of the engine's metrics."""
        return sum(read_metric(self.engine, name))

    def tell_core(self, number: signal.Signals) -> None:
        """Send a signal to the engine's scheduler, which computes; what serves HTTP is its parent."""
        os.kill(self._core_pid(), number)

    def _core_pid(self) -> int:
        port = self.engine.rsplit(":", 1)[1].encode()
        lines = {int(folder.name): _command_line(folder) for folder in Path("/proc").glob("[0-9]*")}
        servers = [pid for pid, words in lines.items() if b"serve" in words and b"--port" in words and port in words]
        cores = [pid for pid, words in lines.items() if words[0] == b"sglang::scheduler"]
        return next(pid for pid in cores if _parent(pid) in servers)


@contextmanager
def sglang_fleet(environment: SglangEnvironment, configuration: str, folder: Path) -> Iterator[SglangFleet]:
    """Start and stop it; the model is called nano."""
    warm_up()
    file = folder / "up.toml"
    file.write_text(configuration)
    model = str(environment.models / "nano")
    words = ["up", "--engine", "sglang", "--model", model, "--served-model-name", "nano", "--gpus", "",
             "--log-dir", str(folder), "--config", str(file), "--", *ENGINE_OPTIONS]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{environment.python.parent}{os.pathsep}{os.environ['PATH']}")
        for name, value in ENVIRON.items():
            patch.setenv(name, value)
        process = LocalProcess("up", words)
    try:
        yield SglangFleet(*process.addresses(3, timeout_s=START_S))
    finally:
        process.stop()


def _command_line(folder: Path) -> list[bytes]:
    try:
        return (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has just ended
        return [b""]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
