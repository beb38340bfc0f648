"""Emulated engines and a gateway that decides by one policy, as processes: what the demo and benchmarks load."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from polyslo.fleets.local_process import LocalProcess
from polyslo.sim.setting import Setting

START_TIMEOUT_S = 240.0  # the first start compiles
STOCK_CHUNK = 2048  # vLLM's default max_num_batched_tokens
SLACK_MS = 25  # two cores carry engines, gateways and load
_LAG = re.compile(r"^polyslo_emulated_lag_seconds_(sum|count)\{.*\} ([0-9.e+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class EmulatedFleet:
    """A policy and the fleet of its own, by address."""

    policy: str
    engines: tuple[str, ...]
    gateway: str
    page: str

    def mean_lag_s(self) -> float:
        """Return how late the engines' iterations ended on average, on the clock."""
        total = {"sum": 0.0, "count": 0.0}
        for url in self.engines:
            with urlopen(f"{url}/metrics", timeout=10) as response:
                for name, value in _LAG.findall(response.read().decode()):
                    total[name] += float(value)
        return total["sum"] / total["count"] if total["count"] else 0.0


@contextmanager
def emulated_fleet(
    folder: Path, policy: str, setting: Setting, speed: float, page_port: int = 0
) -> Iterator[EmulatedFleet]:
    """Start a setting's instances, at `speed` times the profile's, and a gateway; they end with the block.

    The gateway's configuration is written to `folder`. Raises `InputError` when a process does not start.
    """
    num_instances = setting.config.num_instances
    chunking = ["--dynamic-chunking"] if policy == "polyserve" else ["--max-num-batched-tokens", str(STOCK_CHUNK)]
    engine_arguments = ["emulate", "--port", "0", "--instances", str(num_instances), "--speed", str(speed), *chunking]
    engines = LocalProcess("engines", [*engine_arguments, "--profile", setting.named.name, "--model", "demo"])
    gateway = None
    try:
        urls = engines.addresses(num_instances, START_TIMEOUT_S)
        config = folder / f"{policy}.toml"
        config.write_text(_config(policy, setting, urls, speed, page_port), encoding="utf-8")
        gateway = LocalProcess("gateway", ["serve", str(config)])
        address, page = gateway.addresses(2, START_TIMEOUT_S)
        yield EmulatedFleet(policy, tuple(urls), address, page)
    finally:
        for process in (gateway, engines):
            if process is not None:
                process.stop()


def _config(policy: str, setting: Setting, urls: Sequence[str], speed: float, page_port: int) -> str:
    tpots_ms = [round(tpot_ms / speed, 6) for tpot_ms in setting.tpots_ms]
    chunking = "dynamic_chunking = true" if policy == "polyserve" else f"chunk_limit_tokens = {STOCK_CHUNK}"
    endpoints = "".join(f'[[models.endpoints]]\nurl = "{url}"\n' for url in urls)
    return (
        f'[server]\nport = 0\nmetrics_port = {page_port}\nlog_level = "error"\n[tiers]\ntpots_ms = {tpots_ms}\n'
        f'[[models]]\nname = "demo"\npolicy = "{policy}"\nprofile = "{setting.named.name}"\nspeed = {speed}\n'
        f"slack_ms = {SLACK_MS}\n{chunking}\n{endpoints}"
    )
