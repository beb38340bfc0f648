"""`polyslo serve`'s command line: URLs as sglang-router's users write them, and what is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from polyslo.cli import serve
from polyslo.cli.main import cli
from polyslo.gateway.config.gateway import GatewayConfig


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[GatewayConfig]:
    """The configurations that were about to be served."""
    found: list[GatewayConfig] = []
    monkeypatch.setattr(serve, "warm_up", lambda: None)
    monkeypatch.setattr(serve, "run", lambda config, *_: found.append(config))
    return found


def run(*arguments: str) -> Any:
    """Run the command."""
    return CliRunner().invoke(cli, ["serve", *arguments])


def urls(config: GatewayConfig) -> list[str]:
    """Return the instances' URLs."""
    return [endpoint.url for model in config.models for endpoint in model.endpoints]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--worker-urls", "http://a:1", "http://b:2"),
        ("--worker-urls", "http://a:1", "--worker-urls", "http://b:2"),
        ("--worker-urls", "http://a:1,http://b:2"),
        ("--worker-urls=http://a:1,http://b:2", "--port", "5"),
        ("--worker-urls=http://a:1", "http://b:2", "--policy", "minimal"),
        ("--port", "5", "--worker-urls", "http://a:1", "http://b:2", "--host", "localhost"),
    ],
)
def test_urls_may_follow_each_other(served: list[GatewayConfig], arguments: tuple[str, ...]) -> None:
    """With spaces, with commas, or with the flag before each."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert urls(served[0]) == ["http://a:1", "http://b:2"]


def test_a_file_may_come_before_or_after_the_urls(served: list[GatewayConfig], tmp_path: Path) -> None:
    """What is no URL ends the list."""
    file = tmp_path / "g.toml"
    file.write_text("[server]\nport = 7\n")
    for arguments in ((str(file), "--worker-urls", "http://a:1"), ("--worker-urls", "http://a:1", str(file))):
        assert run(*arguments).exit_code == 0
    assert [(config.server.port, urls(config)) for config in served] == [(7, ["http://a:1"])] * 2


def test_every_flag_reaches_its_key(served: list[GatewayConfig]) -> None:
    """Those that the field shares, each with a value that is not the default."""
    flags = {
        "--host": "localhost", "--port": "1", "--prometheus-port": "2", "--prometheus-host": "::1",
        "--max-concurrent-requests": "3", "--queue-size": "4", "--queue-timeout-secs": "5",
        "--request-timeout-secs": "6", "--retry-max-retries": "7", "--cb-failure-threshold": "8",
        "--health-check-interval-secs": "9", "--api-key": "ten", "--log-level": "error", "--policy": "minimal",
        "--max-num-batched-tokens": "512",
    }  # fmt: skip
    words = [word for pair in flags.items() for word in pair]
    result = run("--worker-urls", "http://a:1", "--dynamic-chunking", *words)
    assert result.exit_code == 0, result.output
    (config,) = served
    server, health = config.server, config.health
    assert (server.host, server.port, server.metrics_port, server.metrics_host) == ("localhost", 1, 2, "::1")
    assert (server.max_concurrent_requests, server.queue_size) == (3, 4)
    assert (server.queue_timeout_s, server.request_timeout_s, server.max_retries) == (5, 6, 7)
    assert (health.failure_threshold, health.interval_s, server.log_level) == (8, 9, "error")
    (model,) = config.models
    assert (len(config.keys), model.policy) == (1, "minimal")
    assert (model.chunk_limit_tokens, model.dynamic_chunking) == (512, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--worker-urls",), "worker-urls"),
        (("--worker-urls", "a:1"), "must be a URL"),
        ((), "there must be an instance"),
        (("--worker-urls", "http://a:1", "--policy", "polyserv"), "polyserve"),
        (("--worker-urls", "http://a:1", "--profile", "llama"), "profile"),
        (("--worker-urls", "http://a:1", "--queue-size", "-1"), "queue-size"),
    ],
)
def test_what_can_not_be_served_is_refused_at_once(
    served: list[GatewayConfig], arguments: tuple[str, ...], told: str
) -> None:
    """One line that says why, exit code 2, nothing started; also what only `polyslo check` finds."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert told in result.output
    assert not served
