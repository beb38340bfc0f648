"""Where the real engines of tests and benchmarks live: an environment with vLLM, outside of the checkout.

`make engines` makes it (`install.py`). Nothing here imports what is not in Python itself: it is used before anything
is installed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VERSION = os.environ.get("POLYSLO_VLLM_VERSION", "0.32.0")
SKIP = "POLYSLO_SKIP_ENGINES"
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class EngineEnvironment:
    """A virtual environment with one engine."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """Written when everything else is in place; its text says what was installed."""
        return self.folder / "polyslo-installed"

    @property
    def is_ready(self) -> bool:
        """Tell whether it was installed completely."""
        return self.stamp.exists()


class VllmEnvironment(EngineEnvironment):
    """One with a version of vLLM for CPUs, and models made on the spot beside it."""

    @property
    def nixl_stamp(self) -> Path:
        """Written when NIXL, which carries KV between engines, is in it, too; its text is the version."""
        return self.folder / "nixl-installed"

    @property
    def cache(self) -> Path:
        """Where vLLM keeps what it makes for itself; without being told it may take the working directory."""
        return self.folder / "cache"

    @property
    def models(self) -> Path:
        """The folder of the models."""
        return self.folder / "models"

    @property
    def has_nixl(self) -> bool:
        """Tell whether its engines can give KV to each other."""
        return self.nixl_stamp.exists()


def environment() -> VllmEnvironment:
    """Return where the environment is, or would be: `$XDG_CACHE_HOME/polyslo/engines/vllm-VERSION`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return VllmEnvironment(cache / "polyslo" / "engines" / f"vllm-{VERSION}")


def why_not(model: str = "nano") -> str | None:
    """Return why real engines can't be used here, with that model; None when they can."""
    if os.environ.get(SKIP, "0") not in ("", "0"):
        return f"{SKIP} is set"
    here = environment()
    if not here.is_ready:
        return f"no vLLM {VERSION} in {here.folder}; `make engines` installs it"
    return None if (here.models / model).exists() else f"no model {model} in {here.models}; `make engines` makes it"


def why_no_nixl() -> str | None:
    """Return why engines that are there can't give KV to each other; None when they can."""
    here = environment()
    return None if here.has_nixl else f"no NIXL in {here.folder}; `make engines` installs it where it can be had"
