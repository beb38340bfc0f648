"""Print how much one `polyslo load` sends and reads before it falls behind itself, and that it then says so.

    python benchmarks/load_ceiling.py [--seconds 10] [--requests 500,1000,...] [--tokens 5000,10000,...]

The server is a process of its own that does next to nothing: in the first part every answer is one token, at once; in
the second each is 250 tokens, one every 20 ms, each in a write of its own. Rates rise until the generator calls
itself the limit in each of three tries: what else the machine does makes it late, too. The best try is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
from collections import deque
from multiprocessing.connection import Connection
from typing import cast

import numpy as np
import uvloop

from polyslo.load.plan import LoadPlan
from polyslo.load.result import LoadResult
from polyslo.load.run import run_load
from polyslo.load.target import Target
from polyslo.workload.workload import Workload

PROMPT_TOKENS, STREAM_TOKENS, PACE_S = 256, 250, 0.02
TTFT_S, TPOT_S = 0.5, 0.05
NUM_TRIES = 3
REQUEST_RATES, TOKEN_RATES = "500,1000,2000,3000,4000,6000,8000,12000", "5000,10000,20000,40000,60000,80000,120000"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_MAX_TOKENS = re.compile(rb'"max_tokens":(\d+)')
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'


def main() -> None:
    """Measure both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of arrivals at each rate")
    parser.add_argument("--requests", default=REQUEST_RATES, help="requests a second, rising")
    parser.add_argument("--tokens", default=TOKEN_RATES, help="tokens a second, rising")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    print("| requests/s | tokens/s | sent late P99, ms | loop late P99, ms | of a core | says that it is the limit |")
    print("|---|---|---|---|---|---|", flush=True)
    try:
        _climb(url, [float(rate) for rate in options.requests.split(",")], 1, options.seconds)
        _climb(url, [float(rate) / STREAM_TOKENS for rate in options.tokens.split(",")], STREAM_TOKENS, options.seconds)
    finally:
        server.terminate()


def _climb(url: str, rates_rps: list[float], output_tokens: int, seconds: float) -> None:
    """Raise the rate until the generator is the limit."""
    for rate_rps in rates_rps:
        result = _best_try(url, LoadPlan.of(_workload(rate_rps, output_tokens, seconds)))
        _print_row(result, rate_rps, output_tokens)
        if result.generator_limited:
            return


def _best_try(url: str, plan: LoadPlan) -> LoadResult:
    tries: list[LoadResult] = []
    while len(tries) < NUM_TRIES and not (tries and not tries[-1].generator_limited):
        tries.append(run_load(plan, Target((url,))))
    return min(tries, key=lambda result: (result.generator_limited, result.generator.send_lag.p99_s))


def _print_row(result: LoadResult, rate_rps: float, output_tokens: int) -> None:
    health = result.generator
    if result.total.num_failed or result.total.num_refused:
        raise SystemExit(f"the server failed requests: {result.error_examples}")
    cells = (
        f"{rate_rps:,.0f}", f"{rate_rps * output_tokens:,.0f}", f"{1e3 * health.send_lag.p99_s:.1f}",
        f"{1e3 * health.loop_lag.p99_s:.1f}", f"{health.cpu_ratio:.0%}", "; ".join(health.limits) or "no",
    )  # fmt: skip
    print(f"| {' | '.join(cells)} |", flush=True)


def _workload(rate_rps: float, output_tokens: int, seconds: float) -> Workload:
    count = max(2, round(rate_rps * seconds))
    gaps_s = np.random.default_rng(0).exponential(1.0 / rate_rps, count)
    return Workload(
        name=f"{output_tokens} tokens each",
        arrival_s=np.cumsum(gaps_s) - gaps_s[0],
        input_tokens=np.full(count, PROMPT_TOKENS, np.int32),
        output_tokens=np.full(count, output_tokens, np.int32),
        ttft_s=np.full(count, TTFT_S),
        tpot_s=np.full(count, TPOT_S),
        tpots_s=(TPOT_S,),
        tier=np.zeros(count, np.int32),
    )


def _serve(pipe: Connection) -> None:
    """Answer until killed; the port goes through `pipe`."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        streams = Streams(loop)
        server = await loop.create_server(lambda: Conversation(streams), "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    uvloop.run(serve())


class Streams:
    """Streams under way, in the order in which their next token is due: all have one pace."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[tuple[float, asyncio.WriteTransport, int]] = deque()

    def begin(self, transport: asyncio.WriteTransport, num_tokens: int) -> None:
        """Send a first token, and all others at their times."""
        transport.write(_HEAD + _TOKEN + (_end(1) if num_tokens == 1 else b""))
        if num_tokens > 1:
            self._add(self._loop.time() + PACE_S, transport, num_tokens)

    def _add(self, due_s: float, transport: asyncio.WriteTransport, num_tokens: int, num_sent: int = 1) -> None:
        self._due.append((due_s, transport, num_tokens - num_sent))
        if len(self._due) == 1:
            self._loop.call_at(due_s, self._send)

    def _send(self) -> None:
        now_s = self._loop.time()
        while self._due and self._due[0][0] <= now_s:
            due_s, transport, num_left = self._due.popleft()
            transport.write(_TOKEN if num_left > 1 else _TOKEN + _end(STREAM_TOKENS))
            if num_left > 1 and not transport.is_closing():
                self._due.append((due_s + PACE_S, transport, num_left - 1))
        if self._due:
            self._loop.call_at(self._due[0][0], self._send)


class Conversation(asyncio.Protocol):
    """One connection of the generator, which sends one request after the other."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer when a request is whole."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        wanted = _MAX_TOKENS.search(body)
        if wanted is None:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(_MODELS), _MODELS))
        else:
            self._streams.begin(self._transport, int(wanted[1]))


def _event(choices: bytes, usage: bytes = b"null") -> bytes:
    facts = b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":%b,"usage":%b}\n\n'
    data = facts % (choices, usage)
    return b"%x\r\n%b\r\n" % (len(data), data)


def _end(num_tokens: int) -> bytes:
    """Return the usage of an answer, and its end."""
    total = PROMPT_TOKENS + num_tokens
    usage = b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (PROMPT_TOKENS, total, num_tokens)
    return _event(b"[]", usage) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


_TOKEN = _event(b'[{"index":0,"text":" a","logprobs":null,"finish_reason":null,"stop_reason":null}]')


if __name__ == "__main__":
    main()
