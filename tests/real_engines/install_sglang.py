"""Installing SGLang for a CPU.

PyPI's package is for GPUs. What it needs of them is left out, and where it imports that all the same something stands
in (`absent_packages`): enough for a dense model with PyTorch's own attention and sampling.
"""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from pathlib import Path

from installing import alone, install_once, make_environment, never, run, site_packages
from sglang_environment import VERSION, SglangEnvironment

# Builds for CUDA, and what is for pictures, sound and films.
LEFT_OUT = (
    "cuda-python", "flash-attn-4", "flashinfer_python", "humming-kernels", "nvidia-cutlass-dsl", "nvidia-mathdx",
    "nvshmem4py-cu13", "quack-kernels", "sgl-deep-ep", "sgl-deep-gemm", "sgl-flash-mla", "sglang-kernel", "tilelang",
    "torch_memory_saver", "triton", "av", "decord2", "timm", "torchaudio", "torchcodec", "torchvision",
)  # fmt: skip
TORCH = "torch==2.13.0"  # that vLLM has, too; SGLang asks for a later one
STAND_IN = Path(__file__).with_name("absent_packages.py")


def install_sglang(target: SglangEnvironment, uv: str) -> None:
    """Make the environment, unless it is there as it should be; raises `InstallError`."""
    with alone(target.folder):
        install_once(target, f"SGLang {VERSION}", recipe(), partial(make, target, uv))


def make(target: SglangEnvironment, uv: str) -> None:
    """Make the environment from nothing."""
    make_environment(target.folder, uv, [f"sglang=={VERSION}"], overrides=[*never(LEFT_OUT), TORCH])
    packages = site_packages(target.folder)
    shutil.copy(STAND_IN, packages)
    (packages / f"{STAND_IN.stem}.pth").write_text(f"import {STAND_IN.stem}\n")
    run([str(target.python), "-c", "import sglang.srt.server_args"])


def recipe() -> str:
    """Return what the environment was made from: when it changes, it is made again."""
    return hashlib.sha256("\n".join([VERSION, TORCH, *LEFT_OUT, STAND_IN.read_text()]).encode()).hexdigest() + "\n"
