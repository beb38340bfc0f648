"""Serve the live page with synthetic fleets: `python tests/gateway/page_demo.py --instances 20`.

One fleet a model: `--models 2` gives a second one, half as large.

Snapshots follow the clock, so that the page moves. The gateway itself is not run.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote
from weakref import WeakSet

from synthetic_fleet import SyntheticFleet

from polyslo.gateway.page.assets import Asset, load_assets

JSON_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
SSE_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


class DemoServer(ThreadingHTTPServer):
    """Answers as the gateway's page endpoints do; `num_snapshots` ends each stream after so many, None never."""

    daemon_threads = True

    def __init__(
        self,
        fleet: SyntheticFleet,
        port: int = 0,
        num_snapshots: int | None = None,
        others: Sequence[SyntheticFleet] = (),
    ) -> None:
        self.fleets = [fleet, *others]
        self.num_snapshots = num_snapshots
        self.ends_streams = threading.Event()
        self.connections: WeakSet[socket.socket] = WeakSet()
        self.offset_s = fleet.started_unix_s + 7300.0 - time.time()
        self.paths: list[str] = []
        super().__init__(("127.0.0.1", port), DemoHandler)

    def fleet(self, query: str) -> SyntheticFleet | None:
        """Find the model that a query names; the first one where it names none."""
        name = parse_qs(query).get("model", [self.fleets[0].model])[-1]
        return next((fleet for fleet in self.fleets if fleet.model == name), None)

    def state(self, fleet: SyntheticFleet) -> dict[str, Any]:
        """Make a model's snapshot, with the names of all."""
        states = [each.state(self.now_unix_s()) for each in self.fleets]
        return {**states[self.fleets.index(fleet)], "models": [model for each in states for model in each["models"]]}

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection and remember it."""
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        """Close every connection, as a gateway that dies does; else kept ones would still be answered."""
        self.ends_streams.set()
        for connection in list(self.connections):
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a browser leave in the middle of an answer; anything else is told as usual."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def now_unix_s(self) -> float:
        """Synthetic moment: it starts at the same one in every run."""
        return time.time() + self.offset_s


class DemoHandler(BaseHTTPRequestHandler):
    """One connection's requests."""

    server: DemoServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Serve an asset, the state, its stream or a story."""
        path, _, query = self.path.partition("?")
        fleet = self.server.fleet(query)
        self.server.paths.append(path)
        asset = load_assets().get(path)  # anew each time: an edit shows at once
        if asset is not None:
            self._send_asset(asset)
        elif fleet is None:
            self._send(HTTPStatus.NOT_FOUND, JSON_HEADERS, b'{"error": {"code": "model_not_found"}}')
        elif path == "/state":
            self._send_json(self.server.state(fleet))
        elif path == "/events":
            self._send_events(fleet)
        elif path.startswith("/requests/"):
            story = fleet.story(unquote(path.removeprefix("/requests/")), self.server.now_unix_s())
            self._send_json(None if story is None else {**story, "model": fleet.model})
        else:
            self._send(HTTPStatus.NOT_FOUND, [], b"")

    def _send_asset(self, asset: Asset) -> None:
        held = self.headers.get("if-none-match")
        if asset.is_held_by(held.encode() if held else None):
            self._send(HTTPStatus.NOT_MODIFIED, asset.headers(), b"")
        else:
            self._send(HTTPStatus.OK, asset.headers(), asset.body)

    def _send_json(self, value: Any) -> None:
        if value is None:
            self._send(HTTPStatus.NOT_FOUND, JSON_HEADERS, b"{}")
        else:
            self._send(HTTPStatus.OK, JSON_HEADERS, json.dumps(value).encode())

    def _send_events(self, fleet: SyntheticFleet) -> None:
        self.close_connection = True
        self._send_head(HTTPStatus.OK, SSE_HEADERS)
        sent = 0
        try:
            while not self.server.ends_streams.is_set():
                snapshot = json.dumps(self.server.state(fleet))
                self.wfile.write(f"event: state\ndata: {snapshot}\n\n".encode())
                self.wfile.flush()
                sent += 1
                if sent == self.server.num_snapshots:
                    return
                self.server.ends_streams.wait(1.0)
        except ConnectionError:
            return  # the page was closed

    def _send(self, status: HTTPStatus, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._send_head(status, [*headers, (b"content-length", b"%d" % len(body))])
        self.wfile.write(body)

    def _send_head(self, status: HTTPStatus, headers: list[tuple[bytes, bytes]]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name.decode(), value.decode())
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the page asks every second."""


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the live page with a synthetic fleet.")
    option = parser.add_argument
    option("--instances", type=int, default=20)
    option("--port", type=int, default=0)
    option("--mode", choices=("co", "pd"), default="co")
    option("--models", type=int, default=1, help="so many models, each with half the instances of the one before")
    option("--quiet", action="store_true", help="nobody has sent a request yet")
    option("--snapshots", type=int, help="end each stream after so many snapshots")
    choice = parser.parse_args()
    fleet = SyntheticFleet(choice.instances, has_traffic=not choice.quiet, mode=choice.mode)
    others = [
        replace(fleet, num_instances=choice.instances >> k, model=f"example/model-{k + 1}")
        for k in range(1, choice.models)
    ]
    server = DemoServer(fleet, choice.port, choice.snapshots, others)
    print(server.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
