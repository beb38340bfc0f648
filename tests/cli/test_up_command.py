"""`polyslo up`: what it makes of its options, and what it refuses before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from polyslo.cli import up
from polyslo.cli.main import cli
from polyslo.fleets import engine_command
from polyslo.fleets.served_fleet import ServedFleet


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that calls the command; what would be served is in its `served`."""
    served = []

    async def serve(self):
        served.append(self)

    monkeypatch.setattr(ServedFleet, "serve", serve)
    monkeypatch.setattr(up, "warm_up", lambda: None)

    def call(*arguments):
        return CliRunner().invoke(cli, ["up", "--log-dir", str(tmp_path / "logs"), *arguments], prog_name="polyslo")

    call.served = served
    return call


def test_engine_and_gateway_are_told_the_same(run, tmp_path):
    """Chunk, batch, speed, name and scheduler reach the gateway's model; its file's own keys stay."""
    config = tmp_path / "gateway.toml"
    config.write_text('[[models]]\nname = "mine"\nslack_ms = 3\n[health]\ninterval_s = 7\n')
    result = run("--engine", "emulated", "--instances", "3", "--min", "2", "--speed", "0.5", "--engine-port", "9100",
                 "--config", str(config), "--policy", "lmetric", "--", "--max-num-batched-tokens", "512",
                 "--max-num-seqs", "64")  # fmt: skip
    assert result.exit_code == 0, result.output
    (served,) = run.served
    (model,) = served._config.models
    assert (model.name, model.policy, model.speed, model.slack_ms) == ("mine", "lmetric", 0.5, 3)
    assert (model.chunk_limit_tokens, model.max_residents, model.dynamic_chunking) == (512, 64, True)
    assert [endpoint.url for endpoint in model.endpoints] == [f"http://127.0.0.1:{9100 + i}" for i in range(3)]
    assert (served._config.health.interval_s, served._config.health.success_threshold) == (7, 1)
    assert (served._rule.least, served._rule.most) == (2, 3)
    assert served.fleet.urls[2] == "http://127.0.0.1:9102"


def test_sglang_has_a_constant_chunk_that_the_gateway_knows(run, monkeypatch):
    """polyslo's scheduler is vLLM's only, a profile or not."""
    monkeypatch.setattr(engine_command.shutil, "which", lambda name: f"/bin/{name}")
    result = run("--engine", "sglang", "--model", "a", "--gpus", "")
    assert result.exit_code == 0, result.output
    (served,) = run.served
    (model,) = served._config.models
    assert (model.chunk_limit_tokens, model.dynamic_chunking) == (2048, False)
    assert served._config.health.timeout_s == 5.0  # it answers looks once a second, when something has come


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_constant_chunk_is_one_that_the_tightest_tier_has_room_for(run, monkeypatch, tmp_path, engine):
    """Else nothing could be promised. One that somebody has told stays, as does the usual one where none is needed."""
    words = []
    monkeypatch.setattr(engine_command.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(up, "LocalFleet", lambda spec, *_: words.append(spec.command(1)))
    config = tmp_path / "gateway.toml"
    config.write_text("[tiers]\ntpots_ms = [30]\n[[models]]\nchunk_limit_tokens = 1000\n")
    chunk, batch = {
        "vllm": ("--max-num-batched-tokens", "--max-num-seqs"),
        "sglang": ("--chunked-prefill-size", "--max-running-requests"),
    }[engine]
    common = ("--engine", engine, "--model", "a", "--gpus", "", "--scheduler", "off", "--profile",
              "llama-3.1-8b-h200-tp1")  # fmt: skip
    file = ("--config", str(config))
    ways = (
        (),
        ("--policy", "minimal"),
        ("--", chunk, "4096"),
        file,
        (*file, "--", chunk, "700"),
        ("--", batch, "2000"),
    )
    results = [run(*common, *more) for more in ways]
    assert [result.exit_code for result in results] == [0] * len(ways), results[0].output
    models = [served._config.models[0] for served in run.served]
    fitting = models[0].chunk_limit_tokens
    assert 500 < fitting < 1000
    assert fitting % 128 == 0  # engines take whole pages
    # Every request of a batch may decode, so a chunk is not made smaller than the batch.
    assert [model.chunk_limit_tokens for model in models] == [fitting, 2048, 4096, 1000, 700, 2048]
    assert models[0].max_residents == (fitting if engine == "vllm" else 1024)
    told = [line[len(line) - line[::-1].index(chunk)] for line in words]  # behind the last of the flag
    assert told == [str(model.chunk_limit_tokens) for model in models]
    assert f"a chunk of {fitting} tokens, so that a full step fits into the tightest TPOT, 20 ms" in results[0].stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "vllm"], "--model: must be given"),
        (["--engine", "command"], "{port}"),
        (["--engine", "command", "--scheduler", "on", "--", "a", "{port}"], "only vLLM and emulated engines"),
        (["--engine", "sglang", "--model", "a", "--scheduler", "on"], "only vLLM and emulated engines"),
        (["--engine", "vllm", "--model", "a", "--scheduler", "on"], "give --profile"),
        (
            ["--engine", "sglang", "--model", "a", "--", "--chunked-prefill-size", "-1"],
            "must be a whole number above 0",
        ),
        (["--engine", "vllm", "--model", "a", "--", "--max-num-batched-tokens=8k"], "above 0, as the gateway reckons"),
        (["--engine", "sglang", "--model", "a", "--config", "dynamic.toml"], "no scheduler of polyslo's"),
        (["--engine", "sglang", "--model", "a", "--config", "words.toml"], "chunk_limit_tokens"),
        (["--engine", "emulated", "--instances", "2", "--min", "3"], "--min: must be at most"),
        (["--engine", "vllm", "--model", "a", "--gpus", "0", "--instances", "2"], "need 2, got 1"),
        (["--engine", "emulated", "--config", "/nowhere"], "can't be read"),
        (["--engine", "emulated", "--policy", "polyserv"], "did you mean"),
    ],
)
def test_what_can_not_be_served_is_refused(run, monkeypatch, tmp_path, arguments, said):
    """One line on stderr and exit code 2; nothing is started."""
    monkeypatch.chdir(tmp_path)
    Path("dynamic.toml").write_text("[[models]]\ndynamic_chunking = true\n")
    Path("words.toml").write_text('[[models]]\nchunk_limit_tokens = "many"\n')
    result = run(*arguments)
    assert (result.exit_code, run.served) == (2, [])
    assert said in result.stderr
