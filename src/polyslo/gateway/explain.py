"""What a configuration comes to: its mistakes outside the file, its doubtful points, and a summary in lines.

`config` checks what stands in the file; this reads what the file names: profiles, policies, tokenizers, certificates,
the file of instances. For `polyslo check`, and for the gateway before it listens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from polyslo.core.tiers import tier_of
from polyslo.errors import ConfigError, PolysloError
from polyslo.gateway.belief.tokens import load_tokenizer
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import EndpointConfig, ModelConfig
from polyslo.gateway.config.slo import KeyConfig
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.fleets import live_fleet, live_profile
from polyslo.gateway.instances.file import Listed
from polyslo.gateway.instances.listed import misplaced, read_instances_file, with_listed
from polyslo.gateway.journal.learned_tiers import with_learned_tiers
from polyslo.gateway.journal.shadow import shadow_policy
from polyslo.gateway.live_policy import FALLBACK, why_fallback
from polyslo.gateway.observability.traces import untraceable
from polyslo.gateway.picker.picker import unpickable
from polyslo.gateway.tls import server_context
from polyslo.profiles.library import NamedProfile, load_profile
from polyslo.sim.fleet import PolicySpec

USUAL_PROMPT_TOKENS = 1024  # whose idle TTFT a class's TTFT is held against


@dataclass(frozen=True, slots=True)
class Explanation:
    """A configuration in lines. With mistakes the gateway would not start; warnings are worth a look."""

    mistakes: tuple[str, ...]
    warnings: tuple[str, ...]
    summary: tuple[str, ...]


def explain(config: GatewayConfig, environment: Mapping[str, str] = os.environ) -> Explanation:
    """Read what a configuration names and say what it comes to. Raises nothing: mistakes are in the answer."""
    mistakes: list[str] = []
    profiles: dict[str, NamedProfile] = {}
    for model in config.models:
        _resolve(config, model, profiles, mistakes)
    listed = _read_instances(config, mistakes)
    mistakes += _missing_files(config)
    learned = "" if config.tiers.learn is None else f", learned from {len(config.tiers.learn_from or ())} journal files"
    if not mistakes:
        try:
            config = with_learned_tiers(config)
        except ConfigError as error:
            mistakes.append(str(error))
    mistakes += [*untraceable(config.telemetry), *unpickable(config)]
    fallbacks = {} if mistakes else _fallbacks(config, profiles)
    warnings = (
        *fallbacks.values(),
        *_slo_warnings(config, profiles),
        *_key_warnings(config),
        *_model_warnings(config, environment),
    )
    summary = (
        *_server_lines(config),
        *(
            line
            for model in config.models
            for line in _model_lines(model, profiles.get(model.name), listed, falls_back=model.name in fallbacks)
        ),
        *_slo_lines(config, learned),
        *(_key_line(config, key) for key in config.keys),
    )
    return Explanation(tuple(mistakes), warnings, summary)


def _resolve(config: GatewayConfig, model: ModelConfig, profiles: dict[str, NamedProfile], mistakes: list[str]) -> None:
    """Load what a model names, complaining of each thing that can't be."""
    try:
        named = load_profile(model.profile_name, host_s=model.host_ms / 1e3)
        profiles[model.name] = replace(named, profile=live_profile(model))
    except PolysloError as error:
        mistakes.append(f"model {model.name!r}: {error}")
    try:
        PolicySpec.parse(model.policy)
        if model.name in profiles:
            live_fleet(model, config.tiers_s, 1)
        if model.shadow is not None:
            shadow_policy(model.shadow)
        if model.tokenizer is not None:
            load_tokenizer(model.tokenizer)
    except ConfigError as error:
        mistakes.append(f"model {model.name!r}: {error}")


def _fallbacks(config: GatewayConfig, profiles: Mapping[str, NamedProfile]) -> dict[str, str]:
    """Return, for models whose policy can't work with their engines, why."""
    reasons = {m.name: why_fallback(m, profiles[m.name].profile, config.tiers_s) for m in config.models}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _read_instances(config: GatewayConfig, mistakes: list[str]) -> tuple[Listed, ...]:
    if config.instances_file is None:
        return ()
    try:
        listed = read_instances_file(config.instances_file)
    except MistakenConfigError as error:
        mistakes += error.mistakes
        return ()
    except ConfigError as error:
        mistakes.append(str(error))
        return ()
    found = tuple(misplaced(config, listed))
    mistakes += found or _complaint(lambda: with_listed(config))
    return listed


def _complaint(do: Callable[[], object]) -> tuple[str, ...]:
    """Do what serving does, and return why it can't be done."""
    try:
        do()
    except ConfigError as error:
        return (str(error),)
    return ()


def _missing_files(config: GatewayConfig) -> Iterator[str]:
    missing = False
    for key in ("tls_cert_file", "tls_key_file"):
        file = getattr(config.server, key)
        if file is not None and not os.access(file, os.R_OK):
            missing = True
            yield f"server.{key}: must be a file that can be read, got {file!r}; check the path"
    if not missing:
        yield from _complaint(lambda: server_context(config.server))
    if config.journal.file is not None and not Path(config.journal.file).absolute().parent.is_dir():
        yield f"journal.file: must be in a folder that exists, got {config.journal.file!r}; make the folder"


def _slo_warnings(config: GatewayConfig, profiles: Mapping[str, NamedProfile]) -> Iterator[str]:
    """Name promises that an instance can't keep even alone."""
    for model in config.models:
        if model.name not in profiles:
            continue
        named = profiles[model.name]
        fastest_ms = fastest_tpot_ms(named) / (1 - model.margin_ratio)
        idle_ms = 1e3 * float(named.profile.idle_ttft_s([USUAL_PROMPT_TOKENS])[0])
        promised = [(f"class {entry.name!r}: tpot_ms", entry.tpot_ms) for entry in config.classes]
        promised += [("tiers: tpots_ms", tpot_ms) for tpot_ms in config.tiers.tpots_ms or ()]
        for what, tpot_ms in promised:
            if tpot_ms <= fastest_ms:
                yield (
                    f"{what} is {tpot_ms:g}, but the fastest that an instance of {named.name} can do alone is "
                    f"{fastest_ms:.2f}; loosen it, or it will always be missed"
                )
        for entry in config.classes:
            if entry.ttft_ms <= idle_ms:
                yield (
                    f"class {entry.name!r}: ttft_ms is {entry.ttft_ms:g}, but an idle instance of {named.name} takes "
                    f"{idle_ms:.0f} for a prompt of {USUAL_PROMPT_TOKENS} tokens; loosen it, or keep it for short ones"
                )


def fastest_tpot_ms(named: NamedProfile) -> float:
    """Return the smallest TPOT that an instance can do: one request alone."""
    return 1e3 * named.profile.iteration_s(1, 0, 1.0, 0.0)


def _key_warnings(config: GatewayConfig) -> Iterator[str]:
    is_local = _is_loopback(config.server.host)
    if not config.keys and not is_local:
        yield f"no keys: everybody who reaches {config.server.host} may ask for any SLO; add [keys.NAME]"
    if config.keys and not is_local and config.server.tls_cert_file is None:
        yield "keys travel unencrypted: give server.tls_cert_file, or put a proxy with TLS in front"
    for key in config.keys:
        if key.classes is None and key.min_ttft_ms is None and key.min_tpot_ms is None:
            yield f"key {key.name!r}: has no classes and no minima, so it may ask for any SLO; set classes"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _model_warnings(config: GatewayConfig, environment: Mapping[str, str]) -> Iterator[str]:
    if not config.models:
        yield "no [[models]]: the default model's settings hold for every instance of the file"
    for model in config.models:
        if model.profile is None:
            yield (
                f"model {model.name!r}: no profile is given, so that of {model.profile_name} is taken; name one "
                "(polyslo profile list), or measure yours"
            )
        for endpoint in model.endpoints:
            if endpoint.api_key_env is not None and endpoint.api_key_env not in environment:
                yield f"instance {endpoint.title!r}: the environment has no {endpoint.api_key_env}; set it"


def _server_lines(config: GatewayConfig) -> Iterator[str]:
    server = config.server
    scheme = "http" if server.tls_cert_file is None else "https"
    yield f"listens on {scheme}://{server.host}:{server.port}, metrics on {server.metrics_host}:{server.metrics_port}"
    if server.ext_proc_port is not None:
        yield f"picks endpoints for Envoy on {server.host}:{server.ext_proc_port}"
    if config.instances_file is not None:
        yield f"instances from {config.instances_file}, read again when it changes"


def _model_lines(
    model: ModelConfig, named: NamedProfile | None, listed: tuple[Listed, ...], *, falls_back: bool
) -> Iterator[str]:
    policy = f"{FALLBACK} in place of {model.policy}" if falls_back else model.policy
    fastest = "" if named is None else f" (fastest TPOT {fastest_tpot_ms(named):.1f} ms)"
    yield f"model {model.name}: {policy}, mode {model.mode}, profile {model.profile_name}{fastest}"
    endpoints = [*model.endpoints, *(entry.endpoint for entry in listed if entry.model in (None, model.name))]
    for role in ("prefill", "decode", None):
        titles = [_titled(endpoint) for endpoint in endpoints if endpoint.role == role]
        if titles:
            noun = "instance" if len(titles) == 1 else "instances"
            yield f"  {len(titles)} {noun}{f' to {role}' if role else ''}: {', '.join(titles)}"


def _titled(endpoint: EndpointConfig) -> str:
    return endpoint.title if endpoint.name is None else f"{endpoint.name} ({endpoint.url})"


def _slo_lines(config: GatewayConfig, how: str) -> Iterator[str]:
    tiers_s = config.tiers_s
    shown = ", ".join(f"{1e3 * tpot_s:g}" for tpot_s in tiers_s)
    yield f"tiers: {shown} ms{how}"
    for entry in config.classes or (config.default_class,):
        default = ", the default" if entry == config.default_class else ""
        if entry.best_effort:
            yield f"class {entry.name}: best effort{default}"
            continue
        tier_ms = 1e3 * tiers_s[max(0, int(tier_of(max(entry.tpot_ms / 1e3, tiers_s[0]), tiers_s)))]
        yield f"class {entry.name}: TTFT {entry.ttft_ms:g} ms, TPOT {entry.tpot_ms:g} ms, tier {tier_ms:g} ms{default}"


def _key_line(config: GatewayConfig, key: KeyConfig) -> str:
    """Say what a key may ask for."""
    classes = "every class" if key.classes is None else f"classes {', '.join(key.classes)}"
    bounds = [
        f"{name} from {least_ms:g} ms"
        for name, least_ms in (("TTFT", key.min_ttft_ms), ("TPOT", key.min_tpot_ms))
        if least_ms is not None
    ]
    tighter = {"clamp": "clamped", "refuse": "refused"}[key.on_tighter or config.slo.on_tighter]
    tenant = f" (tenant {key.tenant})" if key.tenant else ""
    default = config.default_class_of(key).name
    return f"key {key.name}{tenant}: {'; '.join([classes, *bounds])}; tighter wishes are {tighter}; default {default}"
