"""How an engine is started: its command line and environment, for one instance at one port on some GPUs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from polyslo.errors import ConfigError

EMULATED, VLLM, SGLANG, COMMAND = "emulated", "vllm", "sglang", "command"
ENGINES = (VLLM, SGLANG, EMULATED, COMMAND)
HOST = "127.0.0.1"
PORT_WORD = "{port}"
STOCK_CHUNK_TOKENS = 2048  # vLLM's own default on most GPUs; told to engines, so that gateway and engine agree
USUAL_RESIDENTS = 1024  # requests of a batch, where nobody says it
DYNAMIC_CHUNK_TOKENS = 8192  # a bound only, where chunks are sized by SLOs
_VLLM_LIMITS = "--max-num-batched-tokens", "--max-num-seqs"
# The flags by which engines are told the tokens of an iteration and the requests of a batch; all others have vLLM's.
_LIMITS = {SGLANG: ("--chunked-prefill-size", "--max-running-requests")}


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine, as all instances of a fleet have it.

    `extra` are arguments of its own command line, and go over all others. `chunk_limit_tokens` are those of an
    iteration; None: as many as is usual.
    """

    engine: str
    model: str | None = None
    served_name: str | None = None
    profile: str | None = None
    speed: float = 1.0
    tensor_parallel: int = 1
    has_scheduler: bool = False  # polyslo's, in the engine
    is_on_gpu: bool = False
    chunk_limit_tokens: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what goes together; raises `ConfigError`."""
        if self.engine in (VLLM, SGLANG) and self.model is None:
            raise ConfigError(
                f"--model: must be given with --engine {self.engine}, got none; a folder or a name of the hub"
            )
        for flag in self._limit_flags if self.engine != COMMAND else ():
            given = _value(self.extra, flag)
            if given is not None and (not given.isdigit() or int(given) == 0):
                raise ConfigError(
                    f"{flag}: must be a whole number above 0, as the gateway reckons with it, got {given!r}"
                )
        if self.engine == COMMAND and not any(PORT_WORD in word for word in self.extra):
            raise ConfigError(
                f"--engine command: needs the engine's command with {PORT_WORD} in it, got {' '.join(self.extra)!r}; "
                f"e.g. -- python -m my_engine --port {PORT_WORD}"
            )

    @property
    def chunk_tokens(self) -> int | None:
        """Tokens of an iteration, as the engine is told; None where only it knows."""
        given = self.given_chunk_tokens
        if given is not None or self.engine == COMMAND:
            return given
        return self.chunk_limit_tokens or (DYNAMIC_CHUNK_TOKENS if self.has_scheduler else STOCK_CHUNK_TOKENS)

    @property
    def given_chunk_tokens(self) -> int | None:
        """The same, where its own command line says it."""
        return _whole(self.extra, self._limit_flags[0])

    @property
    def may_choose_chunk(self) -> bool:
        """Whether the chunk is constant, and nobody has said how large."""
        told = self.chunk_limit_tokens or self.given_chunk_tokens
        return not (told or self.has_scheduler or self.engine == COMMAND)

    @property
    def max_residents(self) -> int | None:
        """Requests of a batch, where the engine is told. vLLM has no more than tokens in an iteration."""
        told, chunk = _whole(self.extra, self._limit_flags[1]), self.chunk_tokens
        if told is not None or self.engine != VLLM or chunk is None or chunk >= USUAL_RESIDENTS:
            return told
        return chunk

    @property
    def _limit_flags(self) -> tuple[str, str]:
        return _LIMITS.get(self.engine, _VLLM_LIMITS)

    def command(self, port: int) -> list[str]:
        """Return the command line of an instance."""
        if self.engine == COMMAND:
            return [word.replace(PORT_WORD, str(port)) for word in self.extra]
        chunk = () if self.given_chunk_tokens else (self._limit_flags[0], str(self.chunk_tokens))
        return [*_COMMANDS[self.engine](self, port), *chunk, *self.extra]


def gpu_env(gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment that shows an engine these GPUs and no others; none given: leave it as it is."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}


def assign_gpus(gpus: Sequence[str], num_instances: int, tensor_parallel: int) -> list[tuple[str, ...]]:
    """Give each instance GPUs of its own, neighbours to each. Raises `ConfigError` where there are too few."""
    if not gpus:
        return [()] * num_instances
    needed = num_instances * tensor_parallel
    if needed > len(gpus):
        raise ConfigError(
            f"--instances: {num_instances} of {tensor_parallel} GPUs each need {needed}, got {len(gpus)} "
            f"({', '.join(gpus)}); lower --instances or --tensor-parallel-size, or name more in --gpus"
        )
    return [tuple(gpus[i * tensor_parallel : (i + 1) * tensor_parallel]) for i in range(num_instances)]


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs of this machine that may be used, by the names that CUDA_VISIBLE_DEVICES takes."""
    told = environment.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [gpu.strip() for gpu in told.split(",") if gpu.strip() not in ("", "-1")]
    devices = Path("/dev")
    found = [path.name.removeprefix("nvidia") for path in devices.glob("nvidia[0-9]*")]
    return sorted((number for number in found if number.isdigit()), key=int)


def has_tested_vllm() -> bool:
    """Whether the vLLM beside this Python is one that polyslo's scheduler was tested with."""
    if find_spec("polyslo.engines.vllm_seam") is None:
        return False
    tested = import_module("polyslo.engines.vllm_seam").TESTED
    try:
        return version("vllm").split("+")[0] in tested
    except PackageNotFoundError:
        return False


def _vllm_command(spec: EngineSpec, port: int) -> list[str]:
    assert spec.model is not None
    command = [_program("vllm", "vLLM"), "serve", spec.model, "--host", HOST, "--port", str(port)]
    command += _name_and_parts(spec, "--tensor-parallel-size")
    return [*command, *(_scheduler_flags(spec) if spec.has_scheduler else ())]


def _sglang_command(spec: EngineSpec, port: int) -> list[str]:
    """Return SGLang's command line. Without mixed chunks every decode would wait until a prompt's last chunk."""
    assert spec.model is not None
    command = [_program("sglang", "SGLang"), "serve", "--model-path", spec.model, "--host", HOST, "--port", str(port),
               "--enable-metrics", "--enable-mixed-chunk"]  # fmt: skip
    return command + _name_and_parts(spec, "--tp-size")


def _name_and_parts(spec: EngineSpec, parallel_flag: str) -> list[str]:
    """Return the flags that name the model, and part it over GPUs, where they are needed."""
    flags: list[str] = []
    if spec.served_name and "--served-model-name" not in spec.extra:
        flags += ["--served-model-name", spec.served_name]
    if spec.tensor_parallel > 1:
        flags += [parallel_flag, str(spec.tensor_parallel)]
    return flags


def _program(name: str, title: str) -> str:
    """Return an engine's program: of this environment, or of the PATH."""
    beside = Path(sys.executable).parent / name
    program = str(beside) if beside.exists() else shutil.which(name)
    if program is None:
        raise ConfigError(f"--engine {name}: there is no {name} command here; install {title} in this environment")
    return program


def _scheduler_flags(spec: EngineSpec) -> list[str]:
    """Return the flags of polyslo's scheduler plug-in; on a GPU vLLM schedules one step ahead."""
    name = "AsyncScheduler" if spec.is_on_gpu else "Scheduler"
    settings: dict[str, object] = {"profile": _absolute(spec.profile)} if spec.profile else {}
    if spec.speed != 1.0:
        settings["speed"] = spec.speed
    return [
        "--scheduler-cls",
        f"polyslo.engines.vllm.{name}",
        "--additional-config",
        json.dumps({"polyslo": settings}),
    ]


def _emulated_command(spec: EngineSpec, port: int) -> list[str]:
    command = [sys.executable, "-m", "polyslo.cli.main", "emulate", "--host", HOST, "--port", str(port)]
    if spec.profile:
        command += ["--profile", _absolute(spec.profile)]
    if spec.served_name or spec.model:
        command += ["--model", str(spec.served_name or spec.model)]
    if spec.has_scheduler:
        command.append("--dynamic-chunking")
    return [*command, "--speed", f"{spec.speed:g}"]


_COMMANDS = {VLLM: _vllm_command, SGLANG: _sglang_command, EMULATED: _emulated_command}


def _absolute(profile: str) -> str:
    return str(Path(profile).resolve()) if profile.endswith(".json") else profile


def _whole(words: Sequence[str], flag: str) -> int | None:
    """Return the whole number that a flag has in a command line."""
    value = _value(words, flag)
    return int(value) if value is not None and value.isdigit() else None


def _value(words: Sequence[str], flag: str) -> str | None:
    """Return what a flag has in a command line, written either way."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == flag:
            return value if equals else "".join(words[index + 1 : index + 2])
    return None
