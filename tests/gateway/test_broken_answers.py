"""Engines that are stopped end answers as if all were well: that counts as their failure, not as an answer."""

from __future__ import annotations

import orjson
import pytest
from gateway_bench import COMPLETIONS, MODEL, Bench, completion, num_tokens, run

from polyslo.gateway.relays.broken import is_broken

PATIENT = {"interval_s": 3600.0, "failure_threshold": 3}
TOKEN = b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
ABORT = b'data: {"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"abort","stop_reason":null}]}\n\n'


@pytest.mark.parametrize(
    "ending",
    [
        ABORT,
        ABORT.replace(b'":"abort', b'": "abort'),
        b'data: {"error":{"message":"died","code":500}}\n\n',
        b'data:{ "error" : "died"}\r\n\r\n',
        b'data: {"object":"error","message":"died"}\n\n',
        b'event: error\ndata: {"message":"died"}\n\n',
    ],
)
def test_a_broken_end_is_seen(ending):
    """The finish reason `abort`, or an error, as engines write them; before [DONE] or as the last word."""
    assert is_broken(TOKEN * 3 + ending + DONE)
    assert is_broken(TOKEN + ending)
    assert is_broken(ending, is_beginning=True)


@pytest.mark.parametrize(
    "text",
    [
        '"finish_reason":"abort"',
        'data: {"error": 1}',
        '\ndata: {"error": 1}',
        "\nevent: error\n",
        '{"object":"error"}',
    ],
)
def test_what_a_model_says_is_never_taken_for_that(text):
    """Inside a JSON text quotes and line ends are escaped."""
    said = b'data: {"choices":[{"text":%b,"finish_reason":"stop"}],"error":null}\n\n' % orjson.dumps(text)
    assert not is_broken(said * 2 + DONE, is_beginning=True)


def test_a_stream_that_is_aborted_midway_is_a_failure():
    """vLLM says `abort` when it is stopped: the client sees it, the request failed, and so did its instance."""

    async def main():
        async with Bench(1, health={**PATIENT, "failure_threshold": 1}) as bench:
            reply = bench.send(COMPLETIONS, completion(100_000, stream=True))
            await reply.until(lambda reply: num_tokens(reply.body) > 3)
            await bench.engines[0].stop(0.2)
            await reply.over()
            assert b'"finish_reason":"abort"' in reply.body
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 1
            assert not bench.model.has_open_instance
            await bench.engines[0].start()

    run(main)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_request_that_is_aborted_before_its_first_token_goes_elsewhere(stream):
    """Its client gets one answer, whole, from another instance."""

    async def main():
        async with Bench(2, health=PATIENT) as bench:
            for engine in bench.engines:
                engine.engine.stall(3600.0 * 50)
            reply = bench.send(COMPLETIONS, completion(12, stream=stream), [(b"x-polyslo-explain", b"1")])
            await bench.until(lambda: any(engine.engine.num_residents for engine in bench.engines))
            first, other = sorted(bench.engines, key=lambda engine: -engine.engine.num_residents)
            other.engine.crash()  # which forgets the stall
            await first.stop(0.2)
            await reply.over()
            assert (reply.status, reply.failure) == (200, None)
            assert b"abort" not in reply.body
            assert num_tokens(reply.body) == 12 if stream else reply.json["usage"]["completion_tokens"] == 12
            assert reply.header(b"x-polyslo-instance") == b"e%d" % bench.engines.index(other)
            await bench.settle()
            assert bench.gateway.boards[MODEL].totals["failed"] == 0
            await first.start()

    run(main)
