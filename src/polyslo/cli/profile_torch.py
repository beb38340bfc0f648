"""`polyslo profile torch`: a profile of a model's shape on this machine's GPU, in plain PyTorch, without an engine."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from polyslo.cli.output import check_writable, output_option
from polyslo.cli.profile_measure import STATE_SUFFIX, finish
from polyslo.cli.progress import progress_bar
from polyslo.errors import ConfigError
from polyslo.measure.document import measured_content, noise_of
from polyslo.measure.held_out import held_out_errors
from polyslo.measure.notebook import Notebook
from polyslo.profiles.library import parse_profile
from polyslo.profiles.shapes import find_shape

DTYPES = ("bfloat16", "float16", "float32")
SPARE_BYTES = 3e9  # of a GPU's memory, for activations


@click.command("torch")
@click.option("--shape", metavar="MODEL|config.json", default="llama-3.1-8b", show_default=True)
@output_option("--output", help="The profile, a .json file. [SHAPE-torch.json]")
@output_option("--plot", "plot_file", help="Draw it too, a .svg or .png file.")
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1, cpu, ...")
@click.option("--dtype", type=click.Choice(DTYPES), default="bfloat16", show_default=True)
@click.option("--max-decodes", metavar="N", type=click.IntRange(2, 4096), default=256, show_default=True)
@click.option("--max-context", "max_context_tokens", metavar="TOKENS", type=click.IntRange(256), default=32_768,
              show_default=True)  # fmt: skip
@click.option("--max-chunk", "max_chunk_tokens", metavar="TOKENS", type=click.IntRange(64, 32_768), default=8192,
              show_default=True)  # fmt: skip
@click.option("--kv-tokens", "max_kv_tokens", metavar="TOKENS", type=click.IntRange(1024),
              help="Of the cache. [what the GPU's memory leaves]")  # fmt: skip
@click.option("--repeats", "num_repeats", metavar="N", type=click.IntRange(3, 10_000), default=20, show_default=True)
@click.option("--restart", is_flag=True, help="Measure anew; without it an interrupted measurement goes on.")
def torch_command(
    shape: str, output: str | None, plot_file: str | None, device: str, dtype: str, restart: bool, **grid: Any
) -> None:
    """Time the forward pass of a model's shape, weights random: a GPU's profile where no engine is installed.

    One GPU, a dense decoder. An engine's own time per step is not in it: add --host-ms where the profile is used.
    """
    if find_spec("torch") is None:
        raise ConfigError("profile torch: needs PyTorch; pip install 'polyslo[torch]'")
    import torch

    from polyslo.measure.torch_decoder import Decoder
    from polyslo.measure.torch_times import TorchMeasurement, TorchPlan, conditions

    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch sees no GPU here; run it where one is, or try --device cpu")
    short, model = find_shape(shape)
    file = output or f"{short}-torch.json"
    check_writable(file)
    kind = getattr(torch, dtype)
    kv_bytes = 2 * model.num_layers * model.num_kv_heads * model.head_dim * kind.itemsize
    capacity = _kv_capacity(torch, where, model.total_params * kind.itemsize, kv_bytes, grid.pop("max_kv_tokens"))
    plan = TorchPlan(**grid, max_kv_tokens=capacity)
    decoder = Decoder(model, where, kind, capacity)
    said = conditions(where, decoder)
    notebook = Notebook(Path(file + STATE_SUFFIX), {"shape": short, "dtype": dtype, **asdict(plan)}, restart=restart)
    with progress_bar("timing") as progress:
        TorchMeasurement(decoder, plan, notebook, lambda done, total: progress(int(done), int(total))).run()
    for warning in noise_of(notebook.done).warnings:
        click.echo(f"warning: {warning}", err=True)
    facts = {
        "model": model.title,
        "system": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "tensor_parallel": 1,
        "engine": "torch",
        "engine_version": torch.__version__,
        "dtype": dtype,
        "source": "timed in plain PyTorch with random weights; an engine's host time per step is not in it",
        "conditions": said,
        "kv_bytes_per_token": kv_bytes,
        "kv_capacity_tokens": capacity,
    }
    content = measured_content(notebook.done, facts)
    finish(content, held_out_errors(parse_profile(content, short, where=file)), file, plot_file)


def _kv_capacity(torch: Any, device: Any, weight_bytes: float, kv_bytes: int, told: int | None) -> int:
    """Return how many KV tokens the cache has: as told, or what weights and activations leave of a GPU."""
    if told is not None:
        return told
    if device.type != "cuda":
        raise ConfigError("--kv-tokens: must be given on a CPU; e.g. --kv-tokens 16384")
    free_bytes, _ = torch.cuda.mem_get_info(device)
    capacity = int((free_bytes - weight_bytes - SPARE_BYTES) / kv_bytes)
    if capacity < 1024:
        raise ConfigError(
            f"--shape: its weights take {weight_bytes / 1e9:.0f} GB, the GPU has {free_bytes / 1e9:.0f} free"
        )
    return capacity
