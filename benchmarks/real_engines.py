"""Real vLLM engines behind the gateway: polyserve with the plug-in, against minimal with stock vLLM, on one trace.

    python benchmarks/real_engines.py [--duration 60] [--load 0.8] [--instances 4] [--speed 0.1] [--setups ...]

Needs `make engines`. Engines compute real tokens; their steps are paced to a shipped profile, slowed so that all of
them, the gateway and the load fit on two cores (--speed; times are printed in the profile's own). `--no-pace
--profile FILE --speed 1 --model small` measures engines at their real speed, each on a CPU of its own, with a profile
of theirs (`fitted_profile.py --keep`): two fit on two cores.

    polyserve     policy polyserve, engines with the plug-in: chunks by TPOT, prompts by deadline
    minimal       policy minimal, stock vLLM
    fixed         the ablation: policy polyserve, stock vLLM with a constant chunk that the tightest TPOT has room for

Every streamed token is compared with what the same prompt gives alone, on an engine of its own (--compare N).
Reads the engines' own counters at the end: preemptions, and how far steps fell behind their pace.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from answered_streams import Stream, letters, post, send
from served_engines import MODELS, VllmEngine, end_in_order, environment, part_cpus, served, why_not

from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.fleets import live_profile
from polyslo.gateway.live_policy import why_fallback
from polyslo.gateway.warmup import warm_up
from polyslo.load.plan import LoadPlan
from polyslo.sim.setting import Setting
from polyslo.wire.client import Origin

TOKEN_LIMIT, MOST_RESIDENTS, MAX_MODEL_LEN = 2048, 64, 16_384
SETUPS = ("polyserve", "minimal", "fixed")


@dataclass(frozen=True)
class Setup:
    """What is measured: a policy, and whether the engines hear of SLOs."""

    name: str
    policy: str
    is_dynamic: bool
    chunk: int


def main() -> None:
    """Measure every setup on the same requests."""
    options = parse()
    reason = why_not(options.model)
    if reason is not None:
        sys.exit(f"real engines: {reason}")
    end_in_order()
    options.cpus = [None] * options.instances if options.paces else part_cpus(options.instances)
    warm_up()
    setting = Setting.of(
        workload=options.workload, profile=options.profile, slo=options.slo, instances=options.instances
    )
    rate_rps = options.load * options.instances / setting.fluid_need(1.0)
    workload = setting.workload(rate_rps, options.seed, duration_s=options.duration * options.speed)
    plan = LoadPlan.of(workload, speed=options.speed)
    print(
        f"{len(plan)} requests of {options.workload} in {options.duration:g} s on {options.instances} instances, "
        f"{rate_rps:.1f} rps of {setting.named.name} ({options.load:.0%} of the fluid optimum) at speed {options.speed}"
    )
    with tempfile.TemporaryDirectory() as folder:
        alone = asyncio.run(serve_alone(plan, Path(folder), options))
        for name in options.setups.split(","):
            report(name, plan, asyncio.run(measure(name, plan, Path(folder), options)), alone)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=60.0, help="wall seconds of arrivals")
    parser.add_argument("--load", type=float, default=0.8, help="of the fluid optimum")
    parser.add_argument("--instances", type=int, default=4)
    parser.add_argument("--speed", type=float, default=0.1, help="times the profile's")
    parser.add_argument("--model", choices=MODELS, default="nano")
    parser.add_argument("--profile", default="llama-3.1-8b-h200-tp1")
    parser.add_argument("--no-pace", dest="paces", action="store_false", help="steps last as long as they take")
    parser.add_argument("--workload", default="azure2023-conv")
    parser.add_argument("--slo", default="tiers-3")
    parser.add_argument("--chunk", type=int, default=512, help="constant chunk of stock vLLM, tokens")
    parser.add_argument("--setups", default=",".join(SETUPS))
    parser.add_argument("--compare", type=int, default=10**9, help="how many streams are served alone, too")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def serve_alone(plan: LoadPlan, folder: Path, options: argparse.Namespace) -> dict[int, list[int]]:
    """Return the tokens of each request served alone, by a stock engine at its own speed."""
    chosen = np.random.default_rng(options.seed).permutation(len(plan))[: options.compare]
    if not len(chosen):
        return {}
    engine = VllmEngine(
        environment(), folder / "alone.log", name=options.model, model=options.model, max_model_len=MAX_MODEL_LEN,
        kv_bytes=MODELS[options.model].kv_bytes,
    )  # fmt: skip
    try:
        await asyncio.to_thread(engine.wait)
        origin, write = (
            Origin(engine.url),
            letters(plan, engine.url, options.model, MODELS[options.model].vocab, told=False),
        )
        alone = {}
        for r in (int(r) for r in chosen):
            stream = post(origin, *write(r))
            await stream.finished.wait()
            assert stream.failure is None, stream.failure
            alone[r] = stream.token_ids
        await origin.close()
        return alone
    finally:
        await asyncio.to_thread(engine.stop)


def setup_of(name: str, options: argparse.Namespace) -> Setup:
    """Return a setup; ends the program where the gateway would fall back to another policy."""
    setup = {
        "polyserve": Setup(name, "polyserve", True, TOKEN_LIMIT),
        "minimal": Setup(name, "minimal", False, options.chunk),
        "fixed": Setup(name, "polyserve", False, options.chunk),
    }[name]
    told = tomllib.loads(f'{configuration(setup, options)}\nendpoints = [{{ url = "http://127.0.0.1:1" }}]')
    config = parse_config(told, name)
    (model,) = config.models
    reason = why_fallback(model, live_profile(model), config.tiers_s)
    return setup if reason is None else sys.exit(f"{name}: {reason}")


async def measure(name: str, plan: LoadPlan, folder: Path, options: argparse.Namespace) -> list[Stream]:
    """Start engines and gateway for a setup, and send the plan through."""
    setup = setup_of(name, options)
    settings = {"profile": options.profile, "speed": options.speed, "steps_file": str(folder / "steps.jsonl")}
    settings |= {"pace": 1.0} if options.paces else {}
    engines = [
        VllmEngine(
            environment(), folder / f"{name}-{k}.log", name=options.model, model=options.model, polyslo=settings,
            token_limit=setup.chunk, max_num_seqs=MOST_RESIDENTS, max_model_len=MAX_MODEL_LEN,
            kv_bytes=MODELS[options.model].kv_bytes, cpu=cpu,
        )
        for k, cpu in enumerate(options.cpus)
    ]  # fmt: skip
    async with served(engines, configuration(setup, options), folder / f"{name}.toml") as url:
        streams = await send(plan, url, letters(plan, url, options.model, MODELS[options.model].vocab, told=True))
        preemptions = sum(engine.metric("vllm:num_preemptions_total") for engine in engines)
        print(f"\n{name}: policy {setup.policy}, {'chunks by TPOT' if setup.is_dynamic else f'chunk {setup.chunk}'}, "
              f"{preemptions:.0f} preemptions")  # fmt: skip
        return streams


def configuration(setup: Setup, options: argparse.Namespace) -> str:
    """Return the gateway's configuration, without endpoints."""
    tpots_ms = [tpot / options.speed for tpot in Setting.of(slo=options.slo).tpots_ms]
    return f"""
[server]
port = 0
metrics_port = 0

[tiers]
tpots_ms = {tpots_ms}

[[models]]
name = "{options.model}"
profile = "{options.profile}"
speed = {options.speed}
policy = "{setup.policy}"
dynamic_chunking = {str(setup.is_dynamic).lower()}
chunk_limit_tokens = {setup.chunk}
max_residents = {MOST_RESIDENTS}
slack_ms = {0.01 / options.speed * 1e3:g}
"""


def report(name: str, plan: LoadPlan, streams: list[Stream], alone: dict[int, list[int]]) -> None:
    """Print attainment by tier, times in the profile's own, and how many streams differ from themselves alone."""
    attains = np.array(
        [
            stream.attains(plan.ttft_s[r], plan.tpot_s[r], int(plan.workload.output_tokens[r]))
            for r, stream in enumerate(streams)
        ]
    )
    scored = plan.is_scored
    for tpot_s in sorted(set(plan.tpot_s.tolist())):
        tier = scored & (plan.tpot_s == tpot_s)
        print(f"  TPOT {tpot_s * plan.speed * 1e3:5.0f} ms  {attains[tier].mean():7.2%} of {tier.sum()}")
    print(f"  all            {attains[scored].mean():7.2%} of {scored.sum()}")
    ttfts_s = [s.token_s[0] - s.began_s for s, used in zip(streams, scored, strict=True) if used and s.token_s]
    p50_s, p99_s = np.quantile(ttfts_s, (0.5, 0.99)) * plan.speed
    print(f"  TTFT P50 {p50_s * 1e3:.0f} ms, P99 {p99_s * 1e3:.0f} ms")
    failures = [stream.failure for stream in streams if stream.failure is not None]
    print(f"  {len(failures)} failed{': ' + failures[0] if failures else ''}")
    whole = [r for r in alone if streams[r].failure is None]
    differing = sum(streams[r].token_ids != alone[r] for r in whole)
    print(f"  {differing} of {len(whole)} streams differ from the same prompt alone", flush=True)


if __name__ == "__main__":
    main()
