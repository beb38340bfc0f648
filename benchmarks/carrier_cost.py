"""Print what carriers cost: CPU for each token of paced streams, in carriers and in the process that decides.

    python benchmarks/carrier_cost.py [--carriers 0,1,2,4] [--streams 200] [--seconds 6]

The whole gateway stands before an upstream that sends each stream a token every 20 ms; upstream and clients are
children, on the same machine. 0 carriers are the gateway as one process. What is printed is CPU time (user and
system) over the tokens that passed, not throughput: that needs as many cores as there are processes. Then what the
hop adds to a decision: requests one after the other, each answered by its engine with one token, as the client sees
them. Two hops are in it, the request's to the decider and the decision's back. On a busy machine the median is mostly
waiting for a core; the tenth percentile is nearer to what the hops take.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import orjson
import uvloop

from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.processes.carriers import Carriers
from polyslo.gateway.warmup import warm_up
from polyslo.wire.client import Call, Failure, Origin
from polyslo.wire.server import Exchange, listen

MODEL, PACE_S, SETTLE_S = "paced", 0.02, 1.5
TOKEN = b'data: {"id":"x","object":"text_completion","choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n'
NUM_PROBES, NUM_UNCOUNTED = 600, 50
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure every number of carriers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carriers", default="0,1,2,4")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    warm_up()
    print("| carriers | tokens/s | CPU a token, us: carriers | decider | request p10, us | p50 |")
    print("|---|---|---|---|---|---|")
    for count in map(int, options.carriers.split(",")):
        row = uvloop.run(measure(count, options.streams, options.seconds))
        print(f"| {count} | {row.tokens / row.span_s:,.0f} | {1e6 * row.carriers_s / row.tokens:.1f} "
              f"| {1e6 * row.decider_s / row.tokens:.1f} | {1e6 * row.probes_s[len(row.probes_s) // 10]:.0f} "
              f"| {1e6 * row.probes_s[len(row.probes_s) // 2]:.0f} |", flush=True)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured with a number of carriers."""

    tokens: int
    span_s: float
    carriers_s: float  # CPU of all of them
    decider_s: float
    probes_s: list[float]  # ascending


class ForcedCarriers(Gateway):
    """A gateway with carriers even where there is only one."""

    def _carriers(self) -> list[Carriers]:
        return [Carriers(self.config, self.models, self.places, self.tally)]


async def measure(num_carriers: int, num_streams: int, seconds: float) -> Row:
    """Measure paced streams, then single requests."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    upstream = context.Process(target=run_upstream, args=(theirs,), daemon=True)
    upstream.start()
    url = f"http://127.0.0.1:{await asyncio.to_thread(ours.recv)}"
    gateway = (ForcedCarriers if num_carriers else Gateway)(config(url, max(1, num_carriers)))
    await gateway.start()
    origin = Origin(f"http://127.0.0.1:{gateway.listener.port}")
    probes_s = [await probe(origin) for _ in range(NUM_UNCOUNTED + NUM_PROBES)][NUM_UNCOUNTED:]
    clients = context.Process(target=run_clients, args=(gateway.listener.port, num_streams), daemon=True)
    clients.start()
    model = gateway.models[MODEL]
    while sum(relay is not None and relay.passage.tokens > 0 for relay in model.relays) < num_streams:
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLE_S)
    pids = list(gateway.listener.pids.values()) if isinstance(gateway.listener, Carriers) else []
    began = (tokens_of(model), time.monotonic(), sum(map(cpu_s, pids)), time.process_time())
    await asyncio.sleep(seconds)
    ended = (tokens_of(model), time.monotonic(), sum(map(cpu_s, pids)), time.process_time())
    for child in (clients, upstream):
        child.terminate()
        await asyncio.to_thread(child.join)
    await origin.close()
    await gateway.stop()
    tokens, span_s, carriers_s, decider_s = (after - before for before, after in zip(began, ended, strict=True))
    return Row(tokens, span_s, carriers_s, decider_s, sorted(probes_s))


def config(url: str, processes: int):
    """Return a gateway's configuration: nothing is ever late."""
    table = {
        "server": {"port": 0, "metrics_port": 0, "processes": processes, "shutdown_grace_s": 0.0},
        "classes": {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 100}},
        "models": [{"name": MODEL, "chunk_limit_tokens": 2048, "endpoints": [{"url": url}]}],
    }
    return parse_config(table, "benchmark")


def tokens_of(model) -> int:
    """Return the tokens that streams under way have shown."""
    return sum(relay.passage.tokens for relay in model.relays if relay is not None)


def cpu_s(pid: int) -> float:
    """Return a process's CPU time, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def probe(origin: Origin) -> float:
    """Return how long one request takes."""
    answered = Answered()
    began_s = time.perf_counter()
    answered.call = origin.send(
        b"POST", b"/v1/completions", [], body(stream=False), answered, head_timeout_s=30.0, idle_timeout_s=30.0
    )
    await answered.over.wait()
    return time.perf_counter() - began_s


class Answered:
    """The sink of a probe."""

    call: Call

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """See that it is well."""
        assert status == 200, status

    def on_data(self, data: bytes) -> None:
        """Nothing is asked of the body."""

    def on_end(self) -> None:
        """Note it."""
        self.over.set()

    def on_failure(self, failure: Failure) -> None:
        """A benchmark has no use for failures."""
        raise RuntimeError(str(failure))


def body(*, stream: bool) -> bytes:
    """Return a request's body."""
    return orjson.dumps({"model": MODEL, "prompt": "a few words", "max_tokens": 100_000, "stream": stream})


def run_upstream(pipe: Connection) -> None:
    """Be an engine: endless paced streams, and whole answers at once; send the port through `pipe`."""

    async def serve() -> None:
        listener = await listen(answer, "127.0.0.1", 0)
        pipe.send(listener.port)
        await asyncio.Event().wait()

    uvloop.run(serve())


def answer(exchange: Exchange) -> None:
    """Answer as an engine does."""
    if exchange.method == b"GET":
        exchange.respond(200, [], b"")
    elif not orjson.loads(exchange.body)["stream"]:
        whole = {"choices": [{"text": "word"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
        exchange.respond(200, [(b"content-type", b"application/json")], orjson.dumps(whole))
    else:
        exchange.start(200, [(b"content-type", b"text/event-stream")])
        beat(exchange, asyncio.get_running_loop().time() + PACE_S)


def beat(exchange: Exchange, due_s: float) -> None:
    """Send a token, and the next one a pace later."""
    if not exchange.is_over:
        exchange.write(TOKEN)
        asyncio.get_running_loop().call_at(due_s, beat, exchange, due_s + PACE_S)


def run_clients(port: int, num_streams: int) -> None:
    """Open the streams, spread over one pace, and read them for ever."""

    class Drain(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raw = body(stream=True)
            head = b"POST /v1/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: %d\r\n\r\n" % len(raw)
            transport.write(head + raw)

    async def read() -> None:
        for _ in range(num_streams):
            await asyncio.get_running_loop().create_connection(Drain, "127.0.0.1", port)
            await asyncio.sleep(PACE_S / num_streams)
        await asyncio.Event().wait()

    uvloop.run(read())


if __name__ == "__main__":
    main()
