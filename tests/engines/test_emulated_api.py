"""The routes of an emulated engine on virtual time: streams as vLLM writes them, errors, metrics."""

from __future__ import annotations

import orjson
import pytest

from polyslo.engines.emulated_api import EmulatedApi
from polyslo.engines.emulated_text import END_ID, text_of
from polyslo.engines.generation import ModelFacts
from polyslo.engines.output_lengths import OutputLengths

from .conftest import FakeExchange


@pytest.fixture
def api(make_engine):
    """An API over an engine for 40 requests and 20,000 tokens; `api.engine` is that engine."""
    engine = make_engine(kv_capacity_tokens=20_000, max_requests=40)
    facts = ModelFacts("tiny", engine.max_model_len, 4, OutputLengths.parse("50"), 0)
    api = EmulatedApi(engine, facts)
    api.engine = engine
    return api


@pytest.fixture
def post(api):
    """Return a function that sends a request; its keywords are the body."""

    def send(path=b"/v1/completions", **body):
        if path != b"/v1/chat/completions":
            body.setdefault("prompt", [1, 2, 3])
        exchange = FakeExchange(b"POST", path, orjson.dumps(body), [(b"x-request-id", b"r1")])
        api.handle(exchange)
        return exchange

    return send


def events_of(exchange):
    """The JSON of each event of a stream, which must end with `[DONE]`."""
    *events, done, rest = exchange.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert exchange.is_ended
    return [orjson.loads(event.removeprefix("data: ")) for event in events]


def test_a_completion_is_streamed_token_by_token(post, clock):
    """Each chunk has one word; the last one has the reason too; ids and names are those of the request."""
    exchange = post(stream=True, max_tokens=5, ignore_eos=True)
    assert exchange.status == 200
    assert exchange.pieces == []
    clock.run()
    events = events_of(exchange)
    assert len(events) == len(exchange.pieces) == 5
    assert [e["choices"][0]["finish_reason"] for e in events] == [None] * 4 + ["length"]
    assert all(len(e["choices"][0]["text"]) == 5 for e in events)
    assert {(e["id"], e["object"], e["model"]) for e in events} == {("cmpl-r1", "text_completion", "tiny")}
    assert "usage" not in events[0]


def test_a_chat_begins_with_its_role(post, clock):
    """A chat's first event is the role, then come the words; ids of prompt and output when asked for."""
    messages = [{"role": "user", "content": "hello"}]
    exchange = post(b"/v1/chat/completions", messages=messages, stream=True, max_tokens=200, return_token_ids=True)
    clock.run()
    first, *events = events_of(exchange)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(first["prompt_token_ids"]) == 6
    assert len(events) == 50
    assert all(len(e["choices"][0]["token_ids"]) == 1 for e in events)
    assert events[-1]["choices"][0]["delta"] == {"content": ""}  # the token that ends an output has no text
    assert events[-1]["choices"][0]["token_ids"] == [END_ID]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert {e["object"] for e in events} == {"chat.completion.chunk"}


def test_usage_comes_as_asked_for(post, clock):
    """At the end with `include_usage`, in every chunk with `continuous_usage_stats`."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    exchange = post(stream=True, max_tokens=3, ignore_eos=True, stream_options=options)
    clock.run()
    *events, last = events_of(exchange)
    assert [e["usage"]["completion_tokens"] for e in events] == [1, 2, 3]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


def test_a_chat_states_that_its_opening_has_no_token(post, clock):
    """With `continuous_usage_stats` its first event has a count, too."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    exchange = post(b"/v1/chat/completions", messages=[{"role": "user", "content": "hello"}], stream=True,
                    max_tokens=2, stream_options=options)  # fmt: skip
    clock.run()
    assert [e["usage"]["completion_tokens"] for e in events_of(exchange)] == [0, 1, 2, 2]


@pytest.mark.parametrize(("made", "expected"), [(1, [1]), (9, [1, 8]), (10, [1, 8, 1]), (30, [1, 8, 8, 8, 5])])
def test_a_stream_interval_puts_several_tokens_into_a_chunk(api, clock, made, expected):
    """The first token goes out at once, the last with what is left over; text, ids and counts are those of all."""
    body = {"prompt": [1, 2, 3], "stream": True, "max_tokens": made, "ignore_eos": True, "return_token_ids": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True}}  # fmt: skip
    shown = []
    for interval in (1, 8):
        exchange = FakeExchange(b"POST", b"/v1/completions", orjson.dumps(body), [])
        EmulatedApi(api.engine, api._facts, stream_interval=interval).handle(exchange)
        clock.run()
        *events, _ = events_of(exchange)
        shown.append("".join(e["choices"][0]["text"] for e in events))
    sizes = [len(e["choices"][0]["token_ids"]) for e in events]
    assert sizes == expected
    assert [e["usage"]["completion_tokens"] for e in events] == [sum(sizes[: k + 1]) for k in range(len(sizes))]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("path", [b"/v1/completions", b"/v1/chat/completions"])
def test_a_whole_answer_is_the_stream_in_one_piece(post, clock, path):
    """Streamed or not, the same prompt has the same text."""
    body = {"messages": [{"role": "user", "content": "hello"}], "prompt": [4], "max_tokens": 60}
    streamed, whole = post(path, **body, stream=True), post(path, **body)
    clock.run()
    choices = [e["choices"][0] for e in events_of(streamed)]
    answer = orjson.loads(whole.text)
    text = answer["choices"][0].get("text") or answer["choices"][0]["message"]["content"]
    assert text == "".join(c.get("text") or c.get("delta", {}).get("content", "") for c in choices)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 50


def test_a_client_that_falls_behind_gets_its_tokens_in_one_chunk(post, clock):
    """Nothing is written while its connection is full; then all is, once, and the text is the same."""
    fluent, behind = (post(stream=True, max_tokens=40, ignore_eos=True, return_token_ids=True) for _ in range(2))
    clock.run_until(0.06)
    num_written = len(behind.pieces)
    assert num_written > 3
    behind.on_blocked(True)
    clock.run_until(0.1)
    assert len(behind.pieces) == num_written
    behind.on_blocked(False)
    clock.run()
    assert len(behind.pieces) < len(fluent.pieces)
    first, second = ([e["choices"][0] for e in events_of(x)] for x in (fluent, behind))
    assert "".join(c["text"] for c in first) == "".join(c["text"] for c in second)
    assert [i for c in first for i in c["token_ids"]] == [i for c in second for i in c["token_ids"]]


def test_a_stream_that_ends_while_its_client_is_behind_is_whole(post, clock):
    """The last token sends all that was held back."""
    exchange = post(stream=True, max_tokens=20, ignore_eos=True, stream_options={"include_usage": True})
    exchange.on_blocked(True)
    clock.run()
    chunk, usage = events_of(exchange)
    assert len(chunk["choices"][0]["text"]) == 100
    assert usage["usage"]["completion_tokens"] == 20


def test_a_stream_can_be_resumed_elsewhere(post, clock):
    """Prompt and ids so far, sent as a prompt, go on with the same words."""
    whole = post(max_tokens=30, ignore_eos=True, return_token_ids=True)
    clock.run()
    ids = orjson.loads(whole.text)["choices"][0]["token_ids"]
    rest = post(prompt=[1, 2, 3, *ids[:12]], max_tokens=18, ignore_eos=True)
    clock.run()
    assert orjson.loads(rest.text)["choices"][0]["text"].encode() == text_of(ids[12:])


def test_a_client_that_leaves_frees_its_place(api, post, clock):
    """Its request leaves the engine at once and counts as nothing."""
    exchange = post(stream=True, max_tokens=5000, ignore_eos=True)
    clock.run_until(0.1)
    assert api.engine.kv_tokens > 3
    exchange.on_gone()
    assert (api.engine.kv_tokens, api.engine.num_residents) == (0, 0)
    clock.run()
    assert sum(api.stats.num_finished.values()) == 0


def test_the_end_of_the_server_is_an_abort(api, post, clock):
    """Streams and whole answers end properly, with reason `abort` and what there is."""
    streamed, whole = post(stream=True, max_tokens=5000, ignore_eos=True), post(max_tokens=5000, ignore_eos=True)
    clock.run_until(0.1)
    api.break_off()
    assert events_of(streamed)[-1]["choices"][0]["finish_reason"] == "abort"
    assert orjson.loads(whole.text)["choices"][0]["finish_reason"] == "abort"
    assert api.stats.num_finished["abort"] == 2
    assert api.engine.num_residents == 0


def test_the_death_of_the_engine_looks_like_vllms(api, post, clock):
    """A stream ends with an error event and then `[DONE]` all the same; a whole answer is a 500."""
    streamed, whole = post(stream=True, max_tokens=5000, ignore_eos=True), post(max_tokens=5000, ignore_eos=True)
    clock.run_until(0.1)
    api.fail()
    assert events_of(streamed)[-1]["error"]["code"] == 500
    assert whole.status == 500
    clock.run()
    assert streamed.text.endswith("[DONE]\n\n")


def test_a_full_engine_answers_503(post):
    """More requests than it may hold are refused."""
    assert {post(stream=True).status for _ in range(40)} == {200}
    assert post(stream=True).status == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (b"GET", b"/health", 200), (b"HEAD", b"/health", 200), (b"GET", b"/ping", 200), (b"GET", b"/version", 200),
        (b"GET", b"/v1/models", 200), (b"GET", b"/metrics", 200), (b"GET", b"/v1/completions", 405),
        (b"POST", b"/metrics", 405), (b"GET", b"/nothing", 404), (b"POST", b"/v1/completions", 400),
        (b"POST", b"/tokenize", 400), (b"POST", b"/faults", 404),
    ],
)  # fmt: skip
def test_routes_have_vllms_status(api, method, path, status):
    """Faults are not there unless allowed."""
    exchange = FakeExchange(method, path)
    api.handle(exchange)
    assert exchange.status == status


def test_metrics_tell_what_the_engine_does(api, post, clock):
    """vLLM's names, with the numbers of what runs, waits, was prefilled, and generated."""
    for _ in range(3):
        post(prompt=list(range(9000)), stream=True, max_tokens=40, ignore_eos=True)
    clock.run_until(0.4)
    (running, waiting, usage), _ = metrics_of(api)
    assert (running, waiting) == (2, 1)  # the memory holds two
    assert 0.9 <= usage < 0.91
    clock.run()
    counted, text = metrics_of(api)
    assert counted == [0, 0, 0]
    assert 'vllm:prompt_tokens_total{engine="0",model_name="tiny"} 27000\n' in text
    assert 'vllm:generation_tokens_total{engine="0",model_name="tiny"} 120\n' in text
    assert 'vllm:request_success_total{finished_reason="length",engine="0",model_name="tiny"} 3\n' in text
    assert 'kv_cache_size_tokens="20000",num_gpu_blocks="1250"' in text
    assert f'polyslo_emulated_lag_seconds_count{{model_name="tiny"}} {api.engine.num_iterations}\n' in text


def metrics_of(api):
    """Running, waiting and memory, and the whole text."""
    exchange = FakeExchange(b"GET", b"/metrics")
    api.handle(exchange)
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    lines = [line.rsplit(" ", 1) for line in exchange.text.splitlines() if not line.startswith("#")]
    return [float(v) for name in names for where, v in lines if where.startswith(f"vllm:{name}{{")], exchange.text


def test_tokenizing_agrees_with_the_usage(post, clock):
    """/tokenize gives the ids that a prompt is counted by."""
    tokens = orjson.loads(post(b"/tokenize", prompt="some text here").text)
    whole = post(prompt="some text here", max_tokens=1, return_token_ids=True)
    clock.run()
    answer = orjson.loads(whole.text)
    assert tokens["count"] == answer["usage"]["prompt_tokens"] == 4
    assert tokens["tokens"] == answer["choices"][0]["prompt_token_ids"]
