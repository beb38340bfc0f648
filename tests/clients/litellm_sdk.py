"""The LiteLLM SDK against a gateway: python litellm_sdk.py URL MODEL; prints one JSON object of what it saw."""

from __future__ import annotations

import asyncio
import json
import sys

import litellm

URL, MODEL = f"{sys.argv[1]}/v1", sys.argv[2]
ROUTE = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": "none", "max_retries": 0, "num_retries": 0}
TEXT_ROUTE = {**ROUTE, "model": f"text-completion-openai/{MODEL}"}
MESSAGES = [{"role": "user", "content": "once upon a time"}]
EXACT = {"max_tokens": 8, "extra_body": {"ignore_eos": True, "vllm_xargs": {"emulate_output_tokens": 8}}}
ENDLESS = {"max_tokens": 100_000, "extra_body": {"ignore_eos": True, "vllm_xargs": {"emulate_output_tokens": 100_000}}}


def error(**more: object) -> dict[str, object] | None:
    """Return what a call is refused with."""
    try:
        litellm.completion(**{**ROUTE, "messages": MESSAGES, **EXACT, **more})
    except Exception as found:
        return {"name": type(found).__name__, "status": getattr(found, "status_code", None)}
    return None


async def leave() -> str:
    """Read one chunk of an endless stream, then leave."""
    stream = await litellm.acompletion(**ROUTE, messages=MESSAGES, stream=True, **ENDLESS)
    async for chunk in stream:
        await stream.aclose()
        return str(chunk.object)
    return ""


def main() -> None:
    """Ask for everything."""
    whole = litellm.completion(**ROUTE, messages=MESSAGES, **EXACT)
    chunks = list(
        litellm.completion(**ROUTE, messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **EXACT)
    )
    seen = {
        "chat": whole.choices[0].message.content,
        "usage": whole.usage.completion_tokens,
        "chat_stream": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
        "stream_usage": next(c.usage.completion_tokens for c in reversed(chunks) if getattr(c, "usage", None)),
        "completion": litellm.text_completion(**TEXT_ROUTE, prompt="once upon a time", **EXACT).choices[0].text,
        "completion_stream": "".join(
            c.choices[0].text or ""
            for c in litellm.text_completion(**TEXT_ROUTE, prompt="once upon a time", stream=True, **EXACT)
            if c.choices
        ),
        "unknown_model": error(model="openai/other"),
        "bad_slo": error(extra_headers={"x-llm-d-slo-ttft-ms": "soon"}),
        "infeasible": error(extra_headers={"x-llm-d-slo-tpot-ms": "20"}),
        "timeout": error(timeout=0.3, **ENDLESS),
        "left": asyncio.run(leave()),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
