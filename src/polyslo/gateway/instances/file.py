"""A file of instances that may change while the gateway runs, in the shape of the llm-d router's file discovery.

    endpoints:
      - name: a
        address: 10.0.0.1
        port: "8000"                    # a number or a text
        labels: {llm-d.ai/role: prefill, model: llama}

Pure: who watches the file hands its text in. JSON needs nothing; YAML needs PyYAML, which polyslo doesn't require.
A file with a mistake raises and changes nothing: the gateway keeps the instances that it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from ipaddress import IPv6Address
from typing import Any

from polyslo.errors import ConfigError
from polyslo.gateway.config.kinds import FAILED, Mistakes, Text, Texts
from polyslo.gateway.config.models import DECODE, PREFILL, EndpointConfig
from polyslo.gateway.config.table import MistakenConfigError, Tables, read_table, setting

ROLE_LABEL, MODEL_LABEL = "llm-d.ai/role", "model"
# The llm-d router's roles; an instance that does both has none here.
ROLES = {"prefill": PREFILL, "decode": DECODE, "prefill-decode": None, "both": None}
_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Port:
    """A port, as a number or, like in the llm-d router's files, as a text."""

    allowed: str = "a port from 1 to 65535"

    def read(self, value: object, path: str, mistakes: Mistakes) -> object:
        """Return a number."""
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        is_port = isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 65_535
        return number if is_port else mistakes.wrong(path, self.allowed, value)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the file."""

    name: str = setting(Text(), "")
    address: str = setting(Text("a host name or an IP address", r"[A-Za-z0-9._:-]+"), "")
    port: int = setting(Port(), "")
    scheme: str = setting(Text("http or https", r"https?"), "", "http")
    namespace: str | None = setting(Text(), "", None)
    labels: tuple[tuple[str, str], ...] = setting(Texts(), "", ())


@dataclass(frozen=True, slots=True)
class _File:
    """The file."""

    endpoints: tuple[_Entry, ...] = setting(Tables(_Entry), "")


@dataclass(frozen=True, slots=True)
class Listed:
    """An instance of the file, and the model that its label names; None: the one model of the gateway."""

    endpoint: EndpointConfig
    model: str | None


def parse_instances(text: str, file: str) -> tuple[Listed, ...]:
    """Return the instances of a file's text; `file` is its name, which tells JSON from YAML.

    An empty list is allowed: every instance is gone. Raises `ConfigError`, `MistakenConfigError` with every mistake.
    """
    data = _parse_yaml(text, file) if file.endswith(_YAML) else _parse_json(text, file)
    mistakes = Mistakes(file)
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: must have a list endpoints, got {type(data).__name__}; see docs/gateway-config.md")
    read = read_table(_File, data, "", mistakes)
    listed = (
        ()
        if read is FAILED
        else tuple(_listed(entry, f"endpoints[{index}]", mistakes) for index, entry in enumerate(read.endpoints))
    )
    _reject_twice(listed, mistakes)
    if mistakes.found:
        raise MistakenConfigError(tuple(mistakes.found), file)
    return listed


def _listed(entry: _Entry, path: str, mistakes: Mistakes) -> Listed:
    labels = dict(entry.labels)
    role = labels.get(ROLE_LABEL)
    if role is not None and role not in ROLES:
        mistakes.wrong(f"{path}.labels.{ROLE_LABEL}", " or ".join(ROLES), role)
    name = f"{entry.namespace}/{entry.name}" if entry.namespace else entry.name
    url = f"{entry.scheme}://{_host(entry.address, path, mistakes)}:{entry.port}"
    return Listed(EndpointConfig(url, name, ROLES.get(role or "both"), entry.labels), labels.get(MODEL_LABEL))


def _host(address: str, path: str, mistakes: Mistakes) -> str:
    """Return an address as it stands in a URL: IPv6 in brackets."""
    if ":" not in address:
        return address
    try:
        return f"[{IPv6Address(address)}]"
    except ValueError:
        mistakes.wrong(f"{path}.address", "a host name or an IP address, the port apart", address)
        return address


def _reject_twice(listed: tuple[Listed, ...], mistakes: Mistakes) -> None:
    seen: dict[str, int] = {}
    for index, entry in enumerate(listed):
        for what, value in (("name", entry.endpoint.name), ("address and port", entry.endpoint.url)):
            first = seen.setdefault(f"{what} {value}", index)
            if first != index:
                mistakes.add(
                    f"endpoints[{index}]", f"must have its own {what}, got that of endpoints[{first}]", "leave one out"
                )


def _parse_json(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: must be JSON, got {error}; correct it, or name it .yaml if it is YAML") from error


def _parse_yaml(text: str, file: str) -> Any:
    try:
        yaml = import_module("yaml")
    except ImportError as error:
        raise ConfigError(
            f"{file}: reading YAML needs the package PyYAML, which is not installed; "
            "pip install pyyaml, or write the same as JSON into a .json file"
        ) from error
    try:
        data: Mapping[str, Any] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: must be YAML, got {' '.join(str(error).split())}; correct it") from error
    return data
