"""The gateway's configuration: a TOML file and the command line's flags, checked as a whole.

Pure but for `load_config`, which reads the one file. Each table is a frozen dataclass whose fields declare what is
allowed (`config_table`); what must hold between tables is here. What needs profiles, policies or other files is
checked by `explain.check`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyslo.errors import ConfigError
from polyslo.gateway.config.flags import overlay
from polyslo.gateway.config.kinds import FAILED, Mistakes, Text
from polyslo.gateway.config.models import ANY_MODEL, COLOCATED, DECODE, DISAGGREGATED, PREFILL, ModelConfig
from polyslo.gateway.config.server import HealthConfig, JournalConfig, ServerConfig, TelemetryConfig
from polyslo.gateway.config.slo import (
    DEFAULT_TIERS_MS,
    DEFAULT_TTFT_MS,
    TPOT,
    TTFT,
    UNPROMISED_MS,
    KeyConfig,
    SloClass,
    SloConfig,
    TiersConfig,
)
from polyslo.gateway.config.table import NO_FILE, MistakenConfigError, NamedTables, Table, Tables, read_values, setting


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """All that the gateway is told. Construct it with `load_config`, `parse_config` or `of_worker_urls`."""

    server: ServerConfig = setting(
        Table(ServerConfig), "Where the gateway listens and what it bounds; beyond its bounds it refuses."
    )
    slo: SloConfig = setting(Table(SloConfig), "What holds for every request, whatever its key.")
    classes: tuple[SloClass, ...] = setting(
        NamedTables(SloClass, "NAME"), "SLO classes, by the names that requests ask for.", ()
    )
    tiers: TiersConfig = setting(
        Table(TiersConfig),
        "Which TPOTs the tiers keep. Without this table those of the classes; without classes 20, 30, 50 and 100 ms.",
    )
    keys: tuple[KeyConfig, ...] = setting(
        NamedTables(KeyConfig, "NAME"),
        "API keys and what each may ask for; without any everybody may ask for anything.",
        (),
    )
    models: tuple[ModelConfig, ...] = setting(
        Tables(ModelConfig),
        "Models: how fast their instances are, how requests are placed, which instances there are.",
        (),
    )
    instances_file: str | None = setting(
        Text("the path of a .json or .yaml file"),
        "Instances in the llm-d shape (`endpoints: [{name, address, port, labels}]`), read again when it changes.",
        None,
    )
    health: HealthConfig = setting(Table(HealthConfig), "When an instance counts as unhealthy, and as healthy again.")
    journal: JournalConfig = setting(
        Table(JournalConfig), "A record of arrivals and decisions, for replay. It holds lengths and times, no prompts."
    )
    telemetry: TelemetryConfig = setting(Table(TelemetryConfig), "What is measured and told.")

    # What follows from the tables, worked out once because every request asks for it.
    tiers_s: tuple[float, ...] = field(init=False, repr=False, compare=False)
    default_class: SloClass = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out the tiers' TPOTs in seconds, ascending (learned tiers begin with these), and the default class."""
        tpots_ms = self.tiers.tpots_ms or tuple(entry.tpot_ms for entry in self.promises) or DEFAULT_TIERS_MS
        object.__setattr__(self, "tiers_s", tuple(tpot_ms / 1e3 for tpot_ms in sorted(set(tpots_ms))))
        object.__setattr__(self, "default_class", self._default_class())

    @classmethod
    def of_worker_urls(cls, urls: Sequence[str]) -> GatewayConfig:
        """Return the configuration of one model on these instances, everything else default."""
        return parse_config({}, NO_FILE, {"worker_urls": tuple(urls)})

    def _default_class(self) -> SloClass:
        """Return `slo.default`, else the loosest class. A wrong name is `parse_config`'s."""
        chosen = [entry for entry in self.classes if entry.name == self.slo.default]
        return chosen[0] if chosen else self.loosest_of(self.promises)

    @property
    def promises(self) -> tuple[SloClass, ...]:
        """The classes that promise something: all but best effort."""
        return tuple(entry for entry in self.classes if not entry.best_effort)

    def loosest_of(self, promises: Sequence[SloClass]) -> SloClass:
        """Return the loosest class of some that promise something; of none one over the tiers."""
        made_up = SloClass("default", DEFAULT_TTFT_MS, 1e3 * self.tiers_s[-1])
        return max(promises, key=lambda entry: (entry.tpot_ms, entry.ttft_ms), default=made_up)

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
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number of thousands of digits, nested so
        raise ConfigError(f"{file}: not TOML, {error}") from error
    return parse_config(table, file, flags)


def parse_config(table: Mapping[str, Any], file: str, flags: Mapping[str, Any] | None = None) -> GatewayConfig:
    """Return the configuration of a parsed file and flags. Raises `MistakenConfigError` naming every mistake."""
    merged, origins, clashes = overlay(table, flags or {})
    mistakes = Mistakes(file, origins)
    mistakes.found.extend(clashes)
    values = read_values(GatewayConfig, merged, "", mistakes)
    failed = {key for key, value in values.items() if value is FAILED}
    config = GatewayConfig(**{key: value for key, value in values.items() if key not in failed})
    for check, needs in _CHECKS:
        if not failed & needs:
            check(config, mistakes)
    if mistakes.found:
        raise MistakenConfigError(tuple(mistakes.found), file)
    return config


def _check_slos(config: GatewayConfig, mistakes: Mistakes) -> None:
    for entry in config.classes:
        for key, kind, promised_ms in (("ttft_ms", TTFT, entry.ttft_ms), ("tpot_ms", TPOT, entry.tpot_ms)):
            path = f"classes.{entry.name}.{key}"
            if entry.best_effort and promised_ms != UNPROMISED_MS:
                mistakes.add(path, f"and best_effort exclude each other, got {promised_ms:g}", "leave one out")
            elif not entry.best_effort and promised_ms == UNPROMISED_MS:
                mistakes.wrong(path, f"{kind.allowed}, where best_effort is not true", None)
    if config.slo.default is not None:
        _check_class(config, config.slo.default, "slo.default", mistakes)


def _check_class(config: GatewayConfig, name: str, path: str, mistakes: Mistakes) -> None:
    names = [entry.name for entry in config.classes]
    if not names:
        mistakes.add(path, f"must be the name of a class, got {name!r} and there are none", f"add [classes.{name}]")
    elif name not in names:
        mistakes.unknown_name(path, "class", name, names)


def _check_tiers(config: GatewayConfig, mistakes: Mistakes) -> None:
    if (config.tiers.learn is None) != (config.tiers.learn_from is None):
        missing = "learn_from" if config.tiers.learn_from is None else "learn"
        mistakes.add(
            f"tiers.{missing}",
            "must be given with the other one, got nothing: tiers are learned at the start, from journals",
            "name journal files of earlier runs there" if missing == "learn_from" else 'set it to "auto"',
        )
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
    default = key.default or config.slo.default or config.default_class.name
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
    can_come = config.instances_file or config.server.admin_key_hash
    if not can_come and not any(model.endpoints for model in config.models):
        mistakes.add(
            "models",
            "there must be an instance, got none",
            "add [[models.endpoints]], instances_file or --worker-urls",
        )
    for message in _wrong_fleets(config):
        mistakes.add(*message)


def _wrong_fleets(config: GatewayConfig) -> Iterator[tuple[str, str, str]]:
    """Yield (key, what, remedy) for endpoints that can't work together."""
    urls: dict[str, str] = {}
    names: dict[str, str] = {}
    for index, model in enumerate(config.models):
        if model.num_slots < len(model.endpoints):
            path = f"models[{index}].max_instances"
            yield path, f"must be at least its instances, {len(model.endpoints)}, got {model.num_slots}", "raise it"
        for number, endpoint in enumerate(model.endpoints):
            path = f"models[{index}].endpoints[{number}]"
            if endpoint.url in urls:
                yield f"{path}.url", f"must be its own, got that of {urls[endpoint.url]}", "leave one out"
            elif endpoint.title in names:
                yield f"{path}.name", f"must be its own, got that of {names[endpoint.title]}", "rename one"
            urls.setdefault(endpoint.url, path)
            names.setdefault(endpoint.title, path)
            if endpoint.role is not None and model.mode == COLOCATED:
                yield f"{path}.role", f'is for mode "pd", got {endpoint.role!r} in mode "co"', 'set mode = "pd"'
        if model.mode == DISAGGREGATED and model.shadow is not None:
            yield f"models[{index}].shadow", f'is for mode "co", got {model.shadow!r} in mode "pd"', "leave it out"
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
    if server.metrics_tls and server.tls_cert_file is None:
        mistakes.add(
            "server.metrics_tls",
            "needs a certificate, got none",
            f"set server.tls_cert_file and server.tls_key_file in {mistakes.file}",
        )
    if (server.tls_cert_file is None) != (server.tls_key_file is None):
        missing = "tls_key_file" if server.tls_key_file is None else "tls_cert_file"
        mistakes.add(f"server.{missing}", "must be given with the other one, got nothing")
    same_host = server.metrics_host == server.host
    if server.port and server.port == server.metrics_port and same_host:
        mistakes.add("server.metrics_port", f"must differ from server.port, got {server.metrics_port} twice")
    if server.ext_proc_port and server.ext_proc_port in (server.port, *[server.metrics_port] * same_host):
        mistakes.add("server.ext_proc_port", f"must differ from the other ports, got {server.ext_proc_port} twice")


# What must hold between tables, each with the tables that it reads: those with mistakes of their own are left out.
_CHECKS: tuple[tuple[Callable[[GatewayConfig, Mistakes], None], frozenset[str]], ...] = (
    (_check_slos, frozenset({"slo", "classes"})),
    (_check_tiers, frozenset({"tiers", "classes"})),
    (_check_keys, frozenset({"slo", "classes", "keys"})),
    (_check_models, frozenset({"models", "instances_file"})),
    (_check_server, frozenset({"server"})),
)
