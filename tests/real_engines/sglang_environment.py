"""Where the tests' SGLang lives: an environment of its own beside vLLM's, whose models it serves.

Nothing here imports what is not in Python itself.
"""

from __future__ import annotations

from pathlib import Path

from vllm_environment import VERSION as VLLM_VERSION
from vllm_environment import EngineEnvironment, environment, why_not

VERSION = "0.5.23"


class SglangEnvironment(EngineEnvironment):
    """One with SGLang, on a CPU."""

    @property
    def models(self) -> Path:
        """The folder of the models."""
        return environment().models


def sglang_environment() -> SglangEnvironment:
    """Return where the environment is, or would be."""
    return SglangEnvironment(environment().folder.with_name(f"sglang-{VERSION}"))


def why_no_sglang() -> str | None:
    """Return why SGLang can't be used here; None when it can."""
    if (reason := why_not()) is not None:
        return reason
    here = sglang_environment()
    return None if here.is_ready else f"no SGLang {VERSION} in {here.folder}; `make engines` installs it"


if __name__ == "__main__":
    folder = environment().folder
    print(f"real engines: {why_not() or f'vLLM {VLLM_VERSION} in {folder}'}")
    if why_not() is None:
        print(f"real engines: {why_no_sglang() or f'SGLang {VERSION} in {sglang_environment().folder}'}")
