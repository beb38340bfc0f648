"""A live endpoint as the measurement sees it: requests of a given length in, tracks of their tokens out.

Prompts are lists of random token ids, each unlike all others, so that their lengths are exact and a prefix cache
finds nothing; answers are as long as asked for (`ignore_eos`, as vLLM and SGLang have it). Tokens are counted by the
server's own usage in every event, where it sends it: a streamed piece may have no text and still be a token.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from polyslo.errors import InputError
from polyslo.load.endpoint import ask_model
from polyslo.load.letters import Headers
from polyslo.load.prompts import Prompts
from polyslo.load.target import DEFAULT_VOCAB_SIZE, Address
from polyslo.load.tokens import TokenCounter, error_text
from polyslo.measure.track import Track
from polyslo.wire.client import Failure, Origin
from polyslo.wire.fetch import FetchError, fetch

MAX_PROMPTS = 1_000_000  # distinct ones; a measurement sends some thousands
HEAD_TIMEOUT_S = 900.0  # a batch's last prompt waits for all others
IDLE_TIMEOUT_S = 900.0
ASK_TIMEOUT_S = 10.0
_CACHE_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_SGLANG_CAPACITY = re.compile(r"^sglang:max_total_num_tokens(?:\{.*\})? +(\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Bench(Protocol):
    """What a measurement needs of an engine."""

    def open(self, input_tokens: int, output_tokens: int) -> Track:
        """Send a request and return its track."""

    def now_s(self) -> float:
        """Return the time of the tracks' clock."""


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """What an endpoint says of itself; None where it does not."""

    model: str
    max_context_tokens: int | None
    kv_capacity_tokens: int | None
    engine: str | None
    version: str | None


class Endpoint:
    """A `Bench` over HTTP. Create it inside a running event loop and close it there."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        vocab_size: int = DEFAULT_VOCAB_SIZE,
        longest_tokens: int = 131_072,
        seed: int | None = None,
    ) -> None:
        self._address = Address.parse(url)
        self._origin = Origin(self._address.origin, max_idle=4096)
        self._headers: Headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
        if api_key is not None:
            self._headers.append((b"authorization", b"Bearer " + api_key.encode()))
        drawn = time.time_ns() % 2**32 if seed is None else seed  # another run must not find this one's prompts cached
        self._prompts = Prompts.of_ids(vocab_size, num_requests=MAX_PROMPTS, longest_tokens=longest_tokens, seed=drawn)
        self._num_sent = 0
        self._model = ""

    def now_s(self) -> float:
        """See `Bench`."""
        return time.monotonic()

    async def ask(self, model: str | None) -> EndpointFacts:
        """Ask what is served, and use it; raises `InputError` where it can't be reached."""
        served = await ask_model(self._origin, self._address, self._headers, model)
        self._model = served.name
        metrics = await self._get("/metrics")
        found = _CACHE_INFO.search(metrics)
        labels = dict(_LABEL.findall(found[1])) if found else {}
        vllm = await self._get_object("/version")
        sglang = {} if vllm else await self._get_object("/server_info")
        version = vllm.get("version") or sglang.get("version")
        return EndpointFacts(
            model=served.name,
            max_context_tokens=served.max_context_tokens,
            kv_capacity_tokens=_kv_capacity(labels, metrics) or _whole(sglang.get("max_total_num_tokens")),
            engine=None if version is None else "vllm" if vllm else "sglang",
            version=None if version is None else str(version),
        )

    def open(self, input_tokens: int, output_tokens: int) -> Track:
        """See `Bench`."""
        prompt = self._prompts.cut(self._num_sent, input_tokens)
        self._num_sent += 1
        track = Track(input_tokens, self.now_s())
        call = self._origin.send(
            b"POST",
            f"{self._address.prefix}/v1/completions".encode(),
            self._headers,
            self._body(prompt, output_tokens),
            _Reader(track),
            head_timeout_s=HEAD_TIMEOUT_S,
            idle_timeout_s=IDLE_TIMEOUT_S,
        )
        track.abort = call.abort
        return track

    async def close(self) -> None:
        """Close its connections."""
        await self._origin.close()

    def _body(self, prompt: bytes, output_tokens: int) -> bytes:
        options = {
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "temperature": 0,
            "max_tokens": output_tokens,
            "min_tokens": output_tokens,
            "ignore_eos": True,
            "vllm_xargs": {"emulate_output_tokens": output_tokens},
        }
        return orjson.dumps(options)[:-1] + b',"prompt":[' + prompt + b"]}"

    async def _get_object(self, path: str) -> dict[str, Any]:
        """Return what a page of JSON says; nothing where there is none."""
        try:
            said = orjson.loads(await self._get(path))
        except orjson.JSONDecodeError:
            return {}
        return said if isinstance(said, dict) else {}

    async def _get(self, path: str) -> str:
        """Return a page's text; nothing where there is none."""
        target = f"{self._address.prefix}{path}".encode()
        try:
            response = await fetch(self._origin, b"GET", target, self._headers, timeout_s=ASK_TIMEOUT_S)
        except FetchError:
            return ""
        return response.body.decode("utf-8", "replace") if response.status == 200 else ""


class _Reader:
    """The sink that writes an answer's tokens into its track."""

    __slots__ = ("_error", "_status", "_tokens", "_track")

    def __init__(self, track: Track) -> None:
        self._track = track
        self._tokens = TokenCounter(by_usage=True)
        self._status = 0
        self._error = b""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status

    def on_data(self, data: bytes) -> None:
        if self._status != 200:
            self._error = (self._error + data)[:4096]
            return
        tokens = self._tokens.feed(data)
        if tokens:
            self._track.note(tokens, time.monotonic())

    def on_end(self) -> None:
        if self._status != 200:
            self._track.end(f"HTTP {self._status} {error_text(self._error)}")
        elif self._tokens.error is not None:
            self._track.end(" ".join(self._tokens.error))
        else:
            self._track.end()

    def on_failure(self, failure: Failure) -> None:
        self._track.end(f"{failure.kind}: {failure.detail}")


def _kv_capacity(labels: dict[str, str], metrics: str) -> int | None:
    """Return the KV tokens that the cache holds, as the engine's metrics say it: vLLM's or SGLang's."""
    told = _SGLANG_CAPACITY.search(metrics)
    try:
        if told is not None:
            return int(float(told[1]))
        if "kv_cache_size_tokens" in labels:
            return int(labels["kv_cache_size_tokens"])
        return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    except (KeyError, ValueError):
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def reject_longer(wanted_tokens: int, allowed_tokens: int | None) -> None:
    """Raise `InputError` for a context that the endpoint does not take."""
    if allowed_tokens is not None and wanted_tokens > allowed_tokens:
        raise InputError(
            f"--max-context: must be at most {allowed_tokens:,}, what it takes, got {wanted_tokens:,}; lower it"
        )
