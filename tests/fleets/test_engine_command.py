"""How engines are started: ports, GPUs, flags, and what is refused before anything starts."""

from __future__ import annotations

import json
import sys

import pytest

from polyslo.errors import ConfigError
from polyslo.fleets import engine_command
from polyslo.fleets.engine_command import EngineSpec, assign_gpus, gpu_env, visible_gpus


def test_vllm_is_told_its_port_name_gpus_and_chunk(monkeypatch):
    """What stands behind -- comes last and goes over ours."""
    monkeypatch.setattr(engine_command.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(engine_command.sys, "executable", "/nowhere/python")
    spec = EngineSpec("vllm", model="/models/a", served_name="a", tensor_parallel=2, extra=("--dtype", "float16"))
    assert spec.command(8001) == [
        "/bin/vllm", "serve", "/models/a", "--host", "127.0.0.1", "--port", "8001", "--served-model-name", "a",
        "--tensor-parallel-size", "2", "--max-num-batched-tokens", "2048", "--dtype", "float16",
    ]  # fmt: skip
    told = EngineSpec("vllm", model="a", extra=("--max-num-batched-tokens=512", "--max-num-seqs", "64"))
    assert (told.chunk_tokens, told.max_residents) == (512, 64)
    assert told.command(1).count("--max-num-batched-tokens") == 0


def test_sglang_is_told_the_same_in_its_words(monkeypatch):
    """Prompts and decodes share iterations, as the gateway reckons; its metrics are on."""
    monkeypatch.setattr(engine_command.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(engine_command.sys, "executable", "/nowhere/python")
    spec = EngineSpec("sglang", model="/models/a", served_name="a", tensor_parallel=2, extra=("--dtype", "half"))
    assert spec.command(8001) == [
        "/bin/sglang", "serve", "--model-path", "/models/a", "--host", "127.0.0.1", "--port", "8001",
        "--enable-metrics", "--enable-mixed-chunk", "--served-model-name", "a", "--tp-size", "2",
        "--chunked-prefill-size", "2048", "--dtype", "half",
    ]  # fmt: skip
    told = EngineSpec("sglang", model="a", extra=("--chunked-prefill-size=512", "--max-running-requests", "64"))
    assert (told.chunk_tokens, told.max_residents) == (512, 64)
    assert told.command(1).count("--chunked-prefill-size") == 0
    monkeypatch.setattr(engine_command.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="install SGLang"):
        spec.command(1)


def test_the_scheduler_is_asked_for_with_the_engines_profile(monkeypatch):
    """On a GPU the one that schedules ahead; files are named so that the engine finds them from anywhere."""
    monkeypatch.setattr(engine_command.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(engine_command.sys, "executable", "/nowhere/python")
    words = EngineSpec("vllm", model="a", profile="llama-3.1-8b-h200-tp1", has_scheduler=True).command(1)
    assert words[words.index("--scheduler-cls") + 1] == "polyslo.engines.vllm.Scheduler"
    settings = json.loads(words[words.index("--additional-config") + 1])
    assert settings == {"polyslo": {"profile": "llama-3.1-8b-h200-tp1"}}
    assert words[words.index("--max-num-batched-tokens") + 1] == "8192"
    on_gpu = EngineSpec("vllm", model="a", profile="mine.json", has_scheduler=True, is_on_gpu=True).command(1)
    assert on_gpu[on_gpu.index("--scheduler-cls") + 1] == "polyslo.engines.vllm.AsyncScheduler"
    assert json.loads(on_gpu[on_gpu.index("--additional-config") + 1])["polyslo"]["profile"].startswith("/")


def test_emulated_engines_and_any_command():
    """The emulated one runs with this Python; a command has its port put in."""
    words = EngineSpec("emulated", served_name="demo", speed=0.5, has_scheduler=True).command(9)
    assert words[:4] == [sys.executable, "-m", "polyslo.cli.main", "emulate"]
    assert "--dynamic-chunking" in words
    assert EngineSpec("command", extra=("serve", "--port={port}")).command(9) == ["serve", "--port=9"]
    with pytest.raises(ConfigError, match=r"\{port\}"):
        EngineSpec("command", extra=("serve",))
    for engine in ("vllm", "sglang"):
        with pytest.raises(ConfigError, match=f"--model: must be given with --engine {engine}"):
            EngineSpec(engine)


def test_gpus_are_dealt_out_to_neighbours():
    """Each instance has its own; too few are refused, none (a CPU) are no constraint."""
    assert assign_gpus(["0", "1", "2", "3"], 2, 2) == [("0", "1"), ("2", "3")]
    assert assign_gpus([], 3, 2) == [(), (), ()]
    with pytest.raises(ConfigError, match="need 4, got 3"):
        assign_gpus(["0", "1", "2"], 4, 1)
    assert gpu_env(("2", "3")) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert gpu_env(()) == {}
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-5a"}) == ["3", "GPU-5a"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
