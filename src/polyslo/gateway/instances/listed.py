"""The instances that a configuration's `instances_file` lists, by the model that each belongs to.

Reads the file (`instances_file` has its shape) and holds it against the models that are served.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from polyslo.errors import ConfigError
from polyslo.gateway.config.gateway import GatewayConfig
from polyslo.gateway.config.models import ANY_MODEL, EndpointConfig, ModelConfig
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.instances.file import Listed, parse_instances


def read_instances_file(file: str) -> tuple[Listed, ...]:
    """Return the instances of a file now. Raises `ConfigError` where it can't be read or has mistakes."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: can't be read, {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not text in UTF-8 (byte {error.start}); check the path") from error
    return parse_instances(text, file)


def listed_endpoints(config: GatewayConfig) -> dict[str, tuple[EndpointConfig, ...]]:
    """Return what the file lists for each model; what the configuration has itself is left out.

    Raises `ConfigError`, `MistakenConfigError` with every mistake.
    """
    models = served_models(config)
    if config.instances_file is None:
        return {model.name: () for model in models}
    listed = read_instances_file(config.instances_file)
    mistakes = tuple(misplaced(config, listed))
    if mistakes:
        raise MistakenConfigError(mistakes, config.instances_file)
    own = {endpoint.url for model in models for endpoint in model.endpoints}
    others = [entry for entry in listed if entry.endpoint.url not in own]
    return {
        model.name: tuple(entry.endpoint for entry in others if entry.model in (None, model.name) or len(models) == 1)
        for model in models
    }


def served_models(config: GatewayConfig) -> tuple[ModelConfig, ...]:
    """Return the models; without any the one that the engines of the file serve, everything about it default."""
    return config.models or (ModelConfig(),)


def with_listed(config: GatewayConfig) -> GatewayConfig:
    """Return a configuration whose models have the instances of the file too. Raises `ConfigError`."""
    listed = listed_endpoints(config)
    models = tuple(replace(model, endpoints=(*model.endpoints, *listed[model.name])) for model in served_models(config))
    for model in models:
        if model.num_slots < len(model.endpoints):
            raise ConfigError(
                f"{config.instances_file}: model {model.name!r} has room for {model.num_slots} instances, got "
                f"{len(model.endpoints)}; raise its max_instances"
            )
    return replace(config, models=models)


def misplaced(config: GatewayConfig, listed: tuple[Listed, ...]) -> Iterator[str]:
    """Complain of listed instances that belong to none of the models, or are called like another one."""
    names = [model.name for model in config.models]
    labels = sorted({entry.model for entry in listed if entry.model is not None})
    if names in ([], [ANY_MODEL]) and len(labels) > 1:
        yield (
            f"{config.instances_file}: must list instances of one model where [[models]] names none, got those of "
            f"{', '.join(labels)}; add [[models]] for each"
        )
    titles = {endpoint.title: endpoint.url for model in config.models for endpoint in model.endpoints}
    for entry in listed:
        endpoint = entry.endpoint
        if titles.get(endpoint.title, endpoint.url) != endpoint.url:
            yield (
                f"{config.instances_file}: {endpoint.title!r} must be the name of one instance, got {endpoint.url} and "
                f"{titles[endpoint.title]}; rename one"
            )
        if entry.model is None and len(names) > 1:
            yield (
                f"{config.instances_file}: {endpoint.title!r} must say its model, there are {len(names)}, "
                f"got no label; add labels.model, one of {', '.join(names)}"
            )
        elif entry.model is not None and names not in ([], [ANY_MODEL]) and entry.model not in names:
            yield (
                f"{config.instances_file}: {endpoint.title!r} must be of a configured model, got "
                f"{entry.model!r}; use one of {', '.join(names)}, or add [[models]]"
            )
