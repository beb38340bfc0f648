"""What SGLang really answered (`tests/real_engines/record_sglang.py`), as all that reads engines' answers takes it."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import orjson
import pytest
from gateway.test_token_pipe import framed, told_by

from polyslo.gateway.belief.count_kinds import EVENTS, STATED
from polyslo.gateway.belief.engine_metrics import EngineLoad, read_load
from polyslo.gateway.belief.stream_tokens import TokenCounter
from polyslo.gateway.relays.broken import is_broken
from polyslo.gateway.relays.one_stream import OneStream
from polyslo.gateway.requests.body import CHAT, COMPLETIONS, read_body
from polyslo.load.tokens import TokenCounter as LoadCounter
from polyslo.load.tokens import error_text
from polyslo.measure.endpoint import Endpoint

RECORDED = orjson.loads(Path(__file__).with_name("sglang_recorded.json").read_bytes())
EXCHANGES = [each | {"path": each["path"].encode()} for each in RECORDED["exchanges"]]
PAGES = RECORDED["pages"]
STREAMS = [each for each in EXCHANGES if each["status"] == 200 and each["asked"].get("stream")]
REFUSED = [each for each in EXCHANGES if each["status"] != 200]


def _name(exchange):
    more = {name: exchange["asked"][name] for name in ("stream_options", "return_token_ids", "logit_bias")
            if name in exchange["asked"]}  # fmt: skip
    return f"{exchange['path'].decode().split('/')[2]}-{'-'.join(more)}"


def _ask(exchange):
    return read_body(exchange["path"], orjson.dumps(exchange["asked"]))


def _events(body):
    return [orjson.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]


def _made(exchange):
    """Return how many tokens were made: as the usage states it, else as asked for."""
    stated = [event["usage"]["completion_tokens"] for event in _events(exchange["body"]) if event.get("usage")]
    return stated[-1] if stated else exchange["asked"]["max_tokens"]


@pytest.mark.parametrize("exchange", STREAMS, ids=_name)
def test_tokens_are_counted_as_far_as_events_tell(exchange):
    """Exactly, where they state or list them; else one an event, but for a chat's opening and its closing."""
    data, made = exchange["body"].encode(), _made(exchange)
    counter = TokenCounter(_ask(exchange))
    choices = [choice for event in _events(exchange["body"]) for choice in event["choices"]]
    said = [choice for choice in choices if choice.get("delta", {"content": True}).get("content")]
    expected = made if counter.kind != EVENTS else len(said) + (choices[-1]["finish_reason"] == "stop")
    assert made / 2 < expected <= made  # an event has two tokens now and then
    assert counter.feed(data) == expected
    cut = TokenCounter(_ask(exchange))
    assert sum(cut.feed(data[k : k + 1]) for k in range(len(data))) == expected


@pytest.mark.parametrize("exchange", STREAMS, ids=_name)
def test_the_load_generator_counts_them_too(exchange):
    """By usage where each event was asked for it, opening and closing apart; else by events, trued up at the end."""
    by_usage = exchange["asked"].get("stream_options", {}).get("continuous_usage_stats", False)
    counter = LoadCounter(by_usage=by_usage)
    counter.feed(exchange["body"].encode())
    assert (counter.is_done, counter.error, counter.counted_by_events) == (True, None, not by_usage)
    has_usage = "stream_options" in exchange["asked"]
    assert counter.usage_tokens == (_made(exchange) if has_usage else None)
    assert counter.num_tokens == _made(exchange) if by_usage else counter.num_tokens > 0


@pytest.mark.parametrize("exchange", STREAMS, ids=_name)
def test_compiled_code_counts_as_python_does(exchange):
    """Each event an HTTP chunk, as SGLang sends them: what compiled code takes for tokens, Python counts the same."""
    first, *events = [event + b"\n\n" for event in exchange["body"].encode().split(b"\n\n") if event]
    python = TokenCounter(_ask(exchange))
    stated = python.feed(first)  # the first is always Python's
    num_compiled = 0
    for event in events:
        tokens = python.feed(event)
        num_events, told = told_by(framed(event), python.kind)
        if num_events:
            assert tokens == (told - stated if python.kind == STATED else told)
            num_compiled += 1
        stated += tokens
    assert num_compiled >= 3


def test_recorded_are_all_ways_of_streaming():
    """So that the tests above are of something."""
    assert len(STREAMS) == 4 + 3 + 1  # chats may not list ids in streams
    assert {each["path"] for each in STREAMS} == {COMPLETIONS, CHAT}
    assert sum(_made(each) == 8 for each in STREAMS) == 7


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_a_watched_stream_says_what_was_said(path):
    """All of its text and counts are taken in; it could go on elsewhere where all bytes so far were text."""
    whole = next(each for each in EXCHANGES if each["path"] == path and not each["asked"].get("stream"))
    choice = orjson.loads(whole["body"])["choices"][0]
    stated = next(
        each for each in STREAMS if each["path"] == path and '"continuous' in str(orjson.dumps(each["asked"]))
    )
    stream = OneStream(_ask(stated))
    events = stated["body"].split("\n\n")
    stream.feed("\n\n".join([*events[:6], ""]).encode())  # in mid-answer
    assert stream.said.can_go_on == ("\ufffd" not in stream.said.text)
    stream.feed("\n\n".join(events[6:]).encode())
    assert stream.said.text == (choice["text"] if path == COMPLETIONS else choice["message"]["content"])
    assert (stream.said.num_tokens, stream.said.can_go_on) == (8, False)


@pytest.mark.parametrize("exchange", REFUSED, ids=lambda exchange: exchange["path"])
def test_refusals_are_understood(exchange):
    """Its errors are no OpenAI ones; what they say is found."""
    assert exchange["status"] == 400
    said = error_text(exchange["body"].encode())
    assert said.startswith(("Requested token count exceeds", "return_token_ids is not supported with streaming"))
    assert is_broken(f"data: {exchange['body']}\n\n".encode(), is_beginning=True)


def test_its_load_is_read():
    """Idle, and with its capacity."""
    assert read_load(PAGES["/metrics"]["body"].encode()) == EngineLoad(0, 0, 0.0, 16_384)


class _Pages(BaseHTTPRequestHandler):
    """Answers as SGLang did, without what its server is `without`."""

    def do_GET(self):
        told = None if self.path in self.server.without else PAGES.get(self.path)
        body = b"" if told is None else told["body"].encode()
        self.send_response(404 if told is None else told["status"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("without", [(), ("/metrics",)])
def test_a_measurement_learns_what_it_measures(without):
    """Model, context, engine and version; the capacity also of an engine whose metrics are off."""

    async def learn(url):
        endpoint = Endpoint(url)
        facts = await endpoint.ask(None)
        await endpoint.close()
        return facts

    with HTTPServer(("127.0.0.1", 0), _Pages) as server:
        server.without = without
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            facts = asyncio.run(learn(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
    assert (facts.model, facts.max_context_tokens, facts.kv_capacity_tokens) == ("nano", 16_384, 16_384)
    assert (facts.engine, facts.version) == ("sglang", RECORDED["version"])
