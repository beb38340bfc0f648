"""CPU a token where Envoy carries and polyslo decides, beside either of them carrying alone.

    python benchmarks/envoy_cost.py [--streams 25] [--tokens 1000] [--rounds 3]

Two emulated engines, streams that all run at once, one Envoy with one worker (`make peers`), set up by
examples/envoy.yaml; without polyslo it spreads over the same engines by itself. The median of the rounds, which take
turns; of clients and engines nothing is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import orjson
import uvloop

from polyslo.fleets.ports import free_ports
from polyslo.profiles.library import DEFAULT_PROFILE
from polyslo.wire.client import Origin
from polyslo.wire.fetch import FetchError, fetch

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "clients"), str(ROOT / "benchmarks" / "gateways")]

from environments import PEERS  # noqa: E402
from processes import cpu_s  # noqa: E402

ENVOY = next(environment for environment in PEERS if environment.name == "envoy")
EXAMPLE = (ROOT / "examples" / "envoy.yaml").read_text(encoding="utf-8")
MODEL = "emulated"
START_S = 300.0  # the first start compiles


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=25)
    parser.add_argument("--tokens", type=int, default=1000, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not ENVOY.is_ready:
        sys.exit(ENVOY.missing)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uvloop.run(_measure(stack, folder, options.streams, options.tokens, options.rounds))


async def _measure(stack: ExitStack, folder: Path, streams: int, tokens: int, rounds: int) -> None:
    first = free_ports(7)  # the engines have the first one and the one above it
    engines, (own, metrics, asked, *envoys) = [first[0], first[0] + 1], first[1:]
    urls = [f"http://127.0.0.1:{port}" for port in engines]
    polyslo = (sys.executable, "-m", "polyslo")
    _start(stack, folder, *polyslo, "emulate", "--port", str(engines[0]), "--instances", "2", "--model", MODEL)
    decider = _start(
        stack, folder, *polyslo, "serve", "--worker-urls", *urls, "--profile", DEFAULT_PROFILE, "--port", str(own),
        "--prometheus-port", str(metrics), "--ext-proc-port", str(asked), "--log-level", "warning",
    )  # fmt: skip
    asking = EXAMPLE.replace("port_value: 9002", f"port_value: {asked}")
    texts = (
        _alone(asking, engines),
        asking,
        asking.replace("response_body_mode: STREAMED", "response_body_mode: FULL_DUPLEX_STREAMED"),
    )
    names = ("Envoy alone", "Envoy, STREAMED back", "Envoy, FULL_DUPLEX_STREAMED back")
    ways = [("polyslo alone", own, None)]
    for name, text, port in zip(names, texts, envoys, strict=True):
        file = folder / f"{port}.yaml"
        file.write_text(text.replace("port_value: 10000", f"port_value: {port}"))
        flags = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
        ways.append((name, port, _start(stack, folder, ENVOY.program("envoy"), "-c", str(file), *flags)))
    for port in (*engines, own, *envoys):
        await _answers(port)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        for name, port, envoy in ways:
            found.setdefault(name, []).append(await _round(port, decider, envoy, streams, tokens))
    print(f"{'who carries':<36}{'tokens/s':>10}{'polyslo, us':>14}{'Envoy, us':>12}")
    for name, results in found.items():
        rate, polyslo_us, envoy_us = (median(values) for values in zip(*results, strict=True))
        print(f"{name:<36}{rate:>10.0f}{polyslo_us:>14.0f}{envoy_us:>12.0f}")


async def _round(port: int, decider: int, envoy: int | None, streams: int, tokens: int) -> tuple[float, float, float]:
    """Return tokens a second, and CPU of polyslo and Envoy a token in microseconds."""
    body = {"model": MODEL, "prompt": "hi", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    origin = Origin(f"http://127.0.0.1:{port}")
    pids = [decider, *([] if envoy is None else [envoy])]
    before, began_s = [cpu_s(pid) for pid in pids], time.perf_counter()
    asked = (
        fetch(origin, b"POST", b"/v1/completions", (), orjson.dumps(body), timeout_s=600.0) for _ in range(streams)
    )
    for reply in await asyncio.gather(*asked):
        if reply.status != 200 or reply.body.count(b'"text":') != tokens:
            sys.exit(f"port {port}: status {reply.status}, {reply.body[:300]!r}")
    took_s = time.perf_counter() - began_s
    each_us = [1e6 * (cpu_s(pid) - was) / (streams * tokens) for pid, was in zip(pids, before, strict=True)]
    await origin.close()
    return streams * tokens / took_s, each_us[0], each_us[1] if envoy is not None else 0.0


def _alone(text: str, engines: list[int]) -> str:
    """Return the example without polyslo: Envoy spreads by itself."""
    head, _, rest = text.partition("          - name: polyslo\n")
    _, _, rest = rest.partition("          - name: router\n")
    middle, _, _ = rest.partition("  - name: engines")
    places = ", ".join(
        f"{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}" for port in engines
    )
    return f"""{head}          - name: router
{middle}  - name: engines
    type: STATIC
    load_assignment: {{cluster_name: engines, endpoints: [{{lb_endpoints: [{places}]}}]}}
"""


def _start(stack: ExitStack, folder: Path, *command: str) -> int:
    """Start a process that ends with the measurement; return its id."""
    log = stack.enter_context((folder / "log").open("ab"))
    process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))
    stack.callback(process.terminate)
    return process.pid


async def _answers(port: int) -> None:
    """Wait until what listens there is ready."""
    until_s = time.perf_counter() + START_S
    origin = Origin(f"http://127.0.0.1:{port}")
    while time.perf_counter() < until_s:
        try:
            if (await fetch(origin, b"GET", b"/health", timeout_s=2.0)).status == 200:
                return await origin.close()
        except FetchError:
            pass
        await asyncio.sleep(0.2)
    return sys.exit(f"nobody answered at port {port} in {START_S:g} s")


if __name__ == "__main__":
    main()
