"""docs/gateway-config.md against the classes that read the configuration."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from polyslo.gateway.config.flags import FLAGS, MODEL_FLAGS, URL_FLAGS, option
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.config.reference import with_reference

PAGE = (Path(__file__).parents[2] / "docs" / "gateway-config.md").read_text(encoding="utf-8")


def test_the_reference_is_that_of_the_classes() -> None:
    """If not: python -m polyslo.gateway.config.reference docs/gateway-config.md."""
    assert with_reference(PAGE) == PAGE


def test_the_example_is_a_configuration() -> None:
    """The page's TOML can be copied."""
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    config = parse_config(tomllib.loads(example), "gateway.toml")
    assert config.default_class.name == "chat"


def test_the_flags_of_the_page_are_flags() -> None:
    """What the page lists is what is laid over the file."""
    known = {option(name) for name in (*FLAGS, *MODEL_FLAGS, *URL_FLAGS, "api_key")}
    section = PAGE.split("## Flags")[1].split("## Every key")[0]
    assert set(re.findall(r"`(--[a-z-]+)`", section)) <= known
