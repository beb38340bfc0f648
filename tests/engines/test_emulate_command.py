"""`polyslo emulate`: what it refuses, what it makes of its options, and one real start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from itertools import islice

import pytest
from click.testing import CliRunner

from polyslo.cli.main import cli
from polyslo.engines.emulation import Emulation


@pytest.fixture
def run(monkeypatch):
    """Return a function that calls the command; what would be served is in its `served`."""
    served = []
    monkeypatch.setattr(Emulation, "run", lambda self, say: served.append(self))

    def call(*arguments):
        return CliRunner().invoke(cli, ["emulate", *arguments], prog_name="polyslo")

    call.served = served
    return call


def test_options_reach_the_engines(run):
    """Names are vLLM's where it has them; the model is the profile's unless named."""
    assert run("--max-num-seqs", "7", "--speed", "0.1", "--instances", "3", "--dynamic-chunking").exit_code == 0
    assert run("--model", "tiny", "--host-ms", "2", "--noise", "0.1", "--seed", "4").exit_code == 0
    first, second = run.served
    assert (first.settings.max_num_seqs, first.speed, first.num_instances) == (7, 0.1, 3)
    assert first.settings.dynamic_chunking
    assert first.settings.max_num_batched_tokens == 8192
    assert first.model == "meta-llama/Meta-Llama-3.1-8B"
    assert (second.model, second.settings.noise_ratio, second.settings.seed) == ("tiny", 0.1, 4)
    assert second.named.profile.physics["host_s"][0] == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "llama-3.1-8b-h20-tp1"], "did you mean"),
        (["--output-lengths", "long"], "--output-lengths: must be one of"),
        (["--port", "65000", "--instances", "250", "--host-ms", "0"], None),
        (["--port", "65535", "--instances", "2"], "end beyond 65535; lower --port"),
        (["--speed", "0"], "--speed"),
        (["--speed", "nan"], "--speed"),
    ],
)
def test_what_can_not_be_served_is_refused(run, arguments, said):
    """One line on stderr and exit code 2."""
    result = run(*arguments)
    assert (result.exit_code, len(run.served)) == ((0, 1) if said is None else (2, 0))
    assert said is None or said in result.stderr


@pytest.mark.slow
def test_instances_say_where_they_are_and_stop_on_a_signal():
    """Each instance prints its address on stderr; SIGTERM ends the process with 0."""
    command = [sys.executable, "-m", "polyslo.cli.main", "emulate", "--port", "0", "--instances", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        urls = list(islice(_addresses(process.stderr), 2))
        assert len(set(urls)) == 2
        for url in urls:
            with urllib.request.urlopen(f"{url}/health") as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def _addresses(lines):
    for line in lines:
        if match := re.search(r" at (http://127\.0\.0\.1:\d+)$", line.strip()):
            yield match[1]
