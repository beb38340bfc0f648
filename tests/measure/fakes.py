"""An emulated engine as a bench, on virtual time: what is measured is exactly what its profile says."""

from __future__ import annotations

import asyncio

from load.fakes import run_virtually  # noqa: F401

from polyslo.engines.emulated_engine import EmulatedEngine, EngineSettings
from polyslo.measure.track import Track


class OnLoop:
    """An engine's clock that is the running loop's."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()

    def now_s(self):
        """The loop's time."""
        return self._loop.time()

    def call_at(self, at_s, function):
        """As the loop."""
        return self._loop.call_at(at_s, function)


class EmulatedBench:
    """A `Bench` without HTTP. Every answer, token or not, is `delay_s` late."""

    def __init__(self, profile, delay_s=0.0, **settings):
        self.clock = OnLoop()
        self.engine = EmulatedEngine(profile, EngineSettings(**settings), self.clock)
        self.num_opened = 0
        self._delay_s = delay_s

    def now_s(self):
        """See `Bench`."""
        return self.clock.now_s()

    def open(self, input_tokens, output_tokens):
        """See `Bench`."""
        self.num_opened += 1
        track = Track(input_tokens, self.now_s())
        loop = asyncio.get_running_loop()

        def on_token(is_last):
            loop.call_later(self._delay_s, told, is_last)

        def told(is_last):
            if track.is_over:
                return
            track.note(1, self.now_s())
            if is_last:
                track.end()

        resident = self.engine.submit(input_tokens, output_tokens, on_token)
        track.abort = lambda: self.engine.abort(resident)
        return track
