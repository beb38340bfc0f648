"""A sweep on Ray answers as processes of this machine do, and says what a cluster lacks."""

from __future__ import annotations

import random
import socket
import sys
import types
from importlib.util import find_spec

import pytest

from polyslo.claims import ray_cluster
from polyslo.claims.cases import Case
from polyslo.claims.machine import this_machine
from polyslo.claims.ray_cluster import RayCluster, anywhere
from polyslo.claims.store import Store
from polyslo.claims.sweep import LocalProcesses, Sweep
from polyslo.claims.work import Inspection, Search, Trial
from polyslo.errors import ConfigError, TraceError

CO, PD = Case("uniform-512-512", "co", num_instances=2), Case("uniform-512-512", "pd", num_instances=4)

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray, which is an extra, is not installed")


@pytest.fixture(scope="module")
def cluster():
    """Start a Ray of this machine, and stop it."""
    found = RayCluster("local")
    yield found
    found.close()


def _write_trace(name: str) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    draw = random.Random(3)
    arrival_s = sorted(draw.uniform(0, 60) for _ in range(300))
    lengths = {side: [draw.randrange(50, 900) for _ in arrival_s] for side in ("input_tokens", "output_tokens")}
    parquet.write_table(arrow.table({"arrival_s": arrival_s, **lengths}), name)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_cluster_answers_as_processes_do(cluster, tmp_path, monkeypatch):
    """Whatever the unit, equal to the last bit; a trace is found, though Ray's workers start in another folder."""
    units = [
        Trial(CO, "polyserve", 0, 10.0, 12.0),
        Trial(PD, "minimal", 1, 10.0, 12.0),
        Search(CO, "minimal", 0, 10.0),
        Inspection(PD, 0, 10.0, 20.0),
    ]
    monkeypatch.chdir(tmp_path)
    _write_trace("t.parquet")
    units.append(Trial(Case("t.parquet", "co", num_instances=2), "polyserve", 0, 10.0, 12.0))
    processes = LocalProcesses(1)
    try:
        expected = Sweep(Store(tmp_path / "processes"), processes).do("stage", units)
    finally:
        processes.close()
    sweep = Sweep(Store(tmp_path / "ray"), cluster)
    assert sweep.do("stage", units) == expected
    assert sweep.machines == (this_machine(),)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_is_wrong_with_a_unit_is_said_as_it_is_at_home(cluster):
    """A trace that a worker can't read is polyslo's own error, in one line and without Ray's traceback."""
    with pytest.raises(TraceError, match=r"^/no/such\.parquet: can't read it: No such file") as found:
        list(cluster.answers([Trial(Case("/no/such.parquet", "co"), "polyserve", 0, 10.0, 12.0)]))
    assert "\n" not in str(found.value)


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_another_polyslo_is_refused(cluster, monkeypatch):
    """Answers of other code would be kept under this code's name."""
    monkeypatch.setattr(ray_cluster, "fingerprint", lambda module: "another")
    with pytest.raises(ConfigError, match=r"--ray: \S+ has another polyslo; install the same there"):
        cluster._look()


def test_a_units_trace_is_named_by_its_whole_path(monkeypatch, tmp_path):
    """Only the trace's path changes, and nothing where there is no trace."""
    monkeypatch.chdir(tmp_path)
    there = anywhere(Trial(Case("t.parquet", "pd"), "minimal", 3, 10.0, 5.0))
    assert there == Trial(Case(str(tmp_path / "t.parquet"), "pd"), "minimal", 3, 10.0, 5.0)
    assert anywhere(Search(CO, "minimal", 0, 10.0)) == Search(CO, "minimal", 0, 10.0)


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch):
    """Ray itself is not even asked; names that Ray resolves are left to it."""
    ray = types.ModuleType("ray")
    ray.init = lambda **options: pytest.fail("asked Ray") if ":" in options["address"] else fail()
    monkeypatch.setitem(sys.modules, "ray", ray)

    def fail():
        raise ConnectionError("none found")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"--ray: no cluster at '127.0.0.1:{port}', .*; start one with `ray start"):
        RayCluster(f"127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="--ray: no cluster at 'auto', none found; start one"):
        RayCluster("auto")


def test_ray_is_asked_for_by_name(monkeypatch):
    """Without Ray the error says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--ray: Ray is not installed; pip install 'polyslo\[ray\]'"):
        RayCluster("auto")
