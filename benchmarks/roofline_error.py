"""Fit the roofline's efficiencies to the shipped BF16 profiles; print the error on what was held out.

python benchmarks/roofline_error.py

Decode and prefill points are fitted (squared logarithms of predicted / measured; every profile weighs the same, so
do its two kinds); mixed points are never fitted. Errors are those of the tables that a roofline profile ends up in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

import numpy as np

from polyslo.core.measured import residuals
from polyslo.profiles.library import NamedProfile, load_profile, parse_profile, shipped_profiles
from polyslo.profiles.roofline import FITTED, Factors, Roofline

GPUS = {"a100_sxm": "a100-80gb", "h100_sxm": "h100", "h200_sxm": "h200"}
FIELDS = tuple(asdict(FITTED))
START = Factors(0.75, 0.85, 0.85, 0.6, 0.7, 2.0, 30e-6, 2e-6, 5e-6)
PRIOR_WEIGHT = 0.01  # holds a factor at its start where no profile tells (all-reduce without tensor parallelism)
KINDS = ("decode", "prefill", "mixed")
HELD_OUT: dict[str, Callable[[NamedProfile, NamedProfile], bool]] = {
    "one profile": lambda held, other: other.name == held.name,
    "every profile of its GPU": lambda held, other: other.facts["system"] == held.facts["system"],
    "every profile of its model": lambda held, other: other.facts["model"] == held.facts["model"],
}


def main() -> None:
    """Print the fit to everything, then errors with parts held out."""
    shipped = [load_profile(name) for name in shipped_profiles()]
    profiles = [named for named in shipped if named.facts["dtype"] == "bfloat16"]
    fitted = fit(profiles)
    print("fitted to all:", ", ".join(f"{key}={value:.3g}" for key, value in asdict(fitted).items()))
    print("in the package:", ", ".join(f"{key}={value:.3g}" for key, value in asdict(FITTED).items()))
    _print_table("nothing held out", profiles, lambda held: fitted)
    for what, is_held in HELD_OUT.items():
        _print_table(
            f"held out: {what}",
            profiles,
            lambda held, is_held=is_held: fit([other for other in profiles if not is_held(held, other)]),
        )


def roofline_of(named: NamedProfile, factors: Factors) -> Roofline:
    """Return the roofline of what a shipped profile measured."""
    model = named.facts["model"].split("/")[1].lower().removeprefix("meta-")
    gpu = GPUS[named.facts["system"]]
    return replace(Roofline.of(model, gpu, tensor_parallel=named.facts["tensor_parallel"]), factors=factors)


def fit(profiles: Iterable[NamedProfile]) -> Factors:
    """Fit by Gauss-Newton steps on the factors' logarithms, damped where a step does not help."""
    known = list(profiles)
    start = np.log([getattr(START, field) for field in FIELDS])
    at, damping = start, 1e-3
    error = _errors(at, known, start)
    for _ in range(100):
        moved = [_errors(at + step, known, start) for step in 1e-5 * np.eye(len(at))]
        slopes = (np.array(moved) - error).T / 1e-5
        normal = slopes.T @ slopes
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slopes.T @ error)
        candidate = at + np.clip(step, -0.5, 0.5)
        candidate_error = _errors(candidate, known, start)
        gain = error @ error - candidate_error @ candidate_error
        if gain > 0:
            at, error, damping = candidate, candidate_error, damping / 3
        else:
            damping *= 4
        if abs(gain) < 1e-12:
            break
    return Factors(*(float(value) for value in np.exp(at)))


def _errors(at: np.ndarray, profiles: list[NamedProfile], start: np.ndarray) -> np.ndarray:
    factors = Factors(*np.exp(at))
    errors = [PRIOR_WEIGHT * (at - start)]
    for named in profiles:
        roofline = roofline_of(named, factors)
        n, context, ms = named.points.decode.T
        decode = np.log(roofline.batch_s(n, 0 * n, n * context, 0 * n) * 1e3 / ms)
        chunk, prefix, ms = named.points.prefill.T
        prefill = np.log(roofline.batch_s(0 * chunk, chunk, 0 * chunk, chunk * (prefix + chunk / 2)) * 1e3 / ms)
        errors += [kind / np.sqrt(2 * len(profiles) * len(kind)) for kind in (decode, prefill)]
    return np.concatenate(errors)


def _print_table(title: str, profiles: list[NamedProfile], factors_for: Callable[[NamedProfile], Factors]) -> None:
    print(f"\n{title}\n| profile | " + " | ".join(f"{kind}: mean abs, bias, worst" for kind in KINDS) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    means = []
    for held in profiles:
        content = roofline_of(held, factors_for(held)).content()
        estimate = parse_profile(content, held.name, where=held.name).profile
        errors = residuals(estimate, held.points)
        means.append([np.abs(errors[kind]).mean() for kind in KINDS])
        cells = (f"{np.abs(e).mean():.1%}, {e.mean():+.1%}, {np.abs(e).max():.0%}" for e in map(errors.get, KINDS))
        print(f"| {held.name} | " + " | ".join(cells) + " |")
    print("| mean | " + " | ".join(f"{mean:.1%}" for mean in np.mean(means, axis=0)) + " |")


if __name__ == "__main__":
    main()
