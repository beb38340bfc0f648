"""The two processes at both ends of a gateway, and what they have seen at a moment."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from sink import run_sink
from source import run_source


@dataclass(frozen=True, slots=True)
class Seen:
    """Counts so far."""

    events: int
    answers: int
    num_bytes: int
    lost: int


class Clients:
    """The sink's process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def open(self, port: int, body: bytes, number: int, seconds: float, look_every_s: float = 0.0) -> None:
        """Open streams; raises `RuntimeError` where they don't come."""
        wrong = self._tell("open", port, body, number, seconds, look_every_s)
        if wrong:
            raise RuntimeError(str(wrong))

    def ask(self, port: int, body: bytes, number: int) -> None:
        """Begin to ask over and over."""
        self._tell("ask", port, body, number)

    def count(self) -> Seen:
        """Return what came so far."""
        return Seen(*self._tell("count"))  # type: ignore[misc]

    def close(self) -> None:
        """Close all connections."""
        self._tell("close")

    def _tell(self, *command: object) -> object:
        self._pipe.send(command)
        return self._pipe.recv()


@contextlib.contextmanager
def source(num_ports: int) -> Iterator[list[int]]:
    """Run the engines; gives their ports."""
    with _process(run_source, num_ports) as pipe:
        yield pipe.recv()


@contextlib.contextmanager
def clients() -> Iterator[Clients]:
    """Run the clients."""
    with _process(run_sink) as pipe:
        yield Clients(pipe)


@contextlib.contextmanager
def _process(target: object, *arguments: object) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)  # type: ignore[arg-type]
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()
