"""An event loop on virtual time, servers that follow a script, and the events that they send."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyslo.load.sender import Reply
from polyslo.wire.client import Failure
from polyslo.workload.workload import Workload

DONE = b"data: [DONE]\n\n"
Step = tuple[float, bytes | int | Failure | None]  # seconds after the request; a piece, a status, a failure, the end


class _Clockwork(selectors.SelectSelector):
    """Waits in no time: what it is asked to wait for is added to the clock."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout > 0:
            self.now_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while nothing is to be done."""

    def __init__(self) -> None:
        self._clockwork = _Clockwork()
        super().__init__(self._clockwork)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._clockwork.now_s


def run_virtually(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def event(text: str = " a", finish: str | None = None, usage: int | None = None) -> bytes:
    """Return an event as vLLM sends it for a completion."""
    reason = "null" if finish is None else f'"{finish}"'
    tokens = (
        "null" if usage is None else f'{{"prompt_tokens":3,"total_tokens":{3 + usage},"completion_tokens":{usage}}}'
    )
    return (
        b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"%b",'
        b'"logprobs":null,"finish_reason":%b,"stop_reason":null}],"usage":%b}\n\n'
        % (text.encode(), reason.encode(), tokens.encode())
    )


def usage_event(num_tokens: int) -> bytes:
    """Return the last event before [DONE], as vLLM sends it when usage was asked for."""
    return (
        b'data: {"id":"cmpl-1","choices":[],"usage":{"prompt_tokens":3,"total_tokens":%d,"completion_tokens":%d}}\n\n'
        % (3 + num_tokens, num_tokens)
    )


def workload(*rows: tuple[float, int, int, float, float], tpots_s: Sequence[float] = (0.02, 0.05)) -> Workload:
    """Return a workload of rows (arrival_s, input, output, ttft_s, tpot_s); tiers are the last not looser."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    tier = np.searchsorted(tpots_s, columns[4], side="right") - 1
    return Workload(
        "made-up", columns[0], columns[1].astype(np.int32), columns[2].astype(np.int32), columns[3], columns[4],
        tuple(tpots_s), tier.astype(np.int32),
    )  # fmt: skip


@dataclass
class FakeCall:
    """A call that only remembers that it was aborted."""

    aborted: bool = False

    def abort(self) -> None:
        """Remember it; nothing comes any more."""
        self.aborted = True


@dataclass
class FakeOrigin:
    """Answers the k-th request by `script(k)`, and keeps what it was sent and when."""

    script: Callable[[int], Sequence[Step]]
    sent: list[tuple[float, bytes, list[tuple[bytes, bytes]], bytes]] = field(default_factory=list)
    calls: list[FakeCall] = field(default_factory=list)

    def send(self, method: bytes, target: bytes, headers: Any, body: bytes, sink: Reply, **timeouts: float) -> FakeCall:
        """Take a request and play its script."""
        loop = asyncio.get_running_loop()
        call = FakeCall()
        for after_s, what in self.script(len(self.sent)):
            loop.call_later(after_s, self._play, call, sink, what)
        self.sent.append((loop.time(), target, headers, body))
        self.calls.append(call)
        return call

    def _play(self, call: FakeCall, sink: Reply, what: bytes | int | Failure | None) -> None:
        if call.aborted:
            return
        if isinstance(what, int):
            sink.on_head(what, [])
        elif isinstance(what, bytes):
            sink.on_data(what)
        elif what is None:
            sink.on_end()
        else:
            sink.on_failure(what)
