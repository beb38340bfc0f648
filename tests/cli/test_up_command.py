"""`polyslo up`: what it makes of its options, and what it refuses before anything starts."""

from __future__ import annotations

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
    result = run("--engine", "sglang", "--model", "a", "--profile", "llama-3.1-8b-h200-tp1", "--gpus", "")
    assert result.exit_code == 0, result.output
    (served,) = run.served
    (model,) = served._config.models
    assert (model.chunk_limit_tokens, model.dynamic_chunking) == (2048, False)
    assert served._config.health.timeout_s > 2 * 1.0  # it answers looks once a second, when something has come


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "vllm"], "--model: must be given"),
        (["--engine", "command"], "{port}"),
        (["--engine", "command", "--scheduler", "on", "--", "a", "{port}"], "only vLLM and emulated engines"),
        (["--engine", "sglang", "--model", "a", "--scheduler", "on"], "only vLLM and emulated engines"),
        (["--engine", "vllm", "--model", "a", "--scheduler", "on"], "give --profile"),
        (["--engine", "emulated", "--instances", "2", "--min", "3"], "--min: must be at most"),
        (["--engine", "vllm", "--model", "a", "--gpus", "0", "--instances", "2"], "need 2, got 1"),
        (["--engine", "emulated", "--config", "/nowhere"], "can't be read"),
        (["--engine", "emulated", "--policy", "polyserv"], "did you mean"),
    ],
)
def test_what_can_not_be_served_is_refused(run, arguments, said):
    """One line on stderr and exit code 2; nothing is started."""
    result = run(*arguments)
    assert (result.exit_code, run.served) == (2, [])
    assert said in result.stderr
