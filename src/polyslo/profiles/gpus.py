"""GPUs as their datasheets give them: what a roofline estimate (`roofline.py`) needs to know of one.

Rates are dense (datasheets often print twice that, with sparsity). Memory is the nominal size in decimal bytes.
`link_bytes_per_s` is one direction: datasheets print the sum of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from polyslo.errors import ProfileError, nearest


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. Rates are per second; `fp8_flops` is None where the GPU has no FP8 matrix units."""

    title: str
    bf16_flops: float
    fp8_flops: float | None
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    source: str


_PCIE_4_X16 = 32e9

GPUS = {
    "a100-40gb": Gpu("A100 SXM4 40 GB", 312e12, None, 40e9, 1.555e12, 300e9, "NVIDIA A100 datasheet, SXM column"),
    "a100-80gb": Gpu("A100 SXM4 80 GB", 312e12, None, 80e9, 2.039e12, 300e9, "NVIDIA A100 datasheet, SXM column"),
    "h100": Gpu("H100 SXM5", 989.5e12, 1979e12, 80e9, 3.35e12, 450e9, "NVIDIA H100 datasheet, SXM column"),
    "h200": Gpu("H200 SXM", 989.5e12, 1979e12, 141e9, 4.8e12, 450e9, "NVIDIA H200 datasheet, SXM column"),
    "b200": Gpu("B200 SXM", 2250e12, 4500e12, 180e9, 8.0e12, 900e9, "NVIDIA HGX B200 specifications, per GPU"),
    "l4": Gpu("L4", 121e12, 242.5e12, 24e9, 0.3e12, _PCIE_4_X16, "NVIDIA L4 datasheet"),
    "l40s": Gpu("L40S", 362.05e12, 733e12, 48e9, 0.864e12, _PCIE_4_X16, "NVIDIA L40S datasheet"),
    "a10g": Gpu("A10G", 70e12, None, 24e9, 0.6e12, _PCIE_4_X16, "NVIDIA A10G datasheet"),
    "mi300x": Gpu("MI300X", 1307.4e12, 2614.9e12, 192e9, 5.3e12, 448e9, "AMD Instinct MI300X datasheet"),
}


def find_gpu(name: str) -> Gpu:
    """Return a GPU by name, upper or lower case. Raises `ProfileError` naming the nearest."""
    if name.lower() not in GPUS:
        raise ProfileError(f"GPU: unknown {name!r}{nearest(name.lower(), GPUS)}")
    return GPUS[name.lower()]
