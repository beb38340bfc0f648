"""The other sides of a served model: clients, engines and time, moved by hand; each insists on its contract."""

from __future__ import annotations

import heapq
import itertools

from polyslo.wire.client import Failure


class FakeLoop:
    """An event loop's clock and calls; time passes only in `run_until`."""

    def __init__(self, now_s=1000.0):
        self.now_s = now_s
        self._calls = []
        self._numbers = itertools.count()

    def time_s(self):
        """Return the time."""
        return self.now_s

    def call_soon(self, callback, *args):
        """Call when time next passes, or stands."""
        return self.call_later(0.0, callback, *args)

    def call_later(self, delay, callback, *args):
        """Call in `delay` seconds."""
        assert delay >= 0.0
        handle = _Handle(callback, args)
        heapq.heappush(self._calls, (self.now_s + delay, next(self._numbers), handle))
        return handle

    def run_until(self, at_s):
        """Make the calls that are due by then."""
        while self._calls and self._calls[0][0] <= at_s:
            due_s, _, handle = heapq.heappop(self._calls)
            self.now_s = max(self.now_s, due_s)
            if not handle.is_cancelled:
                handle.callback(*handle.args)
        self.now_s = max(self.now_s, at_s)

    @property
    def num_due(self):
        """Calls that were not taken back."""
        return sum(not handle.is_cancelled for _, _, handle in self._calls)


class _Handle:
    def __init__(self, callback, args):
        self.callback, self.args, self.is_cancelled = callback, args, False

    def cancel(self):
        self.is_cancelled = True


class FakeExchange:
    """A client's request. It may be answered once, in order, and not after its client has left."""

    method, path, query, peer = b"POST", b"/v1/completions", b"", "192.0.2.1"
    takes_chunks = True

    def __init__(self):
        self.on_gone = self.on_blocked = None
        self.headers, self.body = [], b""
        self.status = None
        self.sent = b""
        self.ending = None  # "responded", "ended", "aborted" or "left"

    @property
    def is_over(self):
        """Whether it has had its one ending."""
        return self.ending is not None

    def respond(self, status, headers, body):
        """Take a whole answer."""
        assert (self.status, self.ending) == (None, None), "answered twice"
        self.status, self.sent, self.ending = status, body, "responded"

    def start(self, status, headers):
        """Take the head of a stream."""
        assert (self.status, self.ending) == (None, None), "started twice"
        self.status = status

    def write(self, data):
        """Take a piece."""
        assert self.status is not None
        assert self.ending is None, f"written to after it {self.ending}"
        self.sent += data

    def write_framed(self, chunk):
        """Take a piece with its framing."""
        size, _, rest = chunk.partition(b"\r\n")
        assert (int(size, 16), rest[-2:]) == (len(rest) - 2, b"\r\n")
        self.write(rest[:-2])

    def end(self):
        """Take the end."""
        assert self.status is not None
        assert self.ending is None, f"ended after it {self.ending}"
        self.ending = "ended"

    def abort(self):
        """Be cut."""
        assert self.ending is None, f"aborted after it {self.ending}"
        self.ending = "aborted"

    def leave(self):
        """The client goes."""
        assert self.ending is None
        self.ending = "left"
        if self.on_gone is not None:
            self.on_gone()

    def block(self, is_blocked):
        """The client takes less than it is sent, or has caught up."""
        if self.on_blocked is not None:
            self.on_blocked(is_blocked)


class FakeCall:
    """A request at an engine; its sink hears nothing after its end or after `abort`."""

    def __init__(self, origin, sink, body, headers):
        self.origin, self.sink, self.body, self.headers = origin, sink, body, headers
        self.is_over = self.is_paused = self.has_head = False
        self.num_tokens = self.num_pieces = 0
        self.idle_timeout_s = self.on_chunk = None

    def abort(self):
        """Be given up by the gateway."""
        self._leave()

    def pause(self):
        """Read no more."""
        self.is_paused = True

    def resume(self):
        """Read on."""
        self.is_paused = False

    def head(self, status=200):
        """Answer with a head."""
        assert not self.is_over
        self.has_head = True
        self.sink.on_head(status, [(b"content-type", b"text/event-stream")])

    def data(self, data):
        """Send a piece of the body: every other one that may as a chunk that comes alone."""
        assert not self.is_over
        self.num_pieces += 1
        if self.on_chunk is not None and self.num_pieces % 2:
            self.on_chunk(data, b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self.sink.on_data(data)

    def end(self):
        """End the body."""
        assert not self.is_over
        self._leave()
        self.sink.on_end()

    def fail(self, kind):
        """Fail."""
        assert not self.is_over
        self._leave()
        self.sink.on_failure(Failure(kind, "as told", started=self.has_head))

    def _leave(self):
        self.is_over = True
        self.origin.calls.pop(self, None)


class FakeOrigin:
    """An engine; each call has a connection of its own, which closes with it."""

    num_idle = 0

    def __init__(self):
        self.calls = {}
        self.is_closed = False

    @property
    def num_connections(self):
        """Calls under way."""
        return len(self.calls)

    def send(self, method, target, headers, body, sink, *, head_timeout_s, idle_timeout_s):
        """Take a request."""
        assert not self.is_closed, "sent to an engine that is gone"
        call = FakeCall(self, sink, body, headers)
        self.calls[call] = None
        return call


class FakeConnections:
    """Opens engines as they join; one that is closed fails what it has."""

    def open(self, url):
        """Return an engine."""
        return FakeOrigin()

    def close(self, origin):
        """Fail what is under way."""
        origin.is_closed = True
        for call in list(origin.calls):
            call.fail("reset")


class FakeWatch:
    """Looks at nothing by itself; remembers at whom it should."""

    def __init__(self):
        self.watched = set()

    def watch(self, instance):
        """Begin to look at an instance."""
        self.watched.add(instance.index)

    def forget(self, i):
        """Look no more."""
        self.watched.discard(i)
