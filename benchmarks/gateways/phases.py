"""What is measured of a gateway, each on its own: latency, requests, paced streams, floods, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway import Gateway, ask, connect
from load import Clients
from sink import request_bytes
from source import BRIEF, FLOOD, WHOLE, body_for

WARM_UP = 50  # requests that are not counted
SETTLE_S = 1.0
MOST_S = 15.0  # for requests one after the other


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each."""

    pairs: int = 1000  # of requests, direct and through the gateway
    askers: int = 32
    paced_streams: int = 300
    pace_s: float = 0.02
    flood_streams: int = 16
    resting_streams: int = 1000  # with a token a second
    seconds: float = 5.0


def added_latency_s(gateway: Gateway, port: int, sizes: Sizes) -> tuple[float, float, float]:
    """Return (P50, P99) of a whole answer and P50 of a stream's first byte, less those of the engine itself.

    One client asks both in turn over connections that stay open, so that what else the machine does meets both.
    """
    whole = _pairs(gateway.port, port, request_bytes(body_for(WHOLE)), sizes.pairs)
    brief = _pairs(gateway.port, port, request_bytes(body_for(BRIEF)), sizes.pairs // 4, first=True)
    p50, p99 = (_quantile(whole[0], q) - _quantile(whole[1], q) for q in (0.5, 0.99))
    return p50, p99, _quantile(brief[0], 0.5) - _quantile(brief[1], 0.5)


def requests(gateway: Gateway, load: Clients, sizes: Sizes) -> tuple[float, float]:
    """Return whole answers per second from clients that ask without a pause, and CPU seconds of each."""
    load.ask(gateway.port, body_for(WHOLE), sizes.askers)
    time.sleep(SETTLE_S)
    rate, cpu_s, _ = _over(gateway, load, sizes.seconds, "answers")
    load.close()
    return rate, cpu_s


def paced(gateway: Gateway, load: Clients, sizes: Sizes) -> tuple[float, float]:
    """Return CPU seconds of a token of streams at a steady pace, and the share of the tokens due that came."""
    load.open(gateway.port, body_for(f"paced:{sizes.pace_s}"), sizes.paced_streams, 1.0, sizes.pace_s)
    time.sleep(SETTLE_S)
    rate, cpu_s, _ = _over(gateway, load, sizes.seconds, "events")
    load.close()
    return cpu_s, rate * sizes.pace_s / sizes.paced_streams


def flood(gateway: Gateway, load: Clients, sizes: Sizes) -> tuple[float, float]:
    """Return tokens per second of streams whose engines never wait, and CPU seconds of each."""
    load.open(gateway.port, body_for(FLOOD), sizes.flood_streams, 0.2)
    time.sleep(SETTLE_S)
    rate, cpu_s, _ = _over(gateway, load, sizes.seconds, "events")
    load.close()
    return rate, cpu_s


def memory(gateway: Gateway, load: Clients, sizes: Sizes) -> tuple[float]:
    """Return bytes of the gateway's own memory for each stream that is open."""
    before = gateway.memory_bytes
    load.open(gateway.port, body_for("paced:1.0"), sizes.resting_streams, 2.0, 0.5)
    time.sleep(2 * SETTLE_S)
    grown = gateway.memory_bytes - before
    load.close()
    return (grown / sizes.resting_streams,)


def _over(gateway: Gateway, load: Clients, seconds: float, what: str) -> tuple[float, float, int]:
    """Return (rate per second, CPU seconds of each, connections lost) of what came over a time."""
    before, began_s, cpu_s = load.count(), time.monotonic(), gateway.cpu_s
    time.sleep(seconds)
    after, span_s, spent_s = load.count(), time.monotonic() - began_s, gateway.cpu_s - cpu_s
    number = getattr(after, what) - getattr(before, what)
    if after.lost > before.lost:
        raise RuntimeError(f"{after.lost - before.lost} connections were closed by the gateway")
    return number / span_s, spent_s / max(1, number), after.lost


def _pairs(through: int, direct: int, request: bytes, number: int, *, first: bool = False) -> list[list[float]]:
    """Time requests through the gateway and to the engine in turn, whole or to the first event of a stream."""
    times_s: list[list[float]] = [[], []]
    until_s = time.monotonic() + MOST_S
    with connect(through) as far, connect(direct) as near:
        for turn in range(number + WARM_UP):
            if time.monotonic() > until_s and len(times_s[0]) >= WARM_UP:
                break
            for which, connection in enumerate((far, near)):
                began_s = time.perf_counter()
                if first:
                    connection.sendall(request)
                    got = bytearray()
                    while b"data:" not in got:
                        got += connection.recv(65536)
                    took_s = time.perf_counter() - began_s
                    while not got.endswith(b"0\r\n\r\n"):
                        got += connection.recv(65536)
                else:
                    ask(connection, request)
                    took_s = time.perf_counter() - began_s
                if turn >= WARM_UP:
                    times_s[which].append(took_s)
    return times_s


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
