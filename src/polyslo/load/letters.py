"""Requests as they go over the wire: one target, headers and body for each of a plan's requests."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from polyslo.load.plan import LoadPlan
from polyslo.load.prompts import Prompts
from polyslo.load.target import SLO_HEADERS, Target

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Letter:
    """One request, ready to be sent to any of the servers."""

    headers: Headers
    body: bytes


class Letters:
    """Writes a plan's requests for a target; each takes a few microseconds."""

    def __init__(self, plan: LoadPlan, target: Target, model: str) -> None:
        self._plan = plan
        self._exact = target.output_lengths == "exact"
        self._slo_headers = target.slo_headers
        sizes = {
            "num_requests": len(plan),
            "longest_tokens": int(plan.workload.input_tokens.max()),
            "seed": target.prompt_seed,
        }
        by_ids = target.prompt_kind == "ids"
        self._prompts = Prompts.of_ids(target.vocab_size, **sizes) if by_ids else Prompts.of_words(**sizes)
        self._head, self._behind_prompt = _frame(target, model)
        self._common: Headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
        if target.api_key is not None:
            self._common.append((b"authorization", b"Bearer " + target.api_key.encode()))
        self._common += target.own_headers

    def write(self, request: int) -> Letter:
        """Write one request of the plan."""
        return Letter(self._headers(request), self._body(request))

    def _headers(self, request: int) -> Headers:
        if not self._slo_headers:
            return self._common
        slo = self._plan.ttft_s[request], self._plan.tpot_s[request]
        return [*self._common, *((name, _ms(float(s))) for name, s in zip(SLO_HEADERS, slo, strict=True))]

    def _body(self, request: int) -> bytes:
        workload = self._plan.workload
        prompt = self._prompts.cut(request, int(workload.input_tokens[request]))
        num_tokens = int(workload.output_tokens[request])
        if not self._exact:
            return b'%b%b%b,"max_tokens":%d}' % (self._head, prompt, self._behind_prompt, num_tokens)
        # vLLM and SGLang obey ignore_eos and min_tokens; the emulated engine reads vllm_xargs.
        lengths = b',"max_tokens":%d,"min_tokens":%d,"ignore_eos":true,"vllm_xargs":{"emulate_output_tokens":%d}}' % (
            num_tokens,
            num_tokens,
            num_tokens,
        )
        return b"%b%b%b%b" % (self._head, prompt, self._behind_prompt, lengths)


def _frame(target: Target, model: str) -> tuple[bytes, bytes]:
    """Return what stands before and behind the prompt in every body."""
    options = {"include_usage": True}
    if target.exact_tokens:
        options["continuous_usage_stats"] = True
    common = orjson.dumps({"model": model, "stream": True, "stream_options": options})[:-1]
    if target.endpoint == "chat":
        return common + b',"messages":[{"role":"user","content":"', b'"}]'
    quotes = (b"[", b"]") if target.prompt_kind == "ids" else (b'"', b'"')
    return common + b',"prompt":' + quotes[0], quotes[1]


def _ms(seconds: float) -> bytes:
    """Write milliseconds with at most three decimals: 300, 62.5."""
    return f"{1e3 * seconds:.3f}".rstrip("0").rstrip(".").encode()
