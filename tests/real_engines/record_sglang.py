"""Record what SGLang answers, for tests that run without it: `python tests/real_engines/record_sglang.py`.

Writes tests/gateway/sglang_recorded.json: what was asked and what came, bodies as they were. Of its metrics and of what
it says of itself, only what is read.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from sglang_environment import VERSION, sglang_environment
from sglang_fleet import sglang_fleet

FILE = Path(__file__).parents[1] / "gateway" / "sglang_recorded.json"
EXACT = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPTS: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"model": "nano", "prompt": "import this"},
    CHAT: {"model": "nano", "messages": [{"role": "user", "content": "import this"}]},
}
USAGE = {"stream_options": {"include_usage": True}}
STATED = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
LISTED = {"return_token_ids": True}
END_ID = 1  # of the token that ends an answer, in the tests' models
GAUGES = ("num_running_reqs", "num_queue_reqs", "token_usage", "max_total_num_tokens")
FACTS = ("version", "max_total_num_tokens")


def main() -> None:
    """Start an engine, ask, and write."""
    with (
        tempfile.TemporaryDirectory() as folder,
        sglang_fleet(sglang_environment(), "[server]\nport = 0\nmetrics_port = 0\n", Path(folder)) as fleet,
    ):
        url = fleet.engine
        exchanges = [_ask(url, path, asked) for path, asked in _questions()]
        pages = {path: _get(url, path) for path in ("/v1/models", "/version")}
        pages["/metrics"] = _gauges(_get(url, "/metrics"))
        pages["/server_info"] = _facts(_get(url, "/server_info"))
    lines = ",\n".join(json.dumps(exchange) for exchange in exchanges)
    FILE.write_text(f'{{"version": "{VERSION}", "pages": {json.dumps(pages)}, "exchanges": [\n{lines}\n]}}\n')


def _questions() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is asked: whole and in all ways of streaming, too much, and a chat that ends by itself."""
    stream = {"stream": True}
    for path, asked in PROMPTS.items():
        for more in ({}, stream, stream | USAGE, stream | STATED, stream | LISTED, {"max_tokens": 20_000}):
            yield path, asked | EXACT | more
        yield path, asked | EXACT | stream | {"max_tokens": 20_000}
    ending = {"max_tokens": 8, "temperature": 0, "min_tokens": 4, "logit_bias": {str(END_ID): 100}}
    yield CHAT, PROMPTS[CHAT] | ending | stream | USAGE


def _ask(url: str, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    request = Request(url + path, json.dumps(asked).encode(), {"content-type": "application/json"})
    try:
        with urlopen(request, timeout=60) as response:
            status, body = response.status, response.read().decode()
    except HTTPError as error:
        status, body = error.code, error.read().decode()
    return {"path": path, "asked": asked, "status": status, "body": body}


def _get(url: str, path: str) -> dict[str, Any]:
    try:
        with urlopen(url + path, timeout=60) as response:
            return {"status": response.status, "body": response.read().decode()}
    except HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}


def _gauges(page: dict[str, Any]) -> dict[str, Any]:
    lines = page["body"].splitlines(keepends=True)
    wanted = [line for line in lines if any(f"sglang:{name}{end}" in line for name in GAUGES for end in " {")]
    return page | {"body": "".join(wanted)}


def _facts(page: dict[str, Any]) -> dict[str, Any]:
    told = json.loads(page["body"])
    return page | {"body": json.dumps({name: told[name] for name in FACTS})}


if __name__ == "__main__":
    main()
