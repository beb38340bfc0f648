"""The openai Node client and the LiteLLM SDK before the gateway, each in its own process."""

from __future__ import annotations

import json

import orjson
import pytest
from bench_clients import HANG_S, HERE, needs, output_of, url_of
from environments import LITELLM, OPENAI_NODE
from gateway_bench import CHAT, COMPLETIONS, MODEL, Bench, chat, completion, run

from polyslo.wire.client import Origin

pytestmark = pytest.mark.slow


async def engines_answer(bench):
    """Return the texts of chat and completion that the engine itself gives."""
    direct = Origin(bench.engines[0].url)
    whole = [await bench.ask(path, make(8), origin=direct) for path, make in ((CHAT, chat), (COMPLETIONS, completion))]
    await direct.close()
    return whole[0].json["choices"][0]["message"]["content"], whole[1].json["choices"][0]["text"]


def watched(environment, program, script):
    """Return what a script saw, the engine's own texts, and how many requests were cancelled."""

    async def main():
        async with Bench(slo={"on_tighter": "refuse"}) as bench:
            texts = await engines_answer(bench)
            printed = await output_of(environment, program, HERE / script, url_of(bench), MODEL)
            await bench.settle()
            return orjson.loads(printed.splitlines()[-1]), texts, bench.gateway.boards[MODEL].totals["cancelled"]

    return run(main, hang_s=HANG_S)


@needs(OPENAI_NODE)
def test_the_node_client_is_at_home():
    """Texts, usage, ids, models; classes, codes and params of errors; what it leaves or times out is freed."""
    seen, (chat_text, text), num_cancelled = watched(OPENAI_NODE, "node", "openai_node.mjs")
    assert (seen["chat"]["text"], seen["completion"]) == (chat_text, text)
    assert seen["chat"]["id"].startswith("req-")
    assert seen["chatStream"]["text"] == chat_text
    assert seen["chatStream"]["usage"] == seen["chat"]["usage"]
    assert (seen["completionStream"]["text"], seen["completionStream"]["chunks"]) == (text, 9)
    assert (seen["models"], seen["model"], seen["tier"]) == ([MODEL], MODEL, "50ms")
    assert seen["unknownModel"] == {
        "name": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"
    }  # fmt: skip
    assert (seen["badSlo"]["name"], seen["badSlo"]["param"]) == ("BadRequestError", "x-llm-d-slo-ttft-ms")
    assert (seen["tooLong"]["name"], seen["tooLong"]["status"]) == ("BadRequestError", 400)
    assert (seen["infeasible"]["name"], seen["infeasible"]["code"]) == ("RateLimitError", "slo_infeasible")
    assert seen["timeout"]["name"] == "APIConnectionTimeoutError"
    assert num_cancelled == 2


@needs(LITELLM)
def test_litellm_is_at_home():
    """The same texts and usage, LiteLLM's own exceptions for errors; what it leaves or times out is freed."""
    seen, (chat_text, text), num_cancelled = watched(LITELLM, "python", "litellm_sdk.py")
    assert (seen["chat"], seen["chat_stream"]) == (chat_text, chat_text)
    assert (seen["completion"], seen["completion_stream"]) == (text, text)
    assert (seen["usage"], seen["stream_usage"]) == (8, 8)
    assert seen["unknown_model"] == {"name": "NotFoundError", "status": 404}
    assert seen["bad_slo"] == {"name": "BadRequestError", "status": 400}
    assert seen["infeasible"] == {"name": "RateLimitError", "status": 429}
    assert seen["timeout"]["name"] == "Timeout"
    assert (seen["left"], num_cancelled) == ("chat.completion.chunk", 2), json.dumps(seen)
