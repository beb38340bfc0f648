"""Workers on the cores of a Ray cluster, whose machines have the same polyslo installed and traces at the same paths.

Tried with Ray 2.60, on one machine. Ray is imported here only, when a cluster is asked for.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyslo.claims.machine import Machine, this_machine
from polyslo.claims.work import Answer, Unit, do
from polyslo.compiled import fingerprint
from polyslo.errors import ConfigError, PolysloError

NO_CLUSTER = "--ray: no cluster at {!r}, {}; start one with `ray start --head`"
REACH_S = 5.0
SOURCE = "polyslo.claims.work"  # and all below it: answers are of one state of it


class RayCluster:
    """See the module. Raises `ConfigError` where there is no Ray, no cluster, or another polyslo on a machine of it."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--ray: Ray is not installed; pip install 'polyslo[ray]'") from error
        _reach(address)
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(NO_CLUSTER.format(address, error)) from error
        self._ray: Any = ray
        self._do = ray.remote(do)
        try:
            self._machines = self._look()
        except BaseException:
            self.close()
            raise

    def answers(self, units: Sequence[Unit]) -> Iterator[tuple[Unit, Answer]]:
        """See `Workers`."""
        waiting = {self._do.remote(anywhere(unit)): unit for unit in units}
        while waiting:
            (ready,), _ = self._ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(ready), self._get(ready)

    def machines(self) -> list[Machine]:
        """See `Workers`."""
        return self._machines

    def close(self) -> None:
        """See `Workers`."""
        self._ray.shutdown()

    def _look(self) -> list[Machine]:
        """Ask every machine what it is, and for its polyslo: another one's answers would be kept as this one's."""
        ask, on = self._ray.remote(num_cpus=0)(_about), self._ray.util.scheduling_strategies
        found = []
        for node in self._ray.nodes():
            if not node["Alive"]:
                continue
            where, there = node["NodeManagerAddress"], on.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            try:
                machine, source = self._ray.get(ask.options(scheduling_strategy=there).remote())
            except self._ray.exceptions.RayError as error:
                why = str(error).strip().splitlines()[-1]
                raise ConfigError(f"--ray: {where} can't run polyslo, {why}; install the same there") from error
            if source != fingerprint(SOURCE):
                raise ConfigError(f"--ray: {where} has another polyslo; install the same there")
            found.append(machine)
        return [replace(machine, num_alike=count) for machine, count in Counter(found).items()]

    def _get(self, reference: Any) -> Any:
        """Return an answer; what is wrong with a unit is raised as it would be by a process of this machine."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PolysloError):
                raise error.cause from None
            raise


def anywhere(unit: Unit) -> Unit:
    """Return the unit with the path of its trace whole: workers start in a folder of their own."""
    if not unit.case.is_recorded:
        return unit
    return replace(unit, case=replace(unit.case, workload=str(Path(unit.case.workload).resolve())))


def _reach(address: str) -> None:
    """Raise `ConfigError` where nobody listens at a `host:port`: Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in host:
        try:
            socket.create_connection((host, int(port)), REACH_S).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(NO_CLUSTER.format(address, error)) from error


def _about() -> tuple[Machine, str]:
    return this_machine(), fingerprint(SOURCE)
