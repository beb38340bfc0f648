"""Shared by the engines' tests: a profile, engines on virtual time, and the other side of an exchange."""

from __future__ import annotations

import pytest

from polyslo.engines.clock import VirtualClock
from polyslo.engines.emulated_engine import EmulatedEngine, EngineSettings
from polyslo.profiles.library import load_profile


class Tokens:
    """Hears of one request's tokens: when each came, and that the last was the last."""

    def __init__(self, clock):
        self.clock, self.times_s, self.is_finished = clock, [], False

    def __call__(self, is_last):
        """Hear of a token."""
        assert not self.is_finished
        self.times_s.append(self.clock.now_s())
        self.is_finished = is_last


class FakeExchange:
    """Keeps what is answered."""

    def __init__(self, method=b"POST", path=b"/", body=b"", headers=()):
        self.method, self.path, self.query, self.body, self.headers = method, path, b"", body, list(headers)
        self.peer = "127.0.0.1"
        self.on_gone = self.on_blocked = None
        self.status = None
        self.pieces = []
        self.is_ended = self.is_aborted = False

    def header(self, name):
        """As the real one."""
        return dict(self.headers).get(name)

    def respond(self, status, headers, body):
        """Keep a whole answer."""
        assert self.status is None
        self.status, self.pieces, self.is_ended = status, [body], True

    def start(self, status, headers):
        """Keep the status."""
        assert self.status is None
        self.status = status

    def write(self, data):
        """Keep a piece."""
        assert not self.is_ended
        self.pieces.append(data)

    def end(self):
        """Note the end."""
        self.is_ended = True

    def abort(self):
        """Note the abort."""
        self.is_aborted = True

    @property
    def text(self):
        """All that was answered."""
        return b"".join(self.pieces).decode()


@pytest.fixture(scope="session")
def profile():
    """The shipped default: Llama 3.1 8B on one H200."""
    return load_profile("llama-3.1-8b-h200-tp1").profile


@pytest.fixture
def clock():
    """Virtual time."""
    return VirtualClock()


@pytest.fixture
def make_engine(profile, clock):
    """Return a function that makes an engine on virtual time; its keywords are the engine's settings."""

    def make(**settings):
        return EmulatedEngine(profile, EngineSettings(**settings), clock)

    return make


@pytest.fixture
def submit(clock):
    """Return a function that sends an engine a request; it returns the request's tokens and its resident."""

    def send(engine, input_tokens, output_tokens, **slo):
        tokens = Tokens(clock)
        return tokens, engine.submit(input_tokens, output_tokens, tokens, **slo)

    return send
