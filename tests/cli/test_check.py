"""`polyslo check` and `polyslo key`: what an operator sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from polyslo.cli.main import cli
from polyslo.gateway.requests.keys import hash_of

Run = Callable[..., Result]

GOOD = f"""
instances_file = "i.json"
[server]
host = "0.0.0.0"
[classes.chat]
ttft_ms = 500
tpot_ms = 50
[classes.voice]
ttft_ms = 5
tpot_ms = 2
[slo]
default = "chat"
[keys.alice]
hash = "{hash_of(b"a")}"
classes = ["chat"]
min_ttft_ms = 400
[keys.bob]
hash = "{hash_of(b"b")}"
tenant = "acme"
on_tighter = "refuse"
[[models]]
name = "llama"
[[models.endpoints]]
url = "http://10.0.0.1:8000"
api_key_env = "POLYSLO_TEST_ABSENT"
"""
INSTANCES = '{"endpoints": [{"name": "i", "address": "10.0.0.2", "port": 1}]}'


def test_a_right_configuration_is_summed_up(run: Run, folder: Path) -> None:
    """Models, instances, tiers, classes and what each key may ask for, on stdout."""
    (folder / "g.toml").write_text(GOOD)
    (folder / "i.json").write_text(INSTANCES)
    result = run("check", "g.toml")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "listens on http://0.0.0.0:30000, metrics on 127.0.0.1:29000",
        "instances from i.json, read again when it changes",
        "model llama: minimal in place of polyserve, mode co, profile llama-3.1-8b-h200-tp1 (fastest TPOT 4.8 ms)",
        "  2 instances: 10.0.0.1:8000, i (http://10.0.0.2:1)",
        "tiers: 2, 50 ms",
        "class chat: TTFT 500 ms, TPOT 50 ms, tier 50 ms, the default",
        "class voice: TTFT 5 ms, TPOT 2 ms, tier 2 ms",
        "key alice: classes chat; TTFT from 400 ms; tighter wishes are clamped; default chat",
        "key bob (tenant acme): every class; tighter wishes are refused; default chat",
    ]


def test_what_is_doubtful_is_a_warning(run: Run, folder: Path) -> None:
    """A chunk too large, promises out of reach, keys without bounds, no TLS, no profile, no engine's key: on stderr."""
    (folder / "g.toml").write_text(GOOD)
    (folder / "i.json").write_text(INSTANCES)
    warnings = run("check", "g.toml").stderr.splitlines()
    expected = [
        r"model 'llama': a full step of 8192 tokens takes \d+ ms, the tightest tier is 2 ms: nothing can be prom",
        r"class 'voice': tpot_ms is 2, but the fastest that an instance of .* can do alone is 4\.\d\d; loosen it",
        r"class 'voice': ttft_ms is 5, but an idle instance of .* takes \d+ for a prompt of 1024 tokens",
        r"keys travel unencrypted: give server\.tls_cert_file",
        r"key 'bob': has no classes and no minima, so it may ask for any SLO; set classes",
        r"model 'llama': no profile is given, so that of llama-3\.1-8b-h200-tp1 is taken; name one",
        r"instance '10\.0\.0\.1:8000': the environment has no POLYSLO_TEST_ABSENT; set it",
    ]
    assert len(warnings) == len(expected)
    for warning, pattern in zip(warnings, expected, strict=True):
        assert re.match(f"warning: {pattern}", warning)
    (folder / "g.toml").write_text(GOOD.replace('name = "llama"', 'name = "llama"\ndynamic_chunking = true'))
    result = run("check", "g.toml")
    assert len(result.stderr.splitlines()) == len(expected) - 1
    assert "full step" not in result.stderr
    assert "model llama: polyserve, mode co" in result.stdout


def test_every_mistake_of_the_file_is_told(run: Run, folder: Path) -> None:
    """A line each on stderr, nothing on stdout, exit code 2."""
    (folder / "g.toml").write_text("[server]\nprot = 1\nhost = 5\n[slo]\ndefault = 'x'")
    result = run("check", "g.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "polyslo: g.toml, [server]: unknown key 'prot'; did you mean 'port'?",
        "polyslo: server.host: must be a text in quotes, got 5; set server.host in g.toml",
        "polyslo: slo.default: must be the name of a class, got 'x' and there are none; add [classes.x]",
        "polyslo: models: there must be an instance, got none; add [[models.endpoints]], instances_file or "
        "--worker-urls",
    ]


def test_every_mistake_in_what_the_file_names_is_told(run: Run, folder: Path) -> None:
    """Profile, policy, certificates, journal and the file of instances are looked at before the gateway starts."""
    (folder / "g.toml").write_text(
        """
        instances_file = "i.json"
        [server]
        tls_cert_file = "c.pem"
        tls_key_file = "k.pem"
        [journal]
        file = "nowhere/j"
        [[models]]
        name = "a"
        profile = "llama-3.1-8b-h20-tp1"
        policy = "polyserv"
        [[models]]
        name = "b"
        """
    )
    (folder / "i.json").write_text(INSTANCES)
    result = run("check", "g.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    mistakes = [line for line in result.stderr.splitlines() if line.startswith("polyslo: ")]
    assert [line.removeprefix("polyslo: ")[:58] for line in mistakes] == [
        "model 'a': profile: unknown 'llama-3.1-8b-h20-tp1'; did yo",
        "model 'a': policy: unknown 'polyserv'; did you mean 'polys",
        "i.json: 'i' must say its model, there are 2, got no label;",
        "server.tls_cert_file: must be a file that can be read, got",
        "server.tls_key_file: must be a file that can be read, got ",
        "journal.file: must be in a folder that exists, got 'nowher",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "i.json: can't be read, No such file or directory; check the path"),
        ('{"endpoints": [{}]}',
         "endpoints[0].name: must be a text in quotes, got nothing; set endpoints[0].name in i.json"),
        (INSTANCES.replace('"port": 1', '"port": 1, "labels": {"model": "x"}'),
         "i.json: 'i' must be of a configured model, got 'x'; use one of llama, or add [[models]]"),
    ],
)  # fmt: skip
def test_a_file_of_instances_that_is_wrong(run: Run, folder: Path, text: str | None, message: str) -> None:
    """Its mistakes are the configuration's."""
    (folder / "g.toml").write_text(GOOD)
    if text is not None:
        (folder / "i.json").write_text(text)
    result = run("check", "g.toml")
    assert result.exit_code == 2
    assert f"polyslo: {message}" in result.stderr.splitlines()


def test_a_new_key_and_its_hash(run: Run) -> None:
    """The key is the first line, once; the lines for the file hold its hash and can be pasted."""
    result = run("key", "new", "alice")
    key, _, table, line = result.stdout.splitlines()
    assert table == "[keys.alice]"
    assert line == f'hash = "{hash_of(key.encode())}"'
    assert key not in result.stderr


def test_the_hash_of_a_key_from_stdin(folder: Path) -> None:
    """It is never an argument; a short one is refused without being repeated."""
    result = CliRunner().invoke(cli, ["key", "hash"], input="k" * 30 + "\n")
    assert result.stdout == hash_of(b"k" * 30) + "\n"
    result = CliRunner().invoke(cli, ["key", "hash"], input="secret\n")
    assert result.exit_code == 2
    assert "key: must have at least 20 characters, got 6" in result.stderr
    assert "secret" not in result.stderr
