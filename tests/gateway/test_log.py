"""The log: one JSON line a request with documented fields; and nowhere, in no place that tells, a key or a prompt."""

from __future__ import annotations

import io
import logging
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import orjson
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, chat, completion, run

from polyslo.engines.emulated_engine import EngineSettings
from polyslo.gateway.observability.log_lines import JsonLines, LineWriter
from polyslo.gateway.requests.keys import hash_of

DOCS = (Path(__file__).parents[2] / "docs" / "observability.md").read_text(encoding="utf-8")
KEY, ENGINE_KEY = "polyslo-planted-client-key", "planted-engine-key"
PROMPT = "planted prompt of the user"
ANYWHERE = re.compile(rb"planted", re.IGNORECASE)


@contextmanager
def log_lines(level="INFO"):
    """Write the gateway's log into memory, as `polyslo serve` writes it to stderr."""
    stream, logger = io.StringIO(), logging.getLogger("polyslo")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield stream
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def lines_of(stream):
    """Return what was logged, decoded."""
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_each_request_is_one_line():
    """With its id, SLO, where it went, what was foreseen and what came."""

    async def main():
        settings = EngineSettings(dynamic_chunking=True)
        async with Bench(settings=settings, model={"dynamic_chunking": True}) as bench:
            with log_lines() as stream:
                headers = [(b"x-request-id", b"mine"), (b"x-llm-d-inference-fairness-id", b"acme")]
                await bench.ask(COMPLETIONS, completion(8, stream=True), headers)
                await bench.ask(COMPLETIONS, completion(3))
                await bench.settle()
            streamed, whole = lines_of(stream)
            assert (streamed["event"], streamed["level"], streamed["request_id"]) == ("request", "info", "mine")
            assert (streamed["outcome"], streamed["model"], streamed["slo_tier"]) == ("attained", MODEL, "50ms")
            assert (streamed["tenant"], streamed["instance"], streamed["tries"]) == ("acme", "e0", 1)
            assert (streamed["output_tokens"], streamed["is_streamed"], streamed["tpot_slo_ms"]) == (8, True, 50)
            assert 0 <= streamed["queue_ms"] <= streamed["ttft_ms"] <= streamed["duration_ms"]
            assert 0 < streamed["predicted_tpot_ms"] <= 50
            assert streamed["predicted_ttft_ms"] > 0
            assert whole["output_tokens"] == 3
            assert "ttft_ms" not in whole  # its first token was not seen
            assert "tenant" not in whole

    run(main)


def test_who_is_turned_away_has_a_line_too():
    """With why, and the client's own name for it: no key, bad JSON, a model that is not there."""

    async def main():
        async with Bench(keys={"alice": {"hash": hash_of(KEY.encode())}}) as bench:
            with log_lines() as stream:
                headers = [(b"authorization", f"Bearer {KEY}".encode())]
                await bench.ask(COMPLETIONS, completion(3), [(b"x-request-id", b"mine")])
                await bench.ask(COMPLETIONS, b"{", headers)
                await bench.ask(CHAT, chat(3) | {"model": "other"}, headers)
                await bench.settle()
            told = lines_of(stream)
            assert {(line["event"], line["level"]) for line in told} == {("turned away", "info")}
            assert [line["reason"] for line in told] == ["unauthorized", "bad_request", "unknown_model"]
            assert [line["path"] for line in told] == ["/v1/completions"] * 2 + ["/v1/chat/completions"]
            assert [line.get("request_id") for line in told] == ["mine", None, None]
            assert set(told[0]) <= set(re.findall(r"`(\w+)`", DOCS.split("## Log")[1].split("\n## ")[0]))

    run(main)


def test_every_field_is_documented():
    """docs/observability.md names each field that a line may have."""

    async def main():
        keys = {"alice": {"hash": hash_of(KEY.encode()), "tenant": "acme"}}
        settings = EngineSettings(dynamic_chunking=True)
        async with Bench(settings=settings, keys=keys, model={"dynamic_chunking": True}) as bench:
            with log_lines() as stream:
                await bench.ask(COMPLETIONS, completion(8, stream=True), [(b"authorization", f"Bearer {KEY}".encode())])
                await bench.settle()
                bench.model.close_instance(0, 6)
            request, instance = lines_of(stream)
            section = DOCS.split("## Log")[1].split("\n## ")[0]
            assert set(request) | set(instance) <= set(re.findall(r"`(\w+)`", section))
            assert (instance["event"], instance["level"]) == ("instance", "warning")
            assert (instance["instance"], instance["state"]) == ("e0", "unhealthy")

    run(main)


def test_levels_are_obeyed():
    """At `warning` requests are not told; instances that fail are."""

    async def main():
        async with Bench() as bench:
            with log_lines("WARNING") as stream:
                await bench.ask(COMPLETIONS, completion(3))
                await bench.settle()
                assert stream.getvalue() == ""
                bench.model.close_instance(0, 6)
            assert len(lines_of(stream)) == 1

    run(main)


def test_a_line_is_json_whatever_is_logged():
    """Line ends, quotes, half a surrogate pair, an exception: one line each, and others' records too."""
    with log_lines() as stream:
        log = logging.getLogger("polyslo")
        log.info("request", extra={"told": {"request_id": 'a"\nb', "tenant": "\ud800"}})
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            logging.getLogger("polyslo.other").exception("what %s", "happened")
    first, second = lines_of(stream)
    assert (first["request_id"], first["tenant"]) == ('a"\nb', "?")
    assert (second["message"], second["logger"], second["level"]) == ("what happened", "polyslo.other", "error")
    assert "ValueError: broken\nin two" in second["exception"]


def test_no_key_and_no_prompt_is_told_anywhere(tmp_path, monkeypatch):
    """Not in the log, the metrics, the page's state and stories, what workers are told of, nor the journal."""
    monkeypatch.setenv("ENGINE_KEY", ENGINE_KEY)
    found = {}

    async def main():
        keys = {"alice": {"hash": hash_of(KEY.encode()), "tenant": "acme", "max_concurrent_requests": 100}}
        journal = tmp_path / "journal"
        async with Bench(keys=keys, journal={"file": str(journal)}) as bench:
            for instance in bench.model.instances:
                instance.api_key = ENGINE_KEY
            with log_lines("DEBUG") as stream:
                right = (b"authorization", f"Bearer {KEY}".encode())
                wrong = (b"authorization", b"Bearer polyslo-planted-wrong-key")
                await bench.ask(CHAT, chat(8, prompt=PROMPT, stream=True), [right, (b"x-request-id", b"one")])
                await bench.ask(COMPLETIONS, completion(8, prompt=PROMPT), [right, (b"x-request-id", b"two")])
                refused = await bench.ask(COMPLETIONS, completion(8, prompt=PROMPT), [wrong])
                malformed = await bench.ask(COMPLETIONS, b'{"model": "emulated", "prompt": "planted', [right])
                assert (refused.status, malformed.status) == (401, 400)
                await bench.settle()
                bench.model.close_instance(0, 6)
                for path in (b"/metrics", b"/state", b"/requests/one", b"/requests/two", b"/workers", b"/get_loads"):
                    reply = await bench.get(path)
                    assert reply.status == 200, path
                    found[path] = reply.body
            found["log"] = stream.getvalue().encode()
        assert bench.gateway.boards[MODEL].totals["requests"] == 2
        found["repr"] = repr((bench.gateway.config, bench.model.instances)).encode()
        found["journal"] = b"".join(file.read_bytes() for file in tmp_path.iterdir())

    run(main)
    assert len(found["log"].splitlines()) >= 3
    assert len(found["journal"]) > 100
    assert [name for name, told in found.items() if ANYWHERE.search(told)] == []


class Stalled(io.StringIO):
    """A stream whose reader takes nothing until it is let."""

    def __init__(self):
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text):
        """Wait for the reader."""
        self.is_read.wait(30.0)
        return super().write(text)


def test_who_reads_no_log_holds_nobody_up():
    """Of 100 lines the one being written and 10 that wait are kept, and then it is told how many were not."""
    stream = Stalled()
    writer = LineWriter(stream, max_lines=10)
    log = logging.Logger("polyslo")
    log.addHandler(writer)
    log.info("line %d", 0)
    while writer._lines:  # until the thread has it
        time.sleep(0.001)
    for k in range(1, 100):
        log.info("line %d", k)
    stream.is_read.set()
    while writer._lines:
        time.sleep(0.001)
    log.info("line 100")
    writer.close()
    told = [orjson.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert told[:11] == [f"line {k}" for k in range(11)]
    assert told[11:] == ["89 log lines were lost: stderr was not read as fast as they came", "line 100"]


def test_a_closed_log_is_not_the_end():
    """A stream that fails costs its lines, not the process."""
    stream = io.StringIO()
    writer = LineWriter(stream)
    stream.close()
    log = logging.Logger("polyslo")
    log.addHandler(writer)
    log.info("nobody hears this")
    writer.close()
    assert not writer._thread.is_alive()
