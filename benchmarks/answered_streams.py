"""Greedy requests of a plan, sent to real engines at their times, and the streams that came back, token by token."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from polyslo.load.letters import Headers, Letters
from polyslo.load.plan import LoadPlan
from polyslo.load.target import Target
from polyslo.wire.client import Failure, Origin

TIMEOUT_S = 600.0
Write = Callable[[int], tuple[Headers, bytes]]


@dataclass
class Stream:
    """One answer as it came: a sink of the wire."""

    began_s: float
    token_ids: list[int] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)
    failure: str | None = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    rest: bytes = b""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Take the head."""
        self.status, self.headers = status, {name.lower(): value for name, value in headers}

    def on_data(self, data: bytes) -> None:
        """Take events, each with its tokens."""
        now_s = time.monotonic()
        *events, self.rest = (self.rest + data).split(b"\n\n")
        for event in events:
            text = event.removeprefix(b"data: ")
            if self.status != 200 or text == b"[DONE]" or not text.strip():
                continue
            told = json.loads(text)
            if "error" in told:
                self.failure = str(told["error"].get("message", told["error"]))
            for choice in told.get("choices", ()):
                ids = choice.get("token_ids") or []
                self.token_ids += ids
                self.token_s += [now_s] * len(ids)

    def on_end(self) -> None:
        """Take note of the end."""
        if self.status != 200:
            self.failure = f"status {self.status}: {self.rest[:200].decode(errors='replace')}"
        self.finished.set()

    def on_failure(self, failure: Failure) -> None:
        """Take note of a bad one."""
        self.failure = f"{failure.kind}: {failure.detail}"
        self.finished.set()

    def attains(self, ttft_s: float, tpot_s: float, num_tokens: int) -> bool:
        """Tell whether every token was there, on time."""
        if self.failure is not None or len(self.token_s) != num_tokens:
            return False
        due_s = self.began_s + ttft_s + np.arange(num_tokens) * tpot_s
        return bool((np.asarray(self.token_s) <= due_s).all())


async def send(plan: LoadPlan, url: str, write: Write) -> list[Stream]:
    """Send every request at its time; return the answers when all have ended."""
    origin = Origin(url, max_idle=1024)
    begin_s = time.monotonic() + 1.0
    streams = []
    for r in range(len(plan)):
        headers, body = write(r)
        await asyncio.sleep(max(0.0, begin_s + float(plan.send_s[r]) - time.monotonic()))
        streams.append(post(origin, headers, body, began_s=begin_s + float(plan.send_s[r])))
    await asyncio.gather(*(stream.finished.wait() for stream in streams))
    await origin.close()
    return streams


def letters(plan: LoadPlan, url: str, model: str, vocab_size: int, *, told: bool) -> Write:
    """Return what writes a request: headers and body, greedy, with token ids in the answer.

    With `told` a request tells its SLO, and asks for the decision's receipt.
    """
    write = Letters(plan, Target(urls=(url,), vocab_size=vocab_size, slo_headers=told), model).write
    receipt = [(b"x-polyslo-explain", b"1")] if told else []

    def written(r: int) -> tuple[Headers, bytes]:
        letter = write(r)
        return [*letter.headers, *receipt], letter.body[:-1] + b',"temperature":0,"return_token_ids":true}'

    return written


def post(origin: Origin, headers: Headers, body: bytes, began_s: float | None = None) -> Stream:
    """Send one request."""
    stream = Stream(time.monotonic() if began_s is None else began_s)
    origin.send(b"POST", b"/v1/completions", headers, body, stream, head_timeout_s=TIMEOUT_S, idle_timeout_s=TIMEOUT_S)
    return stream
