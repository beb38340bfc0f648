"""A headless Chromium that tests and screenshots drive over its debugging pipe: no packages, no ports, no sleeping.

A page with an open event stream never comes to rest, so `--virtual-time-budget` would wait for ever; here a test
waits for what it expects to see instead.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
GIVE_UP_S = 180.0  # a hang must fail a test, not stop the run
POLL_S = 0.05


def find_chromium() -> str | None:
    """Find the browser's binary on the path."""
    return next((path for name in BINARIES if (path := shutil.which(name))), None)


class Page:
    """One browser with one page; `complaints` collects console errors, exceptions and failed loads."""

    def __init__(self, binary: str, profile_dir: str) -> None:
        from_browser, browser_out = os.pipe()
        browser_in, to_browser = os.pipe()
        # The browser talks on descriptors 3 and 4; the shell puts them there.
        script = f'exec "$0" "$@" 3<&{browser_in} 4>&{browser_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, binary, *FLAGS, f"--user-data-dir={profile_dir}", "about:blank"],
            pass_fds=(browser_in, browser_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_in)
        os.close(browser_out)
        self.reader = os.fdopen(from_browser, "rb", buffering=0)
        self.writer = os.fdopen(to_browser, "wb", buffering=0)
        self.rest = b""
        self.number = 0
        self.session: str | None = None
        self.complaints: list[str] = []
        self._attach()

    def _attach(self) -> None:
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send one command and wait for its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _receive(self) -> Any:
        while b"\0" not in self.rest:
            piece = self.reader.read(1 << 16)
            if not piece:
                raise RuntimeError("chromium ended")
            self.rest += piece
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Any) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str(parameters["args"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.complaints.append(parameters["entry"]["text"])

    def open(self, url: str, *, width: int = 1280, height: int = 800, is_dark: bool = False) -> None:
        """Load an address in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Evaluate until the answer is truthy; an element is."""
        ends_at_s = time.monotonic() + GIVE_UP_S
        while time.monotonic() < ends_at_s:
            if self.ask(f"!!({expression})"):
                return
            time.sleep(POLL_S)
        raise TimeoutError(f"the page never came to {expression!r}; complaints: {self.complaints}")

    def point(self, x: float, y: float, *, is_click: bool = False) -> None:
        """Move the mouse, and press it if wished."""
        kinds = ("mouseMoved", "mousePressed", "mouseReleased") if is_click else ("mouseMoved",)
        for kind in kinds:
            pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    def press(self, key: str) -> None:
        """Press and release one named key."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, *, is_whole: bool = False) -> None:
        """Write what the window shows, or the whole page, as PNG."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(GIVE_UP_S)
        except (RuntimeError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.reader.close()
        self.writer.close()


@contextmanager
def open_chromium(binary: str) -> Iterator[Page]:
    """Start a browser with a fresh profile, and end it."""
    # Helper processes may still write into the profile when the browser has said that it ended.
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile_dir, Page(binary, profile_dir) as page:
        yield page
