"""A profile fitted from real vLLM's own steps, tried on traffic that it was not fitted on.

    python benchmarks/fitted_profile.py [--instances 1] [--fit 90] [--duration 60] [--load 0.6] [--runs 4] [--outside]

Needs `make engines`. Engines compute at their own speed, nothing is paced, each on one CPU. The gateway, the
clients and the engines' HTTP servers have the other CPUs; where there are none, they take turns with the engines:

    1. Stock steps, written down by the plug-in, while the fit's workloads are sent straight to each engine.
    2. `polyslo profile measure --steps` makes a profile of them.
    3. With that profile the fit's workloads come through the gateway, and a second profile is made of those steps:
       where engines, gateway and load take turns, steps take longer than they did alone.
    4. Engines with that profile, behind the gateway, get another workload, `--runs` times, and before each of these
       and after the last one a part of the fit's workloads, of which a third profile is made. The simulator gets the
       runs with that one. With `--outside` a stock engine is then measured by its URL, without its log.

What the second profile is off more than the third is what changed between two starts of engines, in them or in the
machine; what the third is off is the profile's own error, and what changes within minutes. Bounds, which are for
engines that have their CPUs to themselves: median error of a step at most 10%, of a first token 15%, and the
simulated attainment within 5 points of the live one. On a machine that others keep busy the errors are theirs: the
load average is printed beside, how far steps of the same batch are off their own median, and what is left of the
error when the profile is corrected by the ratio that the gateway learns of the steps before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from answered_streams import Stream, letters, send
from served_engines import MODELS, VllmEngine, end_in_order, environment, part_cpus, served, why_not

from polyslo.core.profile import Profile
from polyslo.core.slowness import add_iteration
from polyslo.gateway.warmup import warm_up
from polyslo.load.plan import LoadPlan
from polyslo.measure.step_fit import fit_steps
from polyslo.measure.steps_file import Steps
from polyslo.profiles.library import load_profile, parse_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world, run_world
from polyslo.sim.setting import Setting
from polyslo.sim.world import ATTAINED
from polyslo.workload.workload import Workload

NAME = "small"
MODEL = MODELS[NAME]
TOKEN_LIMIT, MOST_RESIDENTS, MAX_MODEL_LEN = 2048, 64, 16_384
FIT_WORKLOADS, FIT_RATES_RPS = ("sharegpt", "azure2023-code"), (0.1, 0.3, 0.6)
WORKLOAD = "azure2023-conv"
MIX = """
source = "ours: TPOTs that a small model on one core of a CPU can keep"
ttft_ms = [6000, 12000]
tiers.quick = { tpot_ms = 160, share = 0.2 }
tiers.usual = { tpot_ms = 320, share = 0.4 }
tiers.easy = { tpot_ms = 640, share = 0.4 }
"""
PARTS = ("all", "decodes alone", "with prompts")  # steps by what they carried
ALIKE = 20  # steps with the same batch have a median that says something
STEP_BOUND, FIRST_BOUND, ATTAINMENT_BOUND = 0.10, 0.15, 0.05


@dataclass(frozen=True)
class Outcome:
    """A run beside what was foreseen of it. Errors are (foreseen - measured) / measured."""

    step_errors: dict[str, np.ndarray]  # of the profile fitted in turns with the runs, by what the step carried
    other_errors: dict[str, np.ndarray]  # of profiles from engines that were started before or after, by their name
    floor_errors: np.ndarray  # of a profile of the same form that was fitted to this very run
    spread: np.ndarray  # a step over the median of those with the same batch, less 1: the machine's own noise
    followed_errors: np.ndarray  # of the profile times the ratio of the steps before, as slowness.py learns it
    first_errors: np.ndarray  # of the simulator's first tokens, a request each
    promised_errors: np.ndarray  # of the gateway's promises, which reckon with iterations that later requests fill
    simulated_first_s: np.ndarray  # a scored request each, NaN without a token
    first_s: np.ndarray
    simulated_attained: np.ndarray  # a scored request each
    attained: np.ndarray
    num_failed: int
    load_average: float  # of the machine, last minute

    @staticmethod
    def of_all(outcomes: list[Outcome]) -> Outcome:
        """Return several runs as one."""
        arrays = [field.name for field in fields(Outcome) if field.type == "np.ndarray"]
        return Outcome(
            step_errors=_joined([o.step_errors for o in outcomes]),
            other_errors=_joined([o.other_errors for o in outcomes]),
            num_failed=sum(o.num_failed for o in outcomes),
            load_average=max(o.load_average for o in outcomes),
            **{name: np.concatenate([getattr(o, name) for o in outcomes]) for name in arrays},
        )


def _joined(of_runs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([mine[name] for mine in of_runs]) for name in of_runs[0]}


def main() -> None:
    """Fit, then try."""
    options = parse()
    reason = why_not(NAME)
    if reason is not None:
        sys.exit(f"real engines: {reason}")
    end_in_order()
    options.cpus = part_cpus(options.instances)
    warm_up()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(options.keep or made)
        folder.mkdir(exist_ok=True)
        (folder / "mix.toml").write_text(MIX)
        profile_file = Path(options.profile) if options.profile else asyncio.run(fitted(folder, options))
        outcomes = asyncio.run(tried(profile_file, folder, options))
        report(outcomes, setting_of(WORKLOAD, profile_file, folder, options), options)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--fit", type=float, default=90.0, help="seconds to fit on, for each workload and profile")
    parser.add_argument("--profile", help="a second profile fitted before")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of arrivals of a run")
    parser.add_argument("--load", type=float, default=0.6, help="of the fluid optimum")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outside", action="store_true", help="measure a profile from outside as well (7 minutes)")
    parser.add_argument("--keep", metavar="FOLDER", help="where logs, steps and the profile stay")
    return parser.parse_args()


def config(options: argparse.Namespace) -> FleetConfig:
    """Return the fleet as the simulator has it."""
    return FleetConfig(
        num_instances=options.instances, max_residents=MOST_RESIDENTS, chunk_limit_tokens=TOKEN_LIMIT,
        kv_capacity_tokens=MODEL.kv_capacity_tokens,
    )  # fmt: skip


def setting_of(workload: str, profile_file: Path, folder: Path, options: argparse.Namespace) -> Setting:
    """Return a workload with the mix of SLOs, on the fleet that is run."""
    return Setting.of(workload=workload, profile=profile_file, slo=folder / "mix.toml", fleet=config(options))


def engine(name: str, folder: Path, cpu: int | None, **polyslo: str) -> VllmEngine:
    """Start an engine."""
    return VllmEngine(
        environment(), folder / f"{name}.log", name=NAME, model=NAME, token_limit=TOKEN_LIMIT, cpu=cpu,
        max_num_seqs=MOST_RESIDENTS, max_model_len=MAX_MODEL_LEN, kv_bytes=MODEL.kv_bytes,
        polyslo={"steps_file": str(folder / f"{name}.jsonl"), **polyslo},
    )  # fmt: skip


async def steps_to_fit(folder: Path, options: argparse.Namespace) -> Path:
    """Return what stock engines wrote down of their steps, all of them in one file."""
    engines = [engine(f"fit-{k}", folder, cpu) for k, cpu in enumerate(options.cpus)]
    try:
        for each in engines:
            await asyncio.to_thread(each.wait)
        for k, each in enumerate(engines):
            print(f"traffic to fit on, engine {k + 1} of {len(engines)}", flush=True)
            for name in FIT_WORKLOADS:
                for rate_rps in FIT_RATES_RPS:
                    part_s = options.fit / len(FIT_RATES_RPS)
                    workload = Setting.of(workload=name).workload(rate_rps, options.seed + 100 + k, duration_s=part_s)
                    plan = LoadPlan.of(workload)
                    await send(plan, each.url, letters(plan, each.url, NAME, MODEL.vocab, told=False))
    finally:
        for each in engines:
            await asyncio.to_thread(each.stop)
    return merged(engines, folder)


def measure(*arguments: str | Path) -> None:
    """Run `polyslo profile measure` and let it say what it finds."""
    command = [sys.executable, "-m", "polyslo", "profile", "measure", *map(str, arguments)]
    subprocess.run([*command, "--kv-bytes-per-token", str(MODEL.kv_bytes_per_token)], check=True)


def fit(steps: Path) -> Path:
    """Return the profile that `polyslo profile measure` makes of steps."""
    file = steps.with_name("fitted.json")
    capacity = str(MODEL.kv_capacity_tokens)
    measure("--steps", steps, "--output", file, "--model", NAME, "--kv-capacity-tokens", capacity)
    return file


def measured(folder: Path, options: argparse.Namespace) -> Path:
    """Return the profile that `polyslo profile measure` makes of an engine by its URL."""
    file = folder / "outside.json"
    stock = engine("outside", folder, options.cpus[0])
    try:
        stock.wait()
        longest = str(MAX_MODEL_LEN // 2)
        measure(stock.url, "--output", file, "--vocab", str(MODEL.vocab), "--max-context", longest)
    finally:
        stock.stop()
    return file


async def fitted(folder: Path, options: argparse.Namespace) -> Path:
    """Return the profile of the fit's workloads as they come through the gateway."""
    first = fit(await steps_to_fit(folder, options))
    engines = engines_with(first, "fit-served", folder, options)
    async with served(engines, configuration(first, folder, options), folder / "fit-served.toml") as url:
        print("traffic to fit on, through the gateway", flush=True)
        for name in FIT_WORKLOADS:
            setting = setting_of(name, first, folder, options)
            await sent(url, setting, options.load, options.seed + 200, options.fit)
    return fit(merged(engines, folder / "second"))


@dataclass(frozen=True)
class Traffic:
    """What came through the gateway, from when to when on the wall's clock."""

    plan: LoadPlan
    streams: list[Stream]
    seed: int
    began_s: float
    ended_s: float
    load_average: float  # of the machine, last minute

    def steps(self, of_engines: list[list[dict[str, float]]]) -> list[list[dict[str, float]]]:
        """Return those steps of each engine that it ended meanwhile."""
        return [[step for step in mine if self.began_s < step["t"] <= self.ended_s] for mine in of_engines]


async def sent(url: str, setting: Setting, load: float, seed: int, duration_s: float) -> Traffic:
    """Send traffic through a gateway, at a share of what the fleet's optimum is with the setting's profile."""
    plan = LoadPlan.of(setting.workload(load * setting.optimum_rps(), seed, duration_s=duration_s))
    began_s = time.time()
    streams = await send(plan, url, letters(plan, url, NAME, MODEL.vocab, told=True))
    return Traffic(plan, streams, seed, began_s, time.time(), os.getloadavg()[0])


async def tried(profile_file: Path, folder: Path, options: argparse.Namespace) -> list[Outcome]:
    """Serve the workload live, with the profile inside engines and gateway, and simulate it; once for each run."""
    engines = engines_with(profile_file, "run", folder, options)
    settings = {name: setting_of(name, profile_file, folder, options) for name in (*FIT_WORKLOADS, WORKLOAD)}
    fits: list[Traffic] = []
    runs: list[Traffic] = []
    async with served(engines, configuration(profile_file, folder, options), folder / "run.toml") as url:
        for k in range(options.runs + 1):
            print(f"fit, part {k + 1} of {options.runs + 1}", flush=True)
            for name in FIT_WORKLOADS:
                part_s = options.fit / (options.runs + 1)
                fits.append(await sent(url, settings[name], options.load, options.seed + 300 + k, part_s))
            if k < options.runs:
                print(f"run {k + 1} of {options.runs}", flush=True)
                runs.append(await sent(url, settings[WORKLOAD], options.load, options.seed + k, options.duration))
    to_fit = folder / "third" / "fit.jsonl"
    to_fit.parent.mkdir(exist_ok=True)
    written = [read_steps(each) for each in engines]
    steps = (step for each in fits for mine in each.steps(written) for step in mine)
    to_fit.write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    third = setting_of(WORKLOAD, fit(to_fit), folder, options)
    others = {"the profile fitted before, on engines started before": settings[WORKLOAD].named.profile}
    if options.outside:
        file = await asyncio.to_thread(measured, folder, options)
        others["the profile measured from outside, on an engine started after"] = load_profile(file).profile
    return [beside_forecasts(run, run.steps(written), third, others) for run in runs]


def engines_with(profile_file: Path, name: str, folder: Path, options: argparse.Namespace) -> list[VllmEngine]:
    """Start engines that size their chunks by a profile."""
    return [engine(f"{name}-{k}", folder, cpu, profile=str(profile_file)) for k, cpu in enumerate(options.cpus)]


def merged(engines: list[VllmEngine], folder: Path) -> Path:
    """Return what engines wrote down of their steps, all of them in one file."""
    folder.mkdir(exist_ok=True)
    file = folder / "fit.jsonl"
    file.write_bytes(b"".join(each.log.with_suffix(".jsonl").read_bytes() for each in engines))
    return file


def configuration(profile_file: Path, folder: Path, options: argparse.Namespace) -> str:
    """Return the gateway's configuration, without endpoints."""
    setting = setting_of(WORKLOAD, profile_file, folder, options)
    return f"""
[server]
port = 0
metrics_port = 0

[tiers]
tpots_ms = {list(setting.tpots_ms)}

[[models]]
name = "{NAME}"
profile = "{profile_file}"
dynamic_chunking = true
chunk_limit_tokens = {TOKEN_LIMIT}
max_residents = {MOST_RESIDENTS}
"""


def read_steps(each: VllmEngine) -> list[dict[str, float]]:
    """Return the steps that an engine has written down."""
    return [json.loads(line) for line in each.log.with_suffix(".jsonl").read_text().splitlines()]


def beside_forecasts(
    run: Traffic, of_engines: list[list[dict[str, float]]], setting: Setting, others: dict[str, Profile]
) -> Outcome:
    """Hold a run against what was foreseen of it; the steps are each engine's."""
    plan, streams = run.plan, run.streams
    steps = [step for mine in of_engines for step in mine]
    simulated_first_s, attained = simulated(plan.workload, setting, run.seed)
    first_s = np.array([stream.token_s[0] - stream.began_s if stream.token_s else np.nan for stream in streams])
    foreseen_s = np.array([float(s.headers.get(b"x-polyslo-predicted-ttft-ms", b"nan")) / 1e3 for s in streams])
    outputs = plan.workload.output_tokens
    attains = [s.attains(plan.ttft_s[r], plan.tpot_s[r], int(outputs[r])) for r, s in enumerate(streams)]
    scored = plan.is_scored
    errors = (simulated_first_s / first_s - 1.0)[scored]
    promised = (foreseen_s / first_s - 1.0)[scored]
    return Outcome(
        step_errors=errors_of(steps, setting.named.profile),
        other_errors={name: errors_of(steps, profile)["all"] for name, profile in others.items()},
        floor_errors=errors_of(steps, refitted(steps, setting.named.profile))["all"],
        spread=spread_of_alike(steps),
        followed_errors=np.concatenate([followed_errors(mine, setting.named.profile) for mine in of_engines]),
        first_errors=errors[np.isfinite(errors)],
        promised_errors=promised[np.isfinite(promised)],
        simulated_first_s=simulated_first_s[scored],
        first_s=first_s[scored],
        simulated_attained=attained[scored],
        attained=np.array(attains)[scored],
        num_failed=sum(stream.failure is not None for stream in streams),
        load_average=run.load_average,
    )


def simulated(workload: Workload, setting: Setting, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each request's time to its first token, NaN without one, and whether it attained, in the simulator."""
    world = build_world(workload, setting.named.profile, PolicySpec.parse("polyserve"), setting.config, seed=seed)
    run_world(world)
    first_s = world.jobs["first_token_s"] - workload.arrival_s
    return np.where(first_s > 0, first_s, np.nan), world.jobs["outcome"] == ATTAINED


def errors_of(steps: list[dict[str, float]], profile: Profile) -> dict[str, np.ndarray]:
    """Return the errors of the profile's step times, of all steps and by what they carried."""
    errors = np.array([step_time_s(step, profile) / step["step_s"] for step in steps])
    has_chunk = np.array([step["chunk"] > 0 for step in steps])
    chosen = (has_chunk | True, ~has_chunk, has_chunk)
    return {part: errors[mine] - 1.0 for part, mine in zip(PARTS, chosen, strict=True)}


def step_time_s(step: dict[str, float], profile: Profile) -> float:
    """Return what a profile says of a step."""
    return profile.iteration_s(int(step["decodes"]), int(step["chunk"]), step["kv"], step["context"])


def followed_errors(steps: list[dict[str, float]], profile: Profile) -> np.ndarray:
    """Return the errors of an engine's steps when the profile is corrected by the ratio that the steps before had.

    It is the ratio that the gateway learns; it follows it in steps, and believes no engine to be faster than told.
    """
    errors, observed_s, nominal_s = [], 0.0, 0.0
    for step in steps:
        expected_s = step_time_s(step, profile)
        ratio = observed_s / nominal_s if nominal_s > 0.0 else 1.0
        errors.append(ratio * expected_s / step["step_s"] - 1.0)
        observed_s, nominal_s = add_iteration(step["step_s"], expected_s, observed_s, nominal_s)
    return np.array(errors)


def spread_of_alike(steps: list[dict[str, float]]) -> np.ndarray:
    """Return how far steps without prompts are off the median of those with as many decodes and about the same KV."""
    alike: dict[tuple[int, int], list[float]] = {}
    for step in steps:
        if step["chunk"] == 0:
            batch = int(step["decodes"]), int(4 * np.log2(1 + step["kv"]))
            alike.setdefault(batch, []).append(step["step_s"])
    often = [np.array(mine) for mine in alike.values() if len(mine) >= ALIKE]
    return np.concatenate([mine / np.median(mine) - 1.0 for mine in often]) if often else np.empty(0)


def refitted(steps: list[dict[str, float]], prior: Profile) -> Profile:
    """Return the profile of the run's own steps: what any profile of this form could at best have foreseen of it."""
    columns = ("decodes", "chunk", "kv", "context", "step_s")
    table = Steps(*(np.array([step[column] for step in steps]) for column in columns))
    content = {"kv_capacity_tokens": MODEL.kv_capacity_tokens, "kv_bytes_per_token": MODEL.kv_bytes_per_token}
    return parse_profile(content | fit_steps(table, prior).content, "refitted", where="the run's steps").profile


def report(outcomes: list[Outcome], setting: Setting, options: argparse.Namespace) -> None:
    """Print a table, a column for each run."""
    rate_rps = options.load * setting.optimum_rps()
    print(
        f"\n{time.strftime('%Y-%m-%d')}: {WORKLOAD}, {rate_rps:.2f} rps ({options.load:.0%} of the fluid optimum), "
        f"{options.duration:g} s, {options.instances} instance(s), real timing\n"
    )
    outcomes = [*outcomes, Outcome.of_all(outcomes)]
    rows = [
        *((f"step time, {part}: median error", [middle(o.step_errors[part]) for o in outcomes]) for part in PARTS),
        *((name, [middle(o.other_errors[name]) for o in outcomes]) for name in outcomes[0].other_errors),
        ("a profile fitted to the run itself", [middle(o.floor_errors) for o in outcomes]),
        ("the same batch, off its own median", [middle(o.spread) for o in outcomes]),
        ("the profile times the ratio that the gateway learns", [middle(o.followed_errors) for o in outcomes]),
        ("simulated TTFT, a request: median error", [middle(o.first_errors) for o in outcomes]),
        ("gateway's promise of it: median error", [middle(o.promised_errors) for o in outcomes]),
        ("TTFT P50, live", [f"{np.nanmedian(o.first_s) * 1e3:.0f} ms" for o in outcomes]),
        ("TTFT P50, simulated", [f"{np.nanmedian(o.simulated_first_s) * 1e3:.0f} ms" for o in outcomes]),
        ("attainment, live", [f"{o.attained.mean():.1%}" for o in outcomes]),
        ("attainment, simulated", [f"{o.simulated_attained.mean():.1%}" for o in outcomes]),
        ("failed", [str(o.num_failed) for o in outcomes]),
        ("load average", [f"{o.load_average:.1f}" for o in outcomes]),
        ("within the bounds", [", ".join(verdict(o)) for o in outcomes]),
    ]  # fmt: skip
    names = [*(f"run {k + 1}" for k in range(options.runs)), "all runs"]
    print(f"| | {' | '.join(names)} |")
    print("|---|" + "---|" * len(outcomes))
    for name, cells in rows:
        print(f"| {name} | {' | '.join(cells)} |")


def middle(errors: np.ndarray) -> str:
    """Return the median of the errors' sizes, and their median, with the number of them."""
    if len(errors) == 0:
        return "-"
    return f"{np.median(np.abs(errors)):.1%} (bias {statistics.median(errors):+.1%}, {len(errors)})"


def verdict(outcome: Outcome) -> list[str]:
    """Tell which bounds were kept."""
    kept = {
        "steps": np.median(np.abs(outcome.step_errors["all"])) <= STEP_BOUND,
        "steps, corrected": np.median(np.abs(outcome.followed_errors)) <= STEP_BOUND,
        "TTFT": np.median(np.abs(outcome.first_errors)) <= FIRST_BOUND,
        "attainment": abs(outcome.simulated_attained.mean() - outcome.attained.mean()) <= ATTAINMENT_BOUND,
    }
    return [f"{name} {'yes' if is_kept else 'no'}" for name, is_kept in kept.items()]


if __name__ == "__main__":
    main()
