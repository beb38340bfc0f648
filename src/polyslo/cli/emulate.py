"""`polyslo emulate`: engines behind vLLM's API, in real time, without a GPU."""

from __future__ import annotations

from typing import Any

import click

from polyslo.cli.options import Finite
from polyslo.engines.emulated_api import BOTH, ROLES
from polyslo.engines.emulated_engine import EngineSettings
from polyslo.engines.emulation import Emulation
from polyslo.engines.kv_transfers import KEEP_S
from polyslo.engines.output_lengths import DEFAULT, FORMS, OutputLengths
from polyslo.profiles.library import DEFAULT_PROFILE, load_profile


@click.command("emulate")
@click.option("--profile", metavar="NAME|FILE|roofline:MODEL:GPU", default=DEFAULT_PROFILE, show_default=True)
@click.option(
    "--host-ms",
    metavar="MS",
    type=Finite(0, 1000),
    default=0.0,
    show_default=True,
    help="The engine's own time per step, which shipped profiles leave out.",
)
@click.option("--model", metavar="NAME", help="The model's name in requests. [the profile's model]")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Of the first instance; the others follow. 0: any free ones.",
)
@click.option("--instances", "num_instances", metavar="N", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option(
    "--speed",
    metavar="X",
    type=Finite(1e-3, 1e3),
    default=1.0,
    show_default=True,
    help="Times the profile's speed: 0.1 is ten times slower.",
)
@click.option(
    "--noise",
    "noise_ratio",
    metavar="RATIO",
    type=Finite(0, 10),
    default=0.0,
    show_default=True,
    help="Log-normal factor of mean 1 on every iteration; this is its sigma.",
)
@click.option("--kv-capacity-tokens", metavar="TOKENS", type=click.IntRange(16), help="[the profile's]")
@click.option("--max-model-len", metavar="TOKENS", type=click.IntRange(2), help="Prompt and output. [KV capacity]")
@click.option("--max-num-seqs", metavar="N", type=click.IntRange(1, 8192), default=1024, show_default=True)
@click.option(
    "--max-num-batched-tokens",
    metavar="TOKENS",
    type=click.IntRange(16, 32_768),
    default=8192,
    show_default=True,
    help="Tokens of an iteration: the constant chunk, or the bound of a dynamic one.",
)
@click.option(
    "--max-requests",
    metavar="N",
    type=click.IntRange(1, 65_536),
    default=4096,
    show_default=True,
    help="Running and waiting; more are answered 503.",
)
@click.option(
    "--dynamic-chunking",
    is_flag=True,
    help="Keep iterations within the tightest TPOT inside, prompts by deadline (vllm_xargs polyslo_*).",
)
@click.option(
    "--output-lengths",
    metavar="|".join(FORMS),
    default=DEFAULT,
    show_default=True,
    help="Output lengths where a request leaves them open.",
)
@click.option("--chars-per-token", metavar="N", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=BOTH,
    show_default=True,
    help="Which side of prefill apart from decode (kv_transfer_params) it does; both: either, and whole requests.",
)
@click.option(
    "--transfer-ms",
    metavar="MS",
    type=Finite(0, 60_000),
    default=1.0,
    show_default=True,
    help="KV transfer to it: what each takes beside its bytes.",
)
@click.option("--transfer-gb-per-s", metavar="GB", type=Finite(1e-6, 1e6), default=50.0, show_default=True)
@click.option(
    "--keep-kv-s",
    metavar="S",
    type=Finite(1e-3, 86_400),
    default=KEEP_S,
    show_default=True,
    help="How long it keeps KV that nobody fetches.",
)
@click.option(
    "--stream-interval",
    metavar="TOKENS",
    type=click.IntRange(1, 65_536),
    default=1,
    show_default=True,
    help="Tokens to a chunk of a stream, but for its first and its last: vLLM's option of that name.",
)
@click.option("--allow-faults", "allows_faults", is_flag=True, help="Take faults by POST /faults: for tests.")
def emulate_command(
    profile: str,
    host_ms: float,
    model: str | None,
    output_lengths: str,
    seed: int,
    transfer_ms: float,
    **options: Any,
) -> None:
    """Serve a profile as an OpenAI-compatible engine, token by token in its own time.

    Behaves as vLLM does, from the simulator's engine model: batching, chunked prefill, KV memory, preemption. The
    text is made up. `vllm_xargs` may set `emulate_output_tokens`, and with --dynamic-chunking `polyslo_tpot_ms`,
    `polyslo_first_due_ms` (from the request's arrival) and `polyslo_pace_ms` (the engine's, for all that it holds).
    `polyslo_emulated_lag_seconds` in /metrics says how late iterations ended.
    """
    named = load_profile(profile, host_s=host_ms / 1e3)
    names = ("kv_capacity_tokens", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "max_requests",
             "dynamic_chunking", "noise_ratio", "transfer_gb_per_s")  # fmt: skip
    settings = EngineSettings(**{name: options.pop(name) for name in names}, transfer_s=transfer_ms / 1e3, seed=seed)
    lengths = OutputLengths.parse(output_lengths, seed)
    served = model or str(named.facts.get("model", named.name))
    Emulation(named, settings, lengths, served, **options).run(lambda line: click.echo(line, err=True))
