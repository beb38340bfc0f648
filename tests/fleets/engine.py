"""A stand-in engine: answers `/health` on the port that it is given, as its options say.

Run as a script with the standard library alone. `--child FILE` starts a process that outlives its parent unless it is
ended, and writes its pid; `--deaf` ignores SIGTERM; `--fail` says something and exits with 3.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Everything is well."""

    def do_GET(self):
        """Say so."""
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


def main(port, *options):
    """Serve until ended."""
    if "--fail" in options:
        print("out of memory")
        sys.exit(3)
    if "--deaf" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--child" in options:
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = subprocess.Popen(sleep, start_new_session=True)
        Path(options[options.index("--child") + 1]).write_text(str(child.pid))
    HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
