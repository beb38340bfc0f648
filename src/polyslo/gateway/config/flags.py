"""The command line's flags, laid over a configuration file before it is checked.

So a flag's value passes the same tests as a file's, and a complaint names the flag. The names are those that
sglang-router, SMG and vllm-router share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyslo.gateway.requests.keys import hash_of

# Parameter of the command line: where in the file it belongs.
FLAGS = {
    "host": "server.host",
    "port": "server.port",
    "prometheus_host": "server.metrics_host",
    "prometheus_port": "server.metrics_port",
    "ext_proc_port": "server.ext_proc_port",
    "processes": "server.processes",
    "max_concurrent_requests": "server.max_concurrent_requests",
    "queue_size": "server.queue_size",
    "queue_timeout_secs": "server.queue_timeout_s",
    "request_timeout_secs": "server.request_timeout_s",
    "retry_max_retries": "server.max_retries",
    "log_level": "server.log_level",
    "cb_failure_threshold": "health.failure_threshold",
    "health_check_interval_secs": "health.interval_s",
    "instances_file": "instances_file",
    "journal": "journal.file",
}
# Those that change the one model; with several models the file says them.
MODEL_FLAGS = {
    "model": "name",
    "policy": "policy",
    "profile": "profile",
    "mode": "mode",
    "tokenizer": "tokenizer",
    "max_num_batched_tokens": "chunk_limit_tokens",
    "dynamic_chunking": "dynamic_chunking",
}
URL_FLAGS = {"worker_urls": None, "prefill": "prefill", "decode": "decode"}
KEY_NAME = "command-line"  # of the key that --api-key gives


def overlay(
    table: Mapping[str, Any], flags: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """Return (the file's table with the flags in it, flag by key, complaints). The table given stays as it is.

    Flags that are None or empty were not given. Names outside the tables above are a `KeyError`: the caller's fault.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    for name in given:
        if name not in (*FLAGS, *MODEL_FLAGS, *URL_FLAGS, "api_key"):
            raise KeyError(name)
    merged, origins = dict(table), {}
    for name, path in FLAGS.items():
        if name in given:
            _put(merged, path, given[name])
            origins[path] = option(name)
    if "api_key" in given:
        _put(merged, f"keys.{KEY_NAME}", {"hash": hash_of(given["api_key"].encode())})
    clashes = _overlay_model(merged, given, origins)
    return merged, origins, clashes


def option(name: str) -> str:
    """Return a flag as it is written: `--queue-size`."""
    return f"--{name.replace('_', '-')}"


def _put(table: dict[str, Any], path: str, value: Any) -> None:
    """Set a key of a nested table, copying the tables on the way. What is no table is left for the reader."""
    *folders, key = path.split(".")
    for folder in folders:
        inner = table.get(folder, {})
        if not isinstance(inner, dict):
            return
        table[folder] = dict(inner)
        table = table[folder]
    table[key] = value


def _overlay_model(merged: dict[str, Any], given: Mapping[str, Any], origins: dict[str, str]) -> tuple[str, ...]:
    """Set the flags of the one model; its instances are replaced by those of the command line."""
    named = [name for name in (*MODEL_FLAGS, *URL_FLAGS) if name in given]
    models = merged.get("models", [])
    if not named or not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        return ()
    if len(models) > 1:
        flags = ", ".join(option(name) for name in named)
        return (f"{flags}: for one model, the file has {len(models)}; set it in the file",)
    model = dict(models[0]) if models else {}
    for name, key in MODEL_FLAGS.items():
        if name in given:
            model[key] = given[name]
            origins[f"models[0].{key}"] = option(name)
    endpoints = _endpoints(given, origins)
    if endpoints:
        model["endpoints"] = endpoints
        if "prefill" in given or "decode" in given:
            model.setdefault("mode", "pd")
    merged["models"] = [model]
    return ()


def _endpoints(given: Mapping[str, Any], origins: dict[str, str]) -> list[dict[str, Any]]:
    endpoints: list[dict[str, Any]] = []
    for name, role in URL_FLAGS.items():
        for url in given.get(name, ()):
            origins[f"models[0].endpoints[{len(endpoints)}].url"] = option(name)
            endpoints.append({"url": url} if role is None else {"url": url, "role": role})
    return endpoints
