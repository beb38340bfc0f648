"""`polyslo up`: engines on this machine and the gateway in front of them, started, watched and stopped together."""

from __future__ import annotations

import asyncio
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import uvloop

from polyslo.cli.options import Finite
from polyslo.cli.serve import refuse, warn
from polyslo.errors import ConfigError
from polyslo.fleets.engine_command import (
    COMMAND,
    EMULATED,
    ENGINES,
    SGLANG,
    VLLM,
    EngineSpec,
    assign_gpus,
    has_tested_vllm,
    visible_gpus,
)
from polyslo.fleets.keeper import KeepRule
from polyslo.fleets.local_fleet import LocalFleet
from polyslo.fleets.pool import PoolRule
from polyslo.fleets.ports import free_ports
from polyslo.fleets.served_fleet import ServedFleet
from polyslo.gateway.config.gateway import GatewayConfig, parse_config
from polyslo.gateway.config.server import LOG_LEVELS
from polyslo.gateway.fleets import live_profile
from polyslo.gateway.journal.learned_tiers import with_learned_tiers
from polyslo.gateway.live_policy import fitting_chunk, is_chunk_too_large
from polyslo.gateway.observability.log_lines import log_to_stderr
from polyslo.gateway.warmup import warm_up

HAS_OWN = "--scheduler-cls"  # behind --: engines have a scheduler that somebody has chosen
HEALTH = {"interval_s": 2.0, "success_threshold": 1}  # an engine on this machine is asked often
# SGLang looks once a second whether anything has come of its scheduler, and answers then.
ENGINE_HEALTH = {SGLANG: {"timeout_s": 5.0}}


@click.command("up", context_settings={"ignore_unknown_options": False})
@click.argument("extra", nargs=-1, metavar="[-- ENGINE ARGUMENTS]", type=click.UNPROCESSED)
@click.option("--engine", type=click.Choice(ENGINES), required=True, help="command: any, given behind --, with {port}.")
@click.option("--model", metavar="PATH|NAME", help="What the engine loads.")
@click.option("--served-model-name", "served_name", metavar="NAME", help="As requests name it. [any]")
@click.option("--instances", metavar="N", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option("--min", "least", metavar="N", type=click.IntRange(1, 256),
              help="Stop engines that are not needed, down to N. [--instances: never]")  # fmt: skip
@click.option("--linger-secs", "linger_s", metavar="S", type=Finite(0), default=300.0, show_default=True,
              help="With --min: how long an engine is idle before it is stopped.")  # fmt: skip
@click.option("--profile", metavar="NAME|FILE|roofline:MODEL:GPU", help="Iteration times of an engine.")
@click.option("--speed", metavar="X", type=Finite(1e-3, 1e3), default=1.0, help="Of emulated engines. [1]")
@click.option("--scheduler", type=click.Choice(("auto", "on", "off")), default="auto", show_default=True,
              help="polyslo's scheduler inside the engines; auto: with a --profile and a tested vLLM.")  # fmt: skip
@click.option("--tensor-parallel-size", "tensor_parallel", metavar="N", type=click.IntRange(1, 64), default=1,
              show_default=True, help="GPUs of an instance.")  # fmt: skip
@click.option("--gpus", metavar="A,B,...", help="GPUs to use. [CUDA_VISIBLE_DEVICES, or all]")
@click.option("--engine-port", metavar="PORT", type=click.IntRange(1, 65_535), help="Of the first engine. [free ones]")
@click.option("--log-dir", metavar="FOLDER", help="Of the engines' logs. [a new one, told at the start]")
@click.option("--start-timeout-secs", "start_timeout_s", metavar="S", type=Finite(1), default=900.0, show_default=True)
@click.option("--config", "config_file", metavar="FILE", help="The gateway's configuration; its instances are these.")
@click.option("--policy", metavar="NAME", help="[polyserve]")
@click.option("--host", metavar="HOST", help="[127.0.0.1]")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65_535), help="[30000]")
@click.option("--prometheus-port", metavar="PORT", type=click.IntRange(0, 65_535), help="Of page and metrics. [29000]")
@click.option("--api-key", metavar="KEY", envvar="POLYSLO_API_KEY", help="A key that requests must have.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS))
def up_command(
    extra: tuple[str, ...], engine: str, instances: int, least: int | None, linger_s: float, scheduler: str,
    gpus: str | None, engine_port: int | None, log_dir: str | None, start_timeout_s: float,
    config_file: str | None, **options: Any,
) -> None:  # fmt: skip
    """Start engines on this machine and serve them as one endpoint; Ctrl-C stops everything.

    `polyslo up --engine vllm --model PATH --instances 4`. Engines that end are started again, meanwhile requests go
    elsewhere; none outlives polyslo. What stands behind -- goes to the engines' own command line.
    """
    usable = visible_gpus() if gpus is None else [gpu.strip() for gpu in gpus.split(",") if gpu.strip()]
    table = _read(config_file)
    model = _model(table, config_file)
    profile = options["profile"] or model.get("profile")
    spec = _spec(engine, scheduler, bool(usable), extra, {**options, "profile": profile, "chunk": _chunk(model)})
    needs_gpus = engine in (VLLM, SGLANG) or (engine == COMMAND and gpus is not None)
    assigned = assign_gpus(usable if needs_gpus else [], instances, spec.tensor_parallel)
    rule = _pool_rule(least, instances, linger_s)
    ports = free_ports(instances) if engine_port is None else list(range(engine_port, engine_port + instances))
    flags = {name: options[name] for name in ("policy", "host", "port", "prometheus_port", "api_key", "log_level")}
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    file = config_file or "polyslo up"
    config = _config(table, model, file, spec, urls, flags)
    explanation = refuse(config, file)  # before engines start
    config = with_learned_tiers(config)
    if (chunk := _fitting_chunk(spec, config)) is not None:
        spec = replace(spec, chunk_limit_tokens=chunk)
        config = replace(_config(table, model, file, spec, urls, flags), tiers=config.tiers)
        explanation = refuse(config, file)
        full = f"so that a full step fits into the tightest TPOT, {1e3 * config.tiers_s[0]:g} ms"
        click.echo(f"engines get a chunk of {chunk} tokens, {full}", err=True)
    log_to_stderr(config.server.log_level)
    warn(explanation)
    folder = _log_folder(log_dir)
    warm_up()

    async def serve() -> None:
        served = ServedFleet(config, rule, lambda line: click.echo(line, err=True))
        keep = KeepRule(start_timeout_s=start_timeout_s)
        served.fleet = LocalFleet(spec, ports, assigned, folder, served.on_change, keep)
        await served.serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _spec(
    engine: str, scheduler: str, is_on_gpu: bool, extra: tuple[str, ...], options: Mapping[str, Any]
) -> EngineSpec:
    if scheduler == "on" and engine not in (VLLM, EMULATED):
        raise ConfigError("--scheduler on: only vLLM and emulated engines have it; leave it out")
    if scheduler == "on" and engine == VLLM and options["profile"] is None:
        raise ConfigError(
            "--scheduler on: needs the engines' iteration times; give --profile (polyslo profile measure)"
        )
    wants_it = engine == EMULATED or (engine == VLLM and (scheduler == "on" or _can_have_scheduler(options)))
    has_scheduler = scheduler != "off" and wants_it
    return EngineSpec(
        engine=engine,
        model=options["model"],
        served_name=options["served_name"],
        profile=options["profile"],
        speed=options["speed"],
        tensor_parallel=options["tensor_parallel"],
        has_scheduler=has_scheduler and HAS_OWN not in extra,
        is_on_gpu=is_on_gpu,
        chunk_limit_tokens=options["chunk"],
        extra=extra,
    )


def _fitting_chunk(spec: EngineSpec, config: GatewayConfig) -> int | None:
    """Return the chunk that the tightest tier has room for, where the usual one is too large and ours to choose."""
    if spec.profile is None or not spec.may_choose_chunk:
        return None
    (model,) = config.models
    profile = live_profile(model)
    if not is_chunk_too_large(model, profile, config.tiers_s):
        return None
    chunk = fitting_chunk(model, profile, config.tiers_s)
    has_room = chunk is not None and chunk >= (spec.max_residents or 0)  # each may decode
    return chunk if has_room else None


def _can_have_scheduler(options: Mapping[str, Any]) -> bool:
    return options["profile"] is not None and has_tested_vllm()


def _pool_rule(least: int | None, instances: int, linger_s: float) -> PoolRule:
    if least is not None and least > instances:
        raise ConfigError(f"--min: must be at most --instances, {instances}, got {least}; lower it")
    return PoolRule(least=instances if least is None else least, most=instances, linger_s=linger_s)


def _config(
    table: dict[str, Any], model: dict[str, Any], file: str, spec: EngineSpec, urls: list[str], flags: Mapping[str, Any]
) -> GatewayConfig:
    """Return the gateway's configuration: the file's, with these engines and what is known of them."""
    if model.get("dynamic_chunking") and spec.engine != COMMAND and not (spec.has_scheduler or HAS_OWN in spec.extra):
        raise ConfigError(
            f"{file}: dynamic_chunking: with these options engines have no scheduler of polyslo's; leave it out, or "
            "see --scheduler"
        )
    known = {
        "name": spec.served_name,
        "profile": spec.profile,
        "speed": spec.speed if spec.speed != 1.0 else None,
        "dynamic_chunking": spec.has_scheduler or None,
        "chunk_limit_tokens": spec.chunk_tokens,
        "max_residents": spec.max_residents,
    }
    known = {key: value for key, value in known.items() if value is not None and key not in model}
    if spec.given_chunk_tokens is not None:  # behind --, which goes over the file
        known["chunk_limit_tokens"] = spec.given_chunk_tokens
    endpoints = [{"url": url, "name": f"engine-{i}"} for i, url in enumerate(urls)]
    models = [{**model, **known, "endpoints": endpoints}]
    health = HEALTH | ENGINE_HEALTH.get(spec.engine, {}) | table.get("health", {})
    return parse_config({**table, "models": models, "health": health}, file, flags)


def _model(table: Mapping[str, Any], file: str | None) -> dict[str, Any]:
    """Return the file's one model; raises `ConfigError` for several, which one command can't start."""
    models = table.get("models", [])
    if not isinstance(models, list) or len(models) > 1 or not all(isinstance(model, dict) for model in models):
        raise ConfigError(f"{file}: up serves one model; leave the others out, or use polyslo serve")
    return dict(models[0]) if models else {}


def _chunk(model: Mapping[str, Any]) -> int | None:
    """Return the chunk that the file states; what is none is refused with its other mistakes."""
    chunk = model.get("chunk_limit_tokens")
    return chunk if isinstance(chunk, int) and chunk > 0 else None


def _read(file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read, {error.strerror}; check the path") from error
    except ValueError as error:
        raise ConfigError(f"{file}: not TOML, {error}") from error


def _log_folder(folder: str | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="polyslo-up-"))
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--log-dir {folder}: can't be made, {error.strerror}; name another folder") from error
    return path
