"""The openai Python client before the gateway: what it parses, what it raises, what it repeats and what it leaves."""

from __future__ import annotations

import asyncio

import pytest
from gateway_bench import MODEL, Bench, run

from polyslo.gateway.requests.keys import hash_of

openai = pytest.importorskip("openai", reason="the openai Python client is not installed: make setup")

MESSAGES = [{"role": "user", "content": "once upon a time"}]
EXACT = {"ignore_eos": True, "vllm_xargs": {"emulate_output_tokens": 8}}
ENDLESS = {"ignore_eos": True, "vllm_xargs": {"emulate_output_tokens": 100_000}}
LONG = 100_000


def client_of(bench, *, url=None, **options):
    """Return a client of the gateway, or of an engine itself."""
    base = url or f"http://127.0.0.1:{bench.gateway.listener.port}"
    return openai.AsyncOpenAI(base_url=f"{base}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 9.0} | options)


def with_client(use, *, num_engines=1, client_options=None, **tables):
    """Run `use(client, bench)` before a gateway; afterwards nothing of a request is left anywhere."""

    async def main():
        async with Bench(num_engines, **tables) as bench:
            async with client_of(bench, **(client_options or {})) as client:
                await use(client, bench)
            await bench.settle()

    run(main)


async def told(call):
    """Return the API error that a call ends with."""
    with pytest.raises(openai.APIStatusError) as caught:
        await call
    return caught.value


def chat(client, **more):
    """Ask for a chat of eight tokens."""
    return client.chat.completions.create(
        **{"model": MODEL, "messages": MESSAGES, "max_tokens": 8, "extra_body": EXACT} | more
    )


def completion(client, **more):
    """Ask for a completion of eight tokens."""
    return client.completions.create(
        **{"model": MODEL, "prompt": "once upon a time", "max_tokens": 8, "extra_body": EXACT} | more
    )


def test_whole_answers_are_the_engines_own():
    """Chat and completion have the text, the finish reason and the usage that the engine itself gives."""

    async def use(client, bench):
        async with client_of(bench, url=bench.engines[0].url) as direct:
            ours, own = await chat(client), await chat(direct)
            assert ours.choices[0].message.content == own.choices[0].message.content
            assert ours.choices[0].message.role == "assistant"
            assert ours.usage == own.usage
            assert (ours.usage.completion_tokens, ours.choices[0].finish_reason) == (8, "length")
            ours, own = await completion(client), await completion(direct)
            assert ours.choices[0].text == own.choices[0].text
            assert ours.usage == own.usage

    with_client(use)


def test_streams_come_token_by_token_with_usage_at_the_end():
    """Deltas join to the whole answer's text; with include_usage the last chunk has no choice and the usage."""

    async def use(client, bench):
        whole = await chat(client)
        chunks = [c async for c in await chat(client, stream=True, stream_options={"include_usage": True})]
        assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "length"
        assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
        whole = await completion(client)
        chunks = [c async for c in await completion(client, stream=True)]
        assert len(chunks) == 8
        assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text

    with_client(use)


def test_usage_can_come_with_every_chunk():
    """`continuous_usage_stats`, as vLLM has it, counts the tokens so far."""

    async def use(client, bench):
        options = {"include_usage": True, "continuous_usage_stats": True}
        chunks = [c async for c in await completion(client, stream=True, stream_options=options)]
        assert [c.usage.completion_tokens for c in chunks] == [*range(1, 9), 8]

    with_client(use)


def test_the_stream_helper_assembles_the_answer():
    """The client's own accumulation of a chat ends with the text and finish reason of the whole answer."""
    stops = {"vllm_xargs": {"emulate_output_tokens": 8}}

    async def use(client, bench):
        options = {"model": MODEL, "messages": MESSAGES, "max_tokens": 9, "extra_body": stops}
        whole = await client.chat.completions.create(**options)
        async with client.chat.completions.stream(**options) as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_completion()
        assert final.choices[0].message.content == whole.choices[0].message.content
        assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"

    with_client(use)


def test_models_are_listed_and_found():
    """`models.list` has the model and `models.retrieve` its card; an unknown one is NotFoundError."""

    async def use(client, bench):
        assert [model.id async for model in client.models.list()] == [MODEL]
        card = await client.models.retrieve(MODEL)
        assert (card.id, card.object) == (MODEL, "model")
        assert isinstance(await told(client.models.retrieve("other")), openai.NotFoundError)

    with_client(use)


def test_errors_become_the_exceptions_that_they_are():
    """400 of the gateway and of the engine, 404 of models and routes: class, code, param and message are kept."""

    async def use(client, bench):
        error = await told(chat(client, model="other"))
        assert isinstance(error, openai.NotFoundError)
        assert (error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error")
        assert "other" in error.message
        error = await told(chat(client, extra_headers={"x-llm-d-slo-ttft-ms": "soon"}))
        assert isinstance(error, openai.BadRequestError)
        assert error.param == "x-llm-d-slo-ttft-ms"
        error = await told(chat(client, messages=[]))
        assert (type(error), error.param) == (openai.BadRequestError, "messages")
        error = await told(completion(client, max_tokens=10_000_000))
        assert isinstance(error, openai.BadRequestError)
        assert "maximum context length" in error.message
        assert isinstance(await told(client.embeddings.create(model=MODEL, input="x")), openai.NotFoundError)

    with_client(use)


def test_keys_are_sent_and_their_refusals_told_apart():
    """The api_key opens the gateway; a wrong one is AuthenticationError, a class it may not name PermissionDenied."""
    keys = {"alice": {"hash": hash_of(b"open sesame"), "classes": ["chat"]}}
    classes = {"chat": {"ttft_ms": 3_600_000, "tpot_ms": 50}, "voice": {"ttft_ms": 3_600_000, "tpot_ms": 30}}

    async def use(client, bench):
        assert (await chat(client)).usage.completion_tokens == 8
        voice = {"x-llm-d-inference-objective": "voice"}
        assert isinstance(await told(chat(client, extra_headers=voice)), openai.PermissionDeniedError)
        async with client_of(bench, api_key="wrong") as stranger:
            assert isinstance(await told(chat(stranger)), openai.AuthenticationError)

    with_client(use, keys=keys, classes=classes, client_options={"api_key": "open sesame"})


def test_a_full_gateway_is_asked_again_when_it_says(monkeypatch):
    """The client waits what Retry-After says after a 429, and its second try is served."""
    waits_s = []

    async def use(client, bench):
        stream = await completion(client, stream=True, max_tokens=LONG, extra_body=ENDLESS)
        await anext(aiter(stream))

        async def make_room(seconds):
            waits_s.append(seconds)
            await stream.close()
            await bench.settle()

        monkeypatch.setattr("openai._base_client.anyio.sleep", make_room)
        answer = await completion(client.with_options(max_retries=1))
        assert answer.usage.completion_tokens == 8
        assert waits_s == [1.0]

    with_client(use, server={"max_concurrent_requests": 1, "queue_size": 0})


def test_what_no_waiting_mends_is_not_asked_again(monkeypatch):
    """A 429 for an SLO that the fleet can't keep says x-should-retry: false, which the client obeys."""

    async def never(seconds):
        raise AssertionError("asked again")

    async def use(client, bench):
        monkeypatch.setattr("openai._base_client.anyio.sleep", never)
        error = await told(chat(client, extra_headers={"x-llm-d-slo-tpot-ms": "20"}))
        assert (type(error), error.code) == (openai.RateLimitError, "slo_infeasible")

    with_client(use, slo={"on_tighter": "refuse"}, client_options={"max_retries": 3})


def test_no_instance_is_a_server_error():
    """503 with Retry-After is InternalServerError, which the client retries by itself when it may."""

    async def use(client, bench):
        bench.model.close_instance(0, 6)
        error = await told(chat(client))
        assert (type(error), error.status_code, error.code) == (openai.InternalServerError, 503, "no_instance")
        assert error.response.headers["retry-after"] == "1"

    with_client(use)


def test_headers_come_and_go():
    """Receipts and the request id are read from the raw response; SLOs may come as headers or in the body."""

    async def use(client, bench):
        headers = {"x-polyslo-explain": "1", "x-request-id": "mine", "x-llm-d-slo-tpot-ms": "20"}
        raw = await client.chat.completions.with_raw_response.create(
            model=MODEL, messages=MESSAGES, max_tokens=8, extra_body=EXACT, extra_headers=headers
        )
        assert raw.headers["x-polyslo-tier"] == "50ms"
        assert raw.headers["x-polyslo-slo-clamped"] == "tpot_ms=20->50"
        assert raw.request_id == raw.parse()._request_id == "mine"
        body = {**EXACT, "slo": {"ttft_ms": 1000, "tpot_ms": "soon"}}
        assert (await told(chat(client, extra_body=body))).param == "slo.tpot_ms"

    with_client(use)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_client_that_times_out_frees_its_engine(streamed):
    """APITimeoutError; the engine's work is aborted and nothing is left behind."""

    async def use(client, bench):
        hasty = client.with_options(timeout=0.2)
        with pytest.raises(openai.APITimeoutError):
            await completion(hasty, stream=streamed, max_tokens=LONG, extra_body=ENDLESS)

    with_client(use, speed=0.01)


def test_leaving_a_stream_frees_its_engine():
    """Closing a stream, or cancelling the task that reads it, aborts the request at the engine."""

    async def use(client, bench):
        stream = await chat(client, stream=True, max_tokens=LONG, extra_body=ENDLESS)
        await anext(aiter(stream))
        await stream.close()
        await bench.settle()
        began = asyncio.Event()

        async def read():
            async for _ in await chat(client, stream=True, max_tokens=LONG, extra_body=ENDLESS):
                began.set()

        task = asyncio.create_task(read())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bench.settle()
        assert bench.gateway.boards[MODEL].totals["cancelled"] == 2

    with_client(use)


def test_a_stream_whose_engine_dies_is_an_error():
    """The engine's error event is an APIError, a connection that is cut an APIConnectionError: never a short answer."""

    async def use(client, bench):
        async def broken(fault):
            stream = await chat(client, stream=True, max_tokens=LONG, extra_body=ENDLESS)
            chunks = aiter(stream)
            await anext(chunks)
            getattr(bench.engines[0].api, fault)()
            async for _ in chunks:
                pass

        with pytest.raises(openai.APIError, match="EngineCore"):
            await broken("fail")
        bench.engines[0].engine.crash()
        with pytest.raises(openai.APIConnectionError):
            await broken("cut")

    with_client(use)
