"""Run a client as the program that it is, against a gateway in this process; its output is what it saw."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from environments import Environment
from gateway_bench import Bench

HANG_S = 240.0  # importing them alone takes some of them half a minute on a busy machine
HERE = Path(__file__).parent


WANTED = "POLYSLO_CLIENTS"  # set by `make clients`: they would take most of the time of `make test`


def needs(environment: Environment) -> pytest.MarkDecorator:
    """Skip, with the reason, where a client is not asked for or not installed."""
    if WANTED not in os.environ:
        return pytest.mark.skip(reason=f"{environment.name} is tried by `make clients` ({WANTED} is not set)")
    return pytest.mark.skipif(not environment.is_ready, reason=environment.missing)


def url_of(bench: Bench) -> str:
    """Return the gateway's address."""
    return f"http://127.0.0.1:{bench.gateway.listener.port}"


async def output_of(environment: Environment, program: str, *arguments: object, folder: Path = HERE) -> str:
    """Run one of its programs to its end and return what it printed; a failure shows all of that."""
    process = await asyncio.create_subprocess_exec(
        environment.program(program),
        *map(str, arguments),
        cwd=folder,
        env={
            "PATH": os.environ["PATH"], "HOME": str(folder), "CLIENT_FOLDER": str(environment.folder),
            "HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200", "OMP_NUM_THREADS": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()[-4000:] + err.decode()[-4000:]
    return out.decode()
