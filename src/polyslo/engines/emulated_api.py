"""The HTTP routes of an emulated engine: what vLLM's OpenAI server answers, as far as an engine can be emulated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from uuid import uuid4

import orjson

from polyslo.engines.answers import JSON, Answer, AnswerStats, Asked, StreamedAnswer, WholeAnswer
from polyslo.engines.emulated_engine import EmulatedEngine, Resident
from polyslo.engines.emulated_metrics import metrics_text
from polyslo.engines.emulated_world import DECODE_PART, PREFILL_PART, WHOLE
from polyslo.engines.faults import Fault, parse_fault
from polyslo.engines.generation import (
    Generation,
    ModelFacts,
    RequestError,
    check_model,
    error_body,
    parse_generation,
    parse_object,
    prompt_ids,
)
from polyslo.engines.kv_transfers import PATH as KV_TRANSFER
from polyslo.engines.kv_transfers import KvTransfers
from polyslo.wire.server import Exchange

PREFILL, DECODE, BOTH = ROLES = ("prefill", "decode", "both")
VERSION = "0.32.0+polyslo.emulated"  # of vLLM, whose answers these are
_TEXT = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]

Route = Callable[[Exchange], None]


class EmulatedApi:
    """The handler of one engine's requests. `inflict` carries out faults; None: they are not allowed."""

    def __init__(
        self,
        engine: EmulatedEngine,
        facts: ModelFacts,
        *,
        speed: float = 1.0,
        inflict: Callable[[Fault], None] | None = None,
        transfers: KvTransfers | None = None,
        role: str = BOTH,
        stream_interval: int = 1,
    ) -> None:
        self.stats = AnswerStats()
        self.refuses_all = False  # by a fault
        self._engine = engine
        self._facts = facts
        self._speed = speed
        self._inflict = inflict
        self._created_s = int(time.time())
        self._transfers = transfers
        self._role = role
        self._stream_interval = stream_interval
        self._open: dict[Answer, Resident | asyncio.Task[None]] = {}  # a task fetches the request's KV
        self._routes: dict[bytes, tuple[bytes, Route]] = {
            b"/v1/completions": (b"POST", partial(self._generate, is_chat=False)),
            b"/v1/chat/completions": (b"POST", partial(self._generate, is_chat=True)),
            b"/v1/models": (b"GET", self._models),
            b"/health": (b"GET", _healthy),
            b"/ping": (b"GET", _healthy),
            b"/version": (b"GET", _version),
            b"/metrics": (b"GET", self._metrics),
            b"/tokenize": (b"POST", self._tokenize),
        }
        if transfers is not None:
            self._routes[KV_TRANSFER] = (b"POST", self._kv_transfer)
        if inflict is not None:
            self._routes[b"/faults"] = (b"POST", self._faults)

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, or begin to."""
        method, route = self._routes.get(exchange.path, (b"", _not_found))
        if method not in (b"", exchange.method) and not (method == b"GET" and exchange.method == b"HEAD"):
            exchange.respond(405, [*JSON, (b"allow", method)], b'{"detail":"Method Not Allowed"}')
            return
        try:
            route(exchange)
        except RequestError as error:
            exchange.respond(error.status, JSON, error.body())

    def break_off(self) -> None:
        """End all answers under way with `abort`."""
        for answer in self._empty():
            answer.break_off()

    def fail(self) -> None:
        """End all answers under way as when the engine dies."""
        for answer in self._empty():
            answer.fail()

    def cut(self) -> None:
        """Close the connections of all answers under way."""
        for answer in self._empty():
            answer.cut()

    def _empty(self) -> list[Answer]:
        """Take all answers under way out of the engine."""
        for resident in list(self._open.values()):
            self._stop(resident)  # which may bring tokens that are due, and with them the end of some
        answers = list(self._open)
        self._open.clear()
        return answers

    def _generate(self, exchange: Exchange, *, is_chat: bool) -> None:
        if self.refuses_all:
            raise RequestError("Internal Server Error", status=500, kind="InternalServerError")
        generation = parse_generation(exchange.body, is_chat, self._facts)
        self._check_role(generation)
        if self._engine.is_full:
            raise RequestError("The engine has as many requests as it may hold.", status=503, kind="ServiceUnavailable")
        answer_kind = StreamedAnswer if generation.is_streamed else WholeAnswer
        identity = (_request_id(exchange, is_chat), int(time.time()), self._facts.name)
        answer: Answer = answer_kind(
            Asked(exchange, generation, identity, self.stats, self._forget, self._stream_interval)
        )
        exchange.on_gone = partial(self._on_gone, answer)
        if generation.source is not None:
            assert self._transfers is not None  # `_check_role`
            arrived, lost = partial(self._join, answer, generation), partial(self._lose, answer)
            self._open[answer] = self._transfers.fetch(generation.source, generation.input_tokens, arrived, lost)
            return
        if generation.hands_over:
            assert self._transfers is not None
            assert isinstance(answer, WholeAnswer)
            answer.keep_kv = self._transfers.keep
        self._submit(answer, generation, PREFILL_PART if generation.hands_over else WHOLE)

    def _join(self, answer: Answer, generation: Generation) -> None:
        """A request's KV is here."""
        if self._engine.is_full:
            self._lose(answer, "The engine has as many requests as it may hold.")
            return
        self._submit(answer, generation, DECODE_PART)

    def _submit(self, answer: Answer, generation: Generation, part: int) -> None:
        self._open[answer] = self._engine.submit(
            generation.input_tokens, generation.output_tokens, answer.on_token, **self._slo(generation), part=part
        )

    def _lose(self, answer: Answer, reason: str) -> None:
        """A request's KV can't be had: its answer fails, as with vLLM's `kv_load_failure_policy` "fail"."""
        self._open.pop(answer, None)
        answer.fail(reason)

    def _slo(self, generation: Generation) -> dict[str, float | None]:
        told = {
            "first_due_in_s": generation.first_due_in_s,
            "tpot_s": generation.tpot_s,
            "pace_s": generation.pace_s,
        }
        return {name: None if value is None else value * self._speed for name, value in told.items()}

    def _check_role(self, generation: Generation) -> None:
        """Refuse what this engine does not do."""
        if self._transfers is None and (generation.hands_over or generation.source is not None):
            raise RequestError("This engine has no KV connector.", param="kv_transfer_params")
        if self._role == PREFILL and not generation.hands_over:
            raise RequestError("This engine prefills only: kv_transfer_params must have do_remote_decode.")
        if self._role == DECODE and generation.hands_over:
            raise RequestError("This engine does not prefill for others.", param="kv_transfer_params")

    def _on_gone(self, answer: Answer) -> None:
        resident = self._open.pop(answer, None)
        if resident is not None:
            self._stop(resident)

    def _stop(self, resident: Resident | asyncio.Task[None]) -> None:
        if isinstance(resident, asyncio.Task):
            resident.cancel()
        else:
            self._engine.abort(resident)

    def _forget(self, answer: Answer) -> None:
        self._open.pop(answer, None)

    def _models(self, exchange: Exchange) -> None:
        card = {
            "id": self._facts.name,
            "object": "model",
            "created": self._created_s,
            "owned_by": "vllm",
            "root": self._facts.name,
            "parent": None,
            "max_model_len": self._facts.max_model_len,
            "permission": [],
        }
        exchange.respond(200, JSON, orjson.dumps({"object": "list", "data": [card]}))

    def _tokenize(self, exchange: Exchange) -> None:
        data = parse_object(exchange.body)
        check_model(data, self._facts)
        ids = prompt_ids(data, "messages" in data, self._facts.chars_per_token).tolist()
        shown = {"count": len(ids), "max_model_len": self._facts.max_model_len, "tokens": ids, "token_strs": None}
        exchange.respond(200, JSON, orjson.dumps(shown))

    def _metrics(self, exchange: Exchange) -> None:
        exchange.respond(200, _TEXT, metrics_text(self._engine, self.stats, self._facts.name))

    def _kv_transfer(self, exchange: Exchange) -> None:
        assert self._transfers is not None
        status, body = self._transfers.answer(parse_object(exchange.body))
        exchange.respond(status, JSON, body)

    def _faults(self, exchange: Exchange) -> None:
        fault = parse_fault(exchange.body)
        exchange.respond(200, JSON, b"{}")  # before a crash leaves nobody to say so
        assert self._inflict is not None
        self._inflict(fault)


def _request_id(exchange: Exchange, is_chat: bool) -> str:
    given = exchange.header(b"x-request-id")
    base = uuid4().hex if given is None else given.decode("latin-1")
    return f"{'chatcmpl' if is_chat else 'cmpl'}-{base}"


def _healthy(exchange: Exchange) -> None:
    exchange.respond(200, JSON, b"")


def _version(exchange: Exchange) -> None:
    exchange.respond(200, JSON, orjson.dumps({"version": VERSION}))


def _not_found(exchange: Exchange) -> None:
    exchange.respond(404, JSON, error_body("Not Found", "NotFoundError", 404))
