"""A profile as a picture: its points, measured or estimated, on the lines that the tables make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polyslo.errors import ConfigError
from polyslo.profiles.library import NamedProfile


def save_profile_figure(named: NamedProfile, file: str | Path) -> None:
    """Draw decode time over KV tokens and prefill time over the chunk; .svg or .png."""
    from matplotlib.figure import Figure

    if Path(file).suffix not in (".svg", ".png"):
        raise ConfigError(f"{file}: a figure is .svg or .png; name the file so")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    decode_axes, prefill_axes = figure.subplots(1, 2)
    _draw_decodes(decode_axes, named)
    _draw_prefills(prefill_axes, named)
    dots = "estimated, not measured" if named.is_estimate else "measured"
    figure.suptitle(f"{named.name}: dots {dots}, lines the profile")
    figure.savefig(file, dpi=150)


def _draw_decodes(axes, named: NamedProfile) -> None:  # type: ignore[no-untyped-def]
    points = named.points.decode
    for decodes in (1, 8, 32, 128, 512):
        line = points[points[:, 0] == decodes]
        if not len(line):
            continue
        kv = np.geomspace(decodes * line[0, 1], decodes * line[-1, 1], 80)
        times = [1e3 * named.profile.iteration_s(decodes, 0, k, 0.0) for k in kv]
        (drawn,) = axes.plot(kv, times, lw=1.2, label=f"{decodes} decodes")
        axes.plot(decodes * line[:, 1], line[:, 2], "o", ms=3, color=drawn.get_color())
    axes.set(xscale="log", yscale="log", xlabel="KV tokens", ylabel="iteration, ms", title="Decode")
    axes.legend(frameon=False, fontsize=8)


def _draw_prefills(axes, named: NamedProfile) -> None:  # type: ignore[no-untyped-def]
    points = named.points.prefill
    for prefix in np.unique(points[:, 1])[::2]:
        line = points[points[:, 1] == prefix]
        chunks = np.unique(np.geomspace(line[0, 0], line[-1, 0], 80).astype(int))
        times = [1e3 * named.profile.iteration_s(0, int(c), 0.0, prefix + c / 2) for c in chunks]
        (drawn,) = axes.plot(chunks, times, lw=1.2, label=f"{prefix:,.0f} tokens cached")
        axes.plot(line[:, 0], line[:, 2], "o", ms=3, color=drawn.get_color())
    axes.set(xscale="log", yscale="log", xlabel="chunk, tokens", ylabel="iteration, ms", title="Prefill")
    axes.legend(frameon=False, fontsize=8)
