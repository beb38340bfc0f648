"""Hold many streams at once through a gateway, a token a second each, and see whether it bears them."""

from __future__ import annotations

import contextlib
import time

from gateway import running
from load import Clients, clients, source
from peers import Peer
from source import body_for

ENGINES_A_SOURCE = 4
STREAMS_A_SINK = 5_000  # each is a file, and clients are cheap
OPEN_PER_S = 400.0
PACE_S = 1.0


def hold(peer: Peer, num_streams: int, seconds: float, processes: int) -> None:
    """Open the streams, hold them for a time, and print tokens due and come, CPU and memory."""
    sizes = [min(STREAMS_A_SINK, num_streams - k) for k in range(0, num_streams, STREAMS_A_SINK)]
    with contextlib.ExitStack() as stack:
        ports = [port for _ in sizes for port in stack.enter_context(source(ENGINES_A_SOURCE))]
        sinks = [stack.enter_context(clients()) for _ in sizes]
        gateway = stack.enter_context(running(peer, ports, processes))
        empty_bytes = gateway.memory_bytes
        for sink, size in zip(sinks, sizes, strict=True):
            sink.open(gateway.port, body_for(f"paced:{PACE_S}"), size, size / OPEN_PER_S, 0.5 * PACE_S)
        time.sleep(2.0)
        full_bytes, cpu_s, began_s, before = gateway.memory_bytes, gateway.cpu_s, time.monotonic(), _events(sinks)
        time.sleep(seconds / 2)
        half_bytes = gateway.memory_bytes
        time.sleep(seconds / 2)
        num_events, span_s = _events(sinks) - before, time.monotonic() - began_s
        cpu_s, grown_bytes = gateway.cpu_s - cpu_s, (half_bytes - full_bytes, gateway.memory_bytes - half_bytes)
    cpu_us, kib = 1e6 * cpu_s / max(1, num_events), (full_bytes - empty_bytes) / num_streams / 1024
    print(
        f"{peer.name}: {num_streams:,} streams, {num_events / span_s:,.0f} tokens/s of {num_streams / PACE_S:,.0f} "
        f"due, {cpu_us:.1f} us of CPU a token, {kib:.1f} KiB a stream on {empty_bytes / 2**20:.0f} MiB, "
        f"{grown_bytes[0] / 2**20:+.1f} and {grown_bytes[1] / 2**20:+.1f} MiB in two halves of {span_s:.0f} s",
        flush=True,
    )


def _events(sinks: list[Clients]) -> int:
    seen = [sink.count() for sink in sinks]
    lost = sum(one.lost for one in seen)
    if lost:
        raise RuntimeError(f"{lost} streams were closed by the gateway")
    return sum(one.events for one in seen)
