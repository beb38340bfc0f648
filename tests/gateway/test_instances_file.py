"""The file of instances in the llm-d shape: what it gives, and what is wrong with one."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from polyslo.errors import ConfigError
from polyslo.gateway.config.table import MistakenConfigError
from polyslo.gateway.instances.file import parse_instances

A = {"name": "a", "address": "10.0.0.1", "port": 8000}


def parsed(*endpoints: dict[str, Any]) -> Any:
    """Parse a JSON file of these endpoints."""
    return parse_instances(json.dumps({"endpoints": list(endpoints)}), "i.json")


def test_the_shape_of_the_llm_d_router() -> None:
    """Port as a number or a text, role and model by label, a namespace before the name, IPv6 in brackets."""
    listed = parsed(
        A | {"labels": {"llm-d.ai/role": "prefill", "model": "llama"}},
        {
            "name": "b",
            "namespace": "ns",
            "address": "::1",
            "port": "8001",
            "labels": {"llm-d.ai/role": "prefill-decode"},
        },
        {"name": "c", "address": "engine-c", "port": 443, "scheme": "https"},
    )
    assert [entry.endpoint.url for entry in listed] == [
        "http://10.0.0.1:8000",
        "http://[::1]:8001",
        "https://engine-c:443",
    ]
    assert [entry.endpoint.title for entry in listed] == ["a", "ns/b", "c"]
    assert [entry.endpoint.role for entry in listed] == ["prefill", None, None]
    assert [entry.model for entry in listed] == ["llama", None, None]
    assert dict(listed[0].endpoint.labels)["model"] == "llama"


def test_no_instances_are_allowed() -> None:
    """An empty list says that all are gone."""
    assert parsed() == ()


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (
            {"name": "a", "address": "x"},
            "endpoints[0].port: must be a port from 1 to 65535, got nothing; set endpoints[0].port in i.json",
        ),
        (A | {"port": "http"}, "endpoints[0].port: must be a port from 1 to 65535, got 'http'; "
                               "set endpoints[0].port in i.json"),
        (A | {"port": True}, "endpoints[0].port: must be a port from 1 to 65535, got True; "
                             "set endpoints[0].port in i.json"),
        (A | {"prot": 1}, "i.json, [endpoints[0]]: unknown key 'prot'; did you mean 'port'?"),
        (
            A | {"address": "10.0.0.1:8000"},
            "endpoints[0].address: must be a host name or an IP address, the port apart, got '10.0.0.1:8000'; "
            "set endpoints[0].address in i.json",
        ),
        (
            A | {"labels": {"llm-d.ai/role": "both-ish"}},
            "endpoints[0].labels.llm-d.ai/role: must be prefill or decode or prefill-decode or both, got 'both-ish'; "
            "set endpoints[0].labels.llm-d.ai/role in i.json",
        ),
    ],
)  # fmt: skip
def test_a_mistake_names_its_place(endpoint: dict[str, Any], message: str) -> None:
    """Entry, key, allowed, got, remedy."""
    with pytest.raises(MistakenConfigError) as caught:
        parsed(endpoint)
    assert caught.value.mistakes == (message,)


def test_an_instance_given_twice() -> None:
    """Neither a name nor an address may stand for two."""
    with pytest.raises(MistakenConfigError) as caught:
        parsed(A, A | {"address": "10.0.0.2"}, A | {"name": "c"})
    assert caught.value.mistakes == (
        "endpoints[1]: must have its own name, got that of endpoints[0]; leave one out",
        "endpoints[2]: must have its own address and port, got that of endpoints[0]; leave one out",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "i.json: must be JSON, got "),
        ("endpoints: []", "i.json: must be JSON, got "),
        ("[" * 100_000, "i.json: must be JSON, got "),
        ("[]", "i.json: must have a list endpoints, got list; see docs/gateway-config.md"),
        ("{}", "endpoints: must be a list of tables, got nothing; set endpoints in i.json"),
    ],
)
def test_what_is_no_such_file(text: str, message: str) -> None:
    """YAML in a .json file is told how to be named."""
    with pytest.raises(ConfigError) as caught:
        parse_instances(text, "i.json")
    assert str(caught.value).startswith(message)


def test_yaml_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it: what to install, or JSON instead."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError) as caught:
        parse_instances("endpoints: []", "i.yaml")
    assert str(caught.value) == (
        "i.yaml: reading YAML needs the package PyYAML, which is not installed; "
        "pip install pyyaml, or write the same as JSON into a .json file"
    )


def test_yaml_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The safe loader is used, and its complaints name the file."""

    class YAMLError(Exception):
        """What the package raises."""

    def safe_load(text: str) -> Any:
        if text == "broken":
            raise YAMLError("line 1:\n  bad")
        return {"endpoints": [A]}

    module = ModuleType("yaml")
    module.safe_load, module.YAMLError = safe_load, YAMLError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yaml", module)
    assert parse_instances("good", "i.yml")[0].endpoint.name == "a"
    with pytest.raises(ConfigError, match=r"i.yaml: must be YAML, got line 1: bad; correct it"):
        parse_instances("broken", "i.yaml")
