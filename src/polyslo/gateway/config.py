"""The gateway's configuration: a TOML file and the command line's flags, checked as a whole.

Pure but for `load_config`, which reads the one file. Each table is a frozen dataclass whose fields declare what is
allowed (`config_table`); what must hold between tables is here. What needs profiles, policies or other files is
checked by `explain.check`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyslo.errors import ConfigError, nearest
from polyslo.gateway.config_flags import overlay
from polyslo.gateway.config_models import ANY_MODEL, COLOCATED, DECODE, DISAGGREGATED, PREFILL, ModelConfig
from polyslo.gateway.config_server import HealthConfig, JournalConfig, ServerConfig, TelemetryConfig
from polyslo.gateway.config_slo import (
    DEFAULT_TIERS_MS,
    DEFAULT_TTFT_MS,
    KeyConfig,
    SloClass,
    SloConfig,
    TiersConfig,
)
from polyslo.gateway.config_table import (
    FAILED,
    MistakenConfigError,
    Mistakes,
    NamedTables,
    Table,
    Tables,
    Text,
    read_table,
    setting,
)

NO_FILE = "the command line"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """All that the gateway is told. Construct it with `load_config`, `parse_config` or `of_worker_urls`."""

    server: ServerConfig = setting(Table(ServerConfig), "Listening and limits.")
    slo: SloConfig = setting(Table(SloConfig), "What holds for every request.")
    classes: tuple[SloClass, ...] = setting(NamedTables(SloClass, "NAME"), "SLO classes by name.", ())
    tiers: TiersConfig = setting(Table(TiersConfig), "Which TPOTs the tiers keep.")
    keys: tuple[KeyConfig, ...] = setting(
        NamedTables(KeyConfig, "NAME"), "API keys by name; without any everybody may ask for anything.", ()
    )
    models: tuple[ModelConfig, ...] = setting(Tables(ModelConfig), "Models and their instances.", ())
    instances_file: str | None = setting(
        Text("the path of a .json or .yaml file"),
        "Instances in the llm-d shape (`endpoints: [{name, address, port, labels}]`), read again when it changes.",
        None,
    )
    health: HealthConfig = setting(Table(HealthConfig), "Watching instances.")
    journal: JournalConfig = setting(Table(JournalConfig), "The record for replay.")
    telemetry: TelemetryConfig = setting(Table(TelemetryConfig), "Metrics and receipts.")

    @classmethod
    def of_worker_urls(cls, urls: Sequence[str]) -> GatewayConfig:
        """Return the configuration of one model on these instances, everything else default."""
        return parse_config({}, NO_FILE, {"worker_urls": tuple(urls)})

    @property
    def default_class(self) -> SloClass:
        """The class of a request that asks for nothing: `slo.default`, else the loosest, else one over the tiers."""
        if not self.classes:
            return SloClass("default", DEFAULT_TTFT_MS, 1e3 * self.tiers_s[-1])
        if self.slo.default is not None:
            return self.class_named(self.slo.default)
        return max(self.classes, key=lambda entry: (entry.tpot_ms, entry.ttft_ms))

    @property
    def tiers_s(self) -> tuple[float, ...]:
        """TPOTs of the tiers in seconds, ascending; where tiers are learned, those to begin with."""
        tpots_ms = self.tiers.tpots_ms or tuple(entry.tpot_ms for entry in self.classes) or DEFAULT_TIERS_MS
        return tuple(tpot_ms / 1e3 for tpot_ms in sorted(set(tpots_ms)))

    def class_named(self, name: str) -> SloClass:
        """Return a class of `classes`; raises `KeyError` for another name."""
        for entry in self.classes:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def default_class_of(self, key: KeyConfig) -> SloClass:
        """Return the class of a key's requests that ask for nothing."""
        return self.default_class if key.default is None else self.class_named(key.default)


def load_config(file: str | None, flags: Mapping[str, Any] | None = None) -> GatewayConfig:
    """Read a TOML file, none for defaults, with the command line's flags over it (see `config_flags`).

    Raises `MistakenConfigError` with everything that is wrong in it, `ConfigError` where it can't be read.
    """
    if file is None:
        return parse_config({}, NO_FILE, flags)
    try:
        table = tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: can't be read, {error.strerror}; check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML, {error}") from error
    return parse_config(table, file, flags)


def parse_config(table: Mapping[str, Any], file: str, flags: Mapping[str, Any] | None = None) -> GatewayConfig:
    """Return the configuration of a parsed file and flags. Raises `MistakenConfigError` naming every mistake."""
    merged, origins, clashes = overlay(table, flags or {})
    mistakes = Mistakes(file, origins)
    mistakes.found.extend(clashes)
    config = read_table(GatewayConfig, merged, "", mistakes)
    if config is not FAILED:
        for check in (_check_slos, _check_tiers, _check_keys, _check_models, _check_server):
            check(config, mistakes)
    if mistakes.found:
        raise MistakenConfigError(tuple(mistakes.found), file)
    result: GatewayConfig = config
    return result


def _check_slos(config: GatewayConfig, mistakes: Mistakes) -> None:
    if config.slo.default is not None:
        _check_class(config, config.slo.default, "slo.default", mistakes)


def _check_class(config: GatewayConfig, name: str, path: str, mistakes: Mistakes) -> None:
    names = [entry.name for entry in config.classes]
    if not names:
        mistakes.add(path, f"must be the name of a class, got {name!r} and there are none", f"add [classes.{name}]")
    elif name not in names:
        mistakes.add(path, f"no class {name!r}{nearest(name, names)}")


def _check_tiers(config: GatewayConfig, mistakes: Mistakes) -> None:
    if config.tiers.tpots_ms is None:
        return
    if config.tiers.learn is not None:
        mistakes.add("tiers.tpots_ms", "and tiers.learn exclude each other, got both", "leave one out")
    tightest_ms = min(config.tiers.tpots_ms)
    for entry in config.classes:
        if entry.tpot_ms < tightest_ms:
            mistakes.add(
                f"classes.{entry.name}.tpot_ms",
                f"must be at least the tightest of tiers.tpots_ms, {tightest_ms:g}, got {entry.tpot_ms:g}",
                f"add a tier of {entry.tpot_ms:g} or less",
            )


def _check_keys(config: GatewayConfig, mistakes: Mistakes) -> None:
    hashes: dict[str, str] = {}
    for key in config.keys:
        path = f"keys.{key.name}"
        if key.hash in hashes:
            mistakes.add(f"{path}.hash", f"must be its own, got that of keys.{hashes[key.hash]}", "make another key")
        hashes.setdefault(key.hash, key.name)
        for name in key.classes or ():
            _check_class(config, name, f"{path}.classes", mistakes)
        if key.default is not None:
            _check_class(config, key.default, f"{path}.default", mistakes)
        _check_own_default(config, key, path, mistakes)


def _check_own_default(config: GatewayConfig, key: KeyConfig, path: str, mistakes: Mistakes) -> None:
    """A key whose default class it may not name would be refused whatever it sends."""
    names = {entry.name for entry in config.classes}
    default = key.default or (config.default_class.name if {config.slo.default} <= {None, *names} else None)
    if key.classes is not None and set(key.classes) <= names and default in names and default not in key.classes:
        mistakes.add(
            f"{path}.default",
            f"must be one of its classes ({', '.join(key.classes)}), got {default!r}",
            f"set {path}.default in {mistakes.file}",
        )


def _check_models(config: GatewayConfig, mistakes: Mistakes) -> None:
    for name, count in Counter(model.name for model in config.models).items():
        if count > 1:
            mistakes.add("models", f"each name may be given once, got {name!r} {count} times", "put them into one")
    if len(config.models) > 1 and any(model.name == ANY_MODEL for model in config.models):
        mistakes.add("models", 'one of several must have a name of its own, got "*"', f"name it in {mistakes.file}")
    if not config.instances_file and not any(model.endpoints for model in config.models):
        mistakes.add(
            "models", "there must be an instance, got none", "add [[models.endpoints]], instances_file or --worker-urls"
        )
    for message in _wrong_fleets(config):
        mistakes.add(*message)


def _wrong_fleets(config: GatewayConfig) -> Iterator[tuple[str, str, str]]:
    """Yield (key, what, remedy) for endpoints that can't work together."""
    urls: dict[str, str] = {}
    for index, model in enumerate(config.models):
        for number, endpoint in enumerate(model.endpoints):
            path = f"models[{index}].endpoints[{number}]"
            if endpoint.url in urls:
                yield f"{path}.url", f"must be its own, got that of {urls[endpoint.url]}", "leave one out"
            urls.setdefault(endpoint.url, path)
            if endpoint.role is not None and model.mode == COLOCATED:
                yield f"{path}.role", f'is for mode "pd", got {endpoint.role!r} in mode "co"', 'set mode = "pd"'
        if model.mode == DISAGGREGATED and model.endpoints and not config.instances_file:
            yield from _missing_roles(model, f"models[{index}].endpoints")


def _missing_roles(model: ModelConfig, path: str) -> Iterator[tuple[str, str, str]]:
    """Yield a complaint for each side of a disaggregated model that nobody can do."""
    if len(model.endpoints) == 1:
        yield path, "mode pd needs two instances, got one", "add one"
        return
    for role in (PREFILL, DECODE):
        if not any(endpoint.role in (None, role) for endpoint in model.endpoints):
            yield path, f"mode pd needs an instance to {role}, got none", f'add one with role = "{role}"'


def _check_server(config: GatewayConfig, mistakes: Mistakes) -> None:
    server = config.server
    if (server.tls_cert_file is None) != (server.tls_key_file is None):
        missing = "tls_key_file" if server.tls_key_file is None else "tls_cert_file"
        mistakes.add(f"server.{missing}", "must be given with the other one, got nothing")
    same_host = server.metrics_host == server.host
    if server.port and server.port == server.metrics_port and same_host:
        mistakes.add("server.metrics_port", f"must differ from server.port, got {server.metrics_port} twice")
