"""A gateway under measurement: started, waited for, looked at as its users' tools would, and stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from peers import Peer, Place
from processes import cpu_s, memory_bytes
from sink import is_whole, request_bytes
from source import WHOLE, body_for

from polyslo.fleets.ports import free_ports

START_S = 120.0  # LiteLLM takes most of it on a busy machine
SCRAPE_PERIOD_S = 5.0


class Gateway:
    """A running one."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.port = port

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, of all of its processes."""
        return cpu_s(self._process.pid)

    @property
    def memory_bytes(self) -> int:
        """Its memory now."""
        return memory_bytes(self._process.pid)


@contextlib.contextmanager
def running(peer: Peer, ports: list[int], processes: int = 1) -> Iterator[Gateway]:
    """Start a gateway before the engines at `ports` and give it when it answers; raises `RuntimeError`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = Place(*free_ports(2), tuple(f"http://127.0.0.1:{port}" for port in ports), folder, processes)
        command, environment = peer.start(place)
        with (folder / "out.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}, cwd=folder
            )
        stopped = threading.Event()
        try:
            _wait(peer, process, place)
            for target in (_scrape, _hold_page):
                threading.Thread(target=target, args=(peer, place, stopped), daemon=True).start()
            yield Gateway(process, place.port)
        finally:
            stopped.set()
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Send a request and return its whole response."""
    connection.sendall(request)
    answer = bytearray()
    while not is_whole(answer):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"closed after {bytes(answer[:300])!r}")
        answer += piece
    return bytes(answer)


def connect(port: int) -> socket.socket:
    """Connect without the kernel's waiting for more."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30.0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _wait(peer: Peer, process: subprocess.Popen[bytes], place: Place) -> None:
    request, until_s = request_bytes(body_for(WHOLE)), time.monotonic() + START_S
    answer = b""
    while time.monotonic() < until_s and process.poll() is None:
        try:
            with connect(place.port) as connection:
                answer = ask(connection, request)
            if answer.startswith(b"HTTP/1.1 200"):
                time.sleep(1.0)  # some answer before every engine was looked at
                return
        except OSError:
            pass
        time.sleep(0.2)
    told = (place.folder / "out.log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{peer.name} does not answer: {answer[:300]!r}\n{told}")


def _scrape(peer: Peer, place: Place, stopped: threading.Event) -> None:
    while peer.scrape is not None and not stopped.wait(SCRAPE_PERIOD_S):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", place.metrics_port, timeout=5.0)
            connection.request("GET", peer.scrape)
            connection.getresponse().read()
            connection.close()


def _hold_page(peer: Peer, place: Place, stopped: threading.Event) -> None:
    if peer.page is None:
        return
    with contextlib.suppress(OSError), connect(place.metrics_port) as connection:
        connection.sendall(b"GET %b HTTP/1.1\r\nhost: page\r\n\r\n" % peer.page.encode())
        while not stopped.is_set() and connection.recv(65536):
            pass
