"""The whole gateway over real sockets, tokens going past Python: whatever clients and engines do, all comes to zero.

`test_gateway_machine` has the decisions between fakes; here are the compiled relay and the connections on both sides.
Engines are written by hand, so each of them can break off, say half a chunk or fall silent while its stream is lent to
the relay; clients leave, read nothing for a while and come again. After every step both sides agree (G13 of
docs/invariants.md), and at the end there is no request, token, KV, place, lent stream or open socket.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import struct
import sys
import warnings

import numpy as np
import orjson
import pytest
import uvloop
from gateway.test_token_pipe import NO_TOKENS, TOKEN, framed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_gateway_machine import COUNTERS, NUM_PLACES, NUM_SLOTS, TPOTS_S, GatewayMachine

from polyslo.gateway.app import Gateway
from polyslo.gateway.config.gateway import parse_config
from polyslo.gateway.config.models import EndpointConfig
from polyslo.gateway.instances.instance import POSTED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")
MODEL, PATH, NUM_ENGINES = "m", b"/v1/completions", 2
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b'{"choices":[{"text":"x"}],"usage":{"prompt_tokens":4,"total_tokens":5,"completion_tokens":1}}'
STOP, DONE = NO_TOKENS["a reason to finish"], NO_TOKENS["the end of a stream"]
MIDDLING, LARGE = (TOKEN[:-3] + b" " * num_bytes + TOKEN[-3:] for num_bytes in (3000, 5000))  # of which one fits a read
PIECES = {
    "a token": [TOKEN],
    "tokens": [TOKEN] * 5,
    "a large token": [LARGE],
    "a comment": [NO_TOKENS["a comment"]],
    "two in a chunk": [TOKEN * 2],
    "tokens and a comment": [TOKEN, TOKEN, NO_TOKENS["a comment"], TOKEN],
}
LISTED = b'"finish_reason":null,"token_ids":[1,2,3]}'  # what an event says besides where ids were asked for
BAD = (429, 500, 400)
ACTS = ("tokens", "half a token", "the end", "death", "a reset", "leaving", "leaving with a reset", "slow", "not slow")
HANG_S = 60.0  # only so that a hang fails instead of hanging, however busy the machine
FLOOD_BYTES = 32 * 2**20  # more than the sockets in between hold
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
LOOKS, LOOK_S = 60, 0.05  # at what may be on its way still


class Job(asyncio.Protocol):
    """A connection to an engine and the generation that is under way on it, if any."""

    def __init__(self, engine):
        self.engine, self.held = engine, b""
        self.is_busy = self.has_head = self.is_streamed = self.lists = False
        self.prompt, self.said, self.owed = None, [], b""  # payloads of chunks; the rest of one that was said by half

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        self.transport = transport
        self.engine.jobs.append(self)

    def connection_lost(self, exc):
        """See `asyncio.Protocol`."""
        self.is_busy = False
        self.engine.jobs.remove(self)

    def data_received(self, data):
        """Take a request: a generation is kept, anything else answered."""
        self.held += data
        head, end, rest = self.held.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        num_bytes = int(length[1]) if length else 0
        if not end or len(rest) < num_bytes:
            return
        self.held = rest[num_bytes:]
        assert not self.is_busy, "a second request before the first was over"
        if not head.startswith(b"POST " + PATH + b" "):
            self.answer(200, b"{}")
            return
        body = orjson.loads(rest[:num_bytes])
        self.is_busy, self.has_head, self.is_streamed = True, False, body["stream"]
        self.lists = body["return_token_ids"] and "stream_options" not in body  # best-effort streams are asked to count
        self.prompt, self.said, self.owed = body["prompt"], [], b""
        self.engine.said[self.prompt] = self.said

    def answer(self, status, body):
        """Answer at once."""
        self.is_busy = False
        self.transport.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))

    def say(self, payloads, *, half=False):
        """Go on with a stream: a chunk for each payload, all of them at once; by half: without the end of the last."""
        if self.lists:
            payloads = [payload.replace(b'"finish_reason":null}', LISTED) for payload in payloads]
        self.said += payloads
        data = self.owed + b"".join(map(framed, payloads))
        if not self.has_head:
            self.has_head, data = True, HEAD + data
        cut = len(data) - (7 if half else 0)
        self.owed = data[cut:]
        self.transport.write(data[:cut])

    @property
    def num_tokens(self):
        """Tokens that it has said whole."""
        each = 3 if self.lists else 1
        count = sum(payload.count(b"data: {") for payload in self.said)
        return each * (count - bool(self.owed and self.said[-1].startswith(b"data: {")))

    def finish(self, payloads):
        """End a stream."""
        self.say(payloads)
        self.transport.write(b"0\r\n\r\n")
        self.is_busy = False

    def die(self, *, resets):
        """Lose the connection, in order or with a reset."""
        self.is_busy = False
        _close(self.transport, resets=resets)


class Engine:
    """An engine whose answers are given by hand."""

    def __init__(self):
        self.jobs = []
        self.said = {}  # by prompt, of the last time that it was sent

    async def start(self):
        """Listen."""
        self.server = await asyncio.get_running_loop().create_server(lambda: Job(self), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"


class Client(asyncio.Protocol):
    """A client's connection, and what came of its last request."""

    def __init__(self):
        self.got, self.prompt = bytearray(), None
        self.is_open, self.is_asking, self.is_slow = True, False, False

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        self.transport = transport

    def connection_lost(self, exc):
        """See `asyncio.Protocol`."""
        self.is_open = self.is_asking = False

    def data_received(self, data):
        """Take a piece; note when the answer is whole."""
        self.got += data
        head, end, body = bytes(self.got).partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and ((len(body) == int(length[1])) if length else _unframed(body)[1]):
            self.is_asking = False

    def ask(self, prompt, headers, *, is_streamed, lists):
        """Send a request; `lists`: it asks for the ids of its tokens."""
        self.got, self.prompt, self.is_asking = bytearray(), prompt, True
        body = {"model": MODEL, "prompt": prompt, "stream": is_streamed, "max_tokens": 4000, "return_token_ids": lists}
        raw = orjson.dumps(body)
        head = b"POST %b HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n" % (PATH, headers, len(raw))
        self.transport.write(head + raw)

    @property
    def payload(self):
        """What has come of a stream, in whole chunks; None where the answer is none."""
        head, _, body = bytes(self.got).partition(b"\r\n\r\n")
        return _unframed(body)[0] if b"chunked" in head else None

    def read(self, *, is_slow):
        """Read nothing for a while, or read on."""
        if self.is_open and is_slow != self.is_slow:
            self.is_slow = is_slow
            (self.transport.pause_reading if is_slow else self.transport.resume_reading)()

    def leave(self, *, resets):
        """Go, in order or with a reset."""
        self.is_asking = False
        _close(self.transport, resets=resets)


class RelayMachine(RuleBasedStateMachine):
    """A gateway with two engines and any number of clients, in one event loop that runs during each step.

    What can't happen is passed over and no precondition: those may not depend on how fast sockets are.
    """

    @initialize(ends_at_once=st.booleans())
    def start(self, ends_at_once=False):
        """Nothing has happened. `ends_at_once`: the gateway stops with whatever is under way then."""
        uvloop.new_event_loop().close()  # the first one opens a pipe that stays
        self.sockets = _sockets()
        self.ends_at_once, self.hurries = ends_at_once, False
        self.clients, self.engines, self.told = [], [Engine() for _ in range(NUM_ENGINES)], []
        self.num_asked, self.num_lent, self.finished = 0, 0, set()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.do(self._begin())

    def do(self, work):
        """Run the loop for a step."""

        async def within():
            async with asyncio.timeout(HANG_S):
                return await work

        return self.runner.run(within())

    async def _begin(self):
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.told.append(context))
        for engine in self.engines:
            await engine.start()
        table = {
            "models": [{
                "name": MODEL, "dynamic_chunking": True, "max_instances": NUM_SLOTS,
                "endpoints": [{"url": engine.url} for engine in self.engines],
            }],
            "classes": {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 50}},
            "tiers": {"tpots_ms": [1e3 * tpot_s for tpot_s in TPOTS_S]},
            "health": {"interval_s": 3600.0, "failure_threshold": 1000},
            "telemetry": {"engine_interval_s": 3600.0},
            "server": {"port": 0, "metrics_port": 0, "max_concurrent_requests": NUM_PLACES, "queue_size": 3,
                       "shutdown_grace_s": 0.0},
        }  # fmt: skip
        self.gateway = Gateway(parse_config(table, "test.toml"))
        await self.gateway.start()
        self.model = self.gateway.models[MODEL]
        self.bypass = self.model.bypass
        self.membership = self.gateway.changes.memberships[MODEL]
        await self._settle()

    @rule(
        is_streamed=st.sampled_from([True, True, True, False]), comes_again=st.booleans(), is_urgent=st.booleans(),
        copies=st.integers(1, 3),
    )  # fmt: skip
    def ask(self, is_streamed, comes_again, is_urgent, copies):
        """Clients ask, on connections of their own or again on one that has had its answer."""
        for _ in range(min(copies, NUM_PLACES + 5 - len(self._asking()))):
            self.do(self._ask(is_streamed, comes_again, is_urgent))

    async def _ask(self, is_streamed, comes_again, is_urgent):
        idle = [client for client in self.clients if client.is_open and not client.is_asking and not client.is_slow]
        if comes_again and idle:
            client = idle[0]
        else:
            client = await self._connect()
        self.num_asked += 1
        headers, lists = b"x-slo-ttft-ms: 0.01\r\n" * is_urgent, self.num_asked % 2 == 0
        client.ask(f"tale {self.num_asked}", headers, is_streamed=is_streamed, lists=lists)

    async def _connect(self):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect(("127.0.0.1", self.gateway.listener.port))
        made.setblocking(False)
        _, client = await asyncio.get_running_loop().create_connection(Client, sock=made)
        self.clients.append(client)
        return client

    @rule(which=st.integers(0, 100), kind=st.sampled_from(list(PIECES)), half=st.sampled_from([False, False, True]),
          hurries=st.booleans())  # fmt: skip
    def say(self, which, kind, half, hurries):
        """An engine goes on with a stream, or answers what is none."""
        for job in _one(self._jobs(), which):
            self.hurries = hurries
            self.do(_act(job.say, PIECES[kind], half=half) if job.is_streamed else _act(job.answer, 200, WHOLE))

    @rule(which=st.integers(0, 100))
    def go_past(self, which):
        """Tokens come one by one, until the stream is lent to the relay or plainly will not be."""
        for job in _one(self._streams(), which):
            self.do(self._go_past(job))

    async def _go_past(self, job):
        relay = self._relay(job.prompt)
        for _ in range(20):
            if relay is None or relay._call is None or self._is_lent(relay):
                break
            job.say([TOKEN])
            await self._settle()
        self.num_lent += relay is not None and self._is_lent(relay)

    @rule(which=st.integers(0, 100), num_together=st.sampled_from([1, 20]))
    def flood(self, which, num_together):
        """An engine says more than its client takes, until the gateway leaves it unread."""
        unread = {client.prompt for client in self.clients if client.is_slow}
        for job in _one([job for job in self._streams() if job.prompt in unread], which):
            self.do(self._flood(job, num_together))

    async def _flood(self, job, num_together):
        relay = self._relay(job.prompt)
        if relay is None or relay.passage.is_relegated:  # which is taken back whenever others need its instance
            return
        payloads = [LARGE if num_together > 1 else MIDDLING] * num_together
        for _ in range(FLOOD_BYTES // (num_together * len(payloads[0]))):
            assert relay._call is not None, "it was cut because its client is slow"
            if relay._call.is_paused:
                return
            job.say(payloads)
            await asyncio.sleep(0)
        raise AssertionError("everything was taken, and nobody read it")

    @rule(which=st.integers(0, 100), is_good=st.sampled_from([True, True, False]), hurries=st.booleans())
    def finish(self, which, is_good, hurries):
        """An engine ends an answer: well, or with an error."""
        for job in _one(self._jobs(), which):
            self.hurries = hurries
            self.do(_act(self._finish, job, is_good))

    def _finish(self, job, is_good):
        if not job.is_streamed:
            job.answer(200 if is_good else 500, WHOLE if is_good else b'{"error":{}}')
            return
        if is_good:
            self.finished.add(job.prompt)
        job.finish([STOP, DONE] if is_good else [NO_TOKENS["an error"], DONE])

    @rule(which=st.integers(0, 100), status=st.sampled_from(BAD))
    def refuse(self, which, status):
        """An engine answers with an error status."""
        for job in _one([job for job in self._jobs() if not job.has_head], which):
            self.do(_act(job.answer, status, b'{"error":{}}'))

    @rule(which=st.integers(0, 100), resets=st.booleans(), hurries=st.booleans())
    def die(self, which, resets, hurries):
        """An engine loses a connection, whatever it was about to say."""
        for job in _one(self._jobs(), which):
            self.hurries = hurries
            self.do(_act(job.die, resets=resets))

    @rule(which=st.integers(0, 100), resets=st.booleans(), hurries=st.booleans())
    def leave(self, which, resets, hurries):
        """A client leaves, whatever its request is doing."""
        for client in _one(self._asking(), which):
            self.hurries = hurries
            self.do(_act(client.leave, resets=resets))

    @rule(which=st.integers(0, 100), is_slow=st.booleans())
    def slow(self, which, is_slow):
        """A client reads nothing for a while, or reads on."""
        for client in _one(self._asking(), which):
            self.do(_act(client.read, is_slow=is_slow))

    @rule(
        which=st.integers(0, 100), acts=st.lists(st.sampled_from(ACTS), min_size=2, max_size=4), hurries=st.booleans()
    )
    def together(self, which, acts, hurries):
        """Several things happen to one stream in the same turn of the loop; rather to one that is lent."""
        jobs = self._streams()
        lent = [job for job in jobs if (relay := self._relay(job.prompt)) is not None and self._is_lent(relay)]
        for job in _one(lent or jobs, which):
            self.hurries = hurries
            client = next(client for client in self.clients if client.prompt == job.prompt)
            self.do(_act(self._together, job, client, acts))

    def _together(self, job, client, acts):
        for act in acts:
            if act in ("slow", "not slow"):
                client.read(is_slow=act == "slow")
            elif act.startswith("leaving"):
                client.leave(resets=act != "leaving")
            elif job.is_busy and act in ("tokens", "half a token"):
                job.say([TOKEN] * 3, half=act != "tokens")
            elif job.is_busy and act == "the end":
                self._finish(job, is_good=True)
            elif job.is_busy:
                job.die(resets=act == "a reset")

    @rule(which=st.integers(0, 100))
    def expire(self, which):
        """A request has taken as long as any may."""
        for relay in _one(self._relays(), which):
            self.do(_act(self.model._expire, relay))

    @rule(which=st.integers(0, 100))
    def fall_silent(self, which):
        """An engine has said nothing for too long, by the clock of whoever reads it."""
        calls = [relay._call for relay in self._relays() if relay._call is not None]
        for call in _one([call for call in calls if call.bearer is not None and not call.is_paused], which):
            call.idle_timeout_s = -1.0
            self.do(_act(call.bearer._on_due))

    @rule(which=st.integers(0, NUM_ENGINES - 1), at_once=st.booleans())
    def swap(self, which, at_once):
        """An instance leaves, and comes again once it is gone."""
        self.do(_act(self._swap, self.engines[which].url, at_once))

    def _swap(self, url, at_once):
        known = self.model.instances.find(url)
        if known is None:
            joined = self.membership.join(EndpointConfig(url), POSTED)
            self.model.health.succeeded(joined.index)
        elif len(self.model.instances) == NUM_ENGINES:
            self.membership.leave(known, at_once=at_once)

    def _jobs(self):
        return [job for engine in self.engines for job in engine.jobs if job.is_busy and not job.transport.is_closing()]

    def _streams(self):
        return [job for job in self._jobs() if job.is_streamed]

    def _asking(self):
        return [client for client in self.clients if client.is_asking]

    def _relays(self):
        return [relay for relay in self.model.relays if relay is not None]

    def _relay(self, prompt):
        return next((relay for relay in self._relays() if _prompt(relay) == prompt), None)

    def _is_lent(self, relay):
        return any(detour.call is relay._call for detour in self.bypass._detours.values())

    async def _settle(self):
        """Wait until nothing moves any more."""
        seen, num_quiet = None, 0
        while num_quiet < 3:
            await asyncio.sleep(0.001)
            last, seen = seen, self._seen()
            num_quiet = num_quiet + 1 if seen == last else 0
        self.model.take_news()

    def _seen(self):
        for relay in self._relays():
            relay.settle()
        return (
            [(client.is_open, len(client.got)) for client in self.clients],
            [(job.is_busy, job.transport.get_write_buffer_size()) for engine in self.engines for job in engine.jobs],
            [(relay.passage.tokens, relay.at.instance) for relay in self._relays()],
            len(self.bypass), self.gateway.listener.num_connections, len(self.told),
        )  # fmt: skip

    @invariant()
    def both_sides_agree(self):
        """G13: whatever is under way is so for the client, for the gateway and for the engine, token by token."""
        if self.hurries:  # more happens before anybody has looked
            self.hurries = False
            return
        self.do(self._comes_true(self.check))

    async def _comes_true(self, check):
        """Check when nothing moves any more; what fails may still be on its way, as busy machines pause, too."""
        await self._settle()
        for _ in range(LOOKS):
            try:
                check()
            except AssertionError:
                await asyncio.sleep(LOOK_S)
                await self._settle()
            else:
                return
        check()

    def check(self):
        """Look at everything, when nothing moves."""
        assert self.told == []
        relays = {_prompt(relay): relay for relay in self._relays()}
        unread = {client.prompt for client in self.clients if client.is_slow}
        waiting = len(self.gateway.places._line)
        assert len(relays) == self.gateway.places.num_taken == self.model.num_in_flight, "G1: a place is lost"
        asking = {client.prompt for client in self._asking()}
        assert set(relays) <= asking | unread, "G2: nobody waits for it"
        assert len((asking - unread) - set(relays)) <= waiting, "G2: nobody answers it"
        busy = [job.prompt for job in self._jobs()]
        assert len(set(busy)) == len(busy), "G3: sent twice"
        assert set(busy) <= set(relays), "G3: its engine works for nobody"
        sent = {prompt for prompt, relay in relays.items() if relay.at.instance is not None}
        assert sent - unread <= set(busy), "G3: believed at an engine that knows nothing of it"
        self._check_lent(relays)
        for job in self._jobs():
            if job.is_streamed and job.prompt not in unread:
                relays[job.prompt].settle()
                assert relays[job.prompt].passage.tokens == job.num_tokens, "G13: tokens"
        said = {prompt: b"".join(payloads) for engine in self.engines for prompt, payloads in engine.said.items()}
        for client in self.clients:
            if client.payload is not None and len({client.prompt in engine.said for engine in self.engines}) > 1:
                assert said[client.prompt].startswith(client.payload), "G13: bytes"
                is_whole = client.prompt in self.finished and client.is_open and not client.is_asking
                assert not is_whole or client.payload == said[client.prompt], "G13: bytes are missing"
        GatewayMachine.belief_is_the_sum_of_its_requests(self)

    _check_queues = GatewayMachine._check_queues

    def _check_lent(self, relays):
        """The relay has the streams whose connections have lent themselves, and no others."""
        calls = {id(relay._call): relay for relay in relays.values() if relay._call is not None}
        for source, detour in self.bypass._detours.items():
            call = detour.call
            assert id(call) in calls, "G13: lent by nobody"
            assert not call.is_over
            assert not call.is_paused
            assert call.bearer._borrower is detour, "G13: lent to somebody else"
            assert call.bearer.transport.get_extra_info("socket").fileno() == source, "G13: another socket"
        lent = [
            connection
            for origin in self.gateway.origins._open
            for connection in origin._connections
            if connection._borrower is not None
        ]
        assert len(lent) == len(self.bypass), "G13: lent, and nobody reads it"

    def teardown(self):
        """G7: everything ends, well or at once; nothing is left, no socket either."""
        if not hasattr(self, "runner"):
            return
        try:
            self.do(self._end())
        finally:
            self.close()
        assert _sockets() == self.sockets, "G7: sockets are open"

    def close(self):
        """Close the loop; again does nothing."""
        with warnings.catch_warnings():  # one that is an error would keep uvloop waiting for what it could not close
            warnings.simplefilter("ignore", ResourceWarning)
            self.runner.close()

    async def _end(self):
        await self._settle()
        if not self.ends_at_once:
            await self._end_well()
            await self._comes_true(self.check)
            assert not self._asking(), "G6: a client was never answered"
        else:
            await self.gateway.stop()
            await self._settle()
        await self._comes_true(self._check_zero)
        for client in self.clients:
            if client.is_open:
                client.leave(resets=False)
        await self.gateway.stop()
        await self._settle()
        assert self.gateway.listener.num_connections == 0, "G7"
        assert not any(engine.jobs for engine in self.engines), "G7: connections to engines"
        assert not any(client.is_open for client in self.clients), "G7: connections of clients"
        for engine in self.engines:
            engine.server.close()
            await engine.server.wait_closed()
        assert self.told == []

    async def _end_well(self):
        for client in self.clients:
            client.read(is_slow=False)
        for _ in range(200):
            for engine in self.engines:
                if self.model.instances.find(engine.url) is None:
                    self._swap(engine.url, at_once=False)
            for job in self._jobs():
                self._finish(job, is_good=True)
            await self._settle()
            if not self._asking():
                break
        for instance in self.model.instances:
            assert instance.origin.num_connections == instance.origin.num_idle, "G7: a connection carries nothing"

    def _check_zero(self):
        model, places = self.model, self.gateway.places
        model.take_news()
        assert model.decider.num_free == NUM_PLACES, "G7"
        assert model.num_in_flight == places.num_taken == places.num_waiting == 0, "G7"
        assert not model._expiries, "G7"
        assert not model.fleet.pending_size.any(), "G7"
        for name in COUNTERS:
            assert not model.fleet.instances[name].any(), f"G7: {name} = {model.fleet.instances[name]}"
        assert not any(instance.running for instance in model.instances), "G7"
        assert len(self.bypass) == 0, "G7: streams that are lent"


async def _act(act, *args, **more):
    """Do something while the loop runs, and let it have a turn."""
    act(*args, **more)
    await asyncio.sleep(0)


def _one(among, which):
    """Return one of them in a list, or none where there is none."""
    return [among[which % len(among)]] if among else []


def _prompt(relay):
    return relay.passage.ask.body["prompt"]


def _close(transport, *, resets):
    if resets and not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.abort()
    else:
        transport.close()


def _unframed(body):
    """Return the payload of a chunked body's whole chunks, and whether that is all of it."""
    payload, at = bytearray(), 0
    while (line := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:line], 16)
        if len(body) < line + size + 4:
            break
        if size == 0:
            return bytes(payload), True
        payload += body[line + 2 : line + 2 + size]
        at = line + size + 4
    return bytes(payload), False


def _sockets():
    """Return how many sockets, pipes and what watches them are open."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the one that lists them
            continue
    return sum(not name.startswith("/") for name in names)


@pytest.fixture(autouse=True, scope="module")
def others_have_left():
    """Let what other tests have left behind be closed before sockets are counted."""
    gc.collect()


@pytest.mark.parametrize("ends_at_once", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_all_comes_to_zero_on_long_random_walks(seed, ends_at_once):
    """G13 after each of 150 steps, G7 at the end, with streams lent to the relay in each of them."""
    random = np.random.default_rng([seed, ends_at_once])

    def number(high=100):
        return int(random.integers(high))

    def truth(chance=0.5):
        return bool(random.random() < chance)

    def acts():
        return [ACTS[number(len(ACTS))] for _ in range(2 + number(3))]

    walk = RelayMachine()
    walk.start(ends_at_once)
    steps = [
        (lambda: walk.ask(truth(0.8), truth(), truth(0.2), 1 + number(3)), 1.0),
        (lambda: walk.say(number(), list(PIECES)[number(len(PIECES))], truth(0.2), truth()), 1.0),
        (lambda: walk.go_past(number()), 1.0),
        (lambda: walk.go_past(number()), 1.0),
        (lambda: walk.flood(number(), 1 + 19 * truth()), 1.0),
        (lambda: walk.together(number(), acts(), truth()), 1.0),
        (lambda: walk.finish(number(), truth(0.7), truth()), 0.5),
        (lambda: walk.refuse(number(), BAD[number(len(BAD))]), 0.3),
        (lambda: walk.die(number(), truth(), truth()), 0.3),
        (lambda: walk.leave(number(), truth(), truth()), 0.5),
        (lambda: walk.slow(number(), truth()), 0.7),
        (lambda: walk.expire(number()), 0.1),
        (lambda: walk.fall_silent(number()), 0.2),
        (lambda: walk.swap(number(NUM_ENGINES), truth()), 0.2),
    ]
    try:
        walk.ask(is_streamed=True, comes_again=False, is_urgent=False, copies=2)
        walk.go_past(0)
        for _ in range(150):
            step, weight = steps[number(len(steps))]
            if random.random() < weight:
                step()
                walk.both_sides_agree()
        walk.teardown()
    finally:
        walk.close()
    assert walk.num_lent, "no stream went past Python"


TestRelay = pytest.mark.slow(RelayMachine.TestCase)
TestRelay.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
