"""Answers that are not tokens: OpenAI-shaped errors, and what each refusal becomes in HTTP.

`{"error": {"message", "type", "param", "code"}}`, as the OpenAI API writes them. Statuses and the header
`x-llm-d-request-dropped-reason` follow the llm-d router, whose vocabulary is kept where it has a word: 429 where the
fleet can't take the request now, 503 where there is no instance, never 529. Its `evicted-...` have no use here: who
must give way is sent again, not dropped. `x-should-retry: false` is what OpenAI's clients obey before they retry a 429
that no waiting will mend. What is no HTTP, or too large, the wire's own room answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import orjson

from polyslo.errors import InputError

DROPPED_REASON = b"x-llm-d-request-dropped-reason"
INVALID, AUTHENTICATION, PERMISSION = "invalid_request_error", "authentication_error", "permission_error"
OVERLOADED, SERVER = "rate_limit_error", "server_error"


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response: status, headers without content-length, body."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class BadRequest(InputError):  # noqa: N818 - as HTTP names it
    """A request that can't be understood. Says what, got, allowed, remedy; `param` is the header or field."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str = "invalid_value", status: int = 400
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status

    def answer(self) -> Answer:
        """Return the response."""
        return Answer(self.status, JSON_HEADERS, error_body(self.message, INVALID, self.code, self.param))


@dataclass(frozen=True, slots=True)
class RefusalKind:
    """How a refusal is told: status, OpenAI type, machine-readable code, the llm-d router's word if there is one."""

    status: int
    type: str
    code: str
    dropped_reason: bytes | None = None
    may_retry: bool = True


# The name is what shells and metrics call it.
REFUSALS: dict[str, RefusalKind] = {
    "saturated": RefusalKind(429, OVERLOADED, "saturated", b"rejected-saturated"),
    "expired": RefusalKind(429, OVERLOADED, "queue_timeout", b"rejected-ttl-expired"),
    "late": RefusalKind(429, OVERLOADED, "slo_unattainable_now", b"rejected-saturated"),
    "infeasible": RefusalKind(429, OVERLOADED, "slo_infeasible", b"slo-infeasible", may_retry=False),
    "no_instance": RefusalKind(503, SERVER, "no_instance"),
    "shutting_down": RefusalKind(503, SERVER, "shutting_down", b"rejected-shutting-down"),
    "failed": RefusalKind(502, SERVER, "instance_failed"),
    "timeout": RefusalKind(504, SERVER, "request_timeout"),
    "internal": RefusalKind(500, SERVER, "internal_error"),
    "unauthorized": RefusalKind(401, AUTHENTICATION, "invalid_api_key", may_retry=False),
    "class_not_allowed": RefusalKind(403, PERMISSION, "slo_class_not_allowed", may_retry=False),
    "too_tight": RefusalKind(403, PERMISSION, "slo_not_allowed", may_retry=False),
    "forbidden": RefusalKind(403, PERMISSION, "forbidden", may_retry=False),
    "unknown_model": RefusalKind(404, INVALID, "model_not_found", may_retry=False),
    "unknown_path": RefusalKind(404, INVALID, "unknown_url", may_retry=False),
    "unknown_instance": RefusalKind(404, INVALID, "instance_not_found", may_retry=False),
    "already_there": RefusalKind(409, INVALID, "instance_already_there", may_retry=False),
    "no_room": RefusalKind(409, INVALID, "no_room_for_instance", may_retry=False),
    "wrong_method": RefusalKind(405, INVALID, "method_not_supported", may_retry=False),
}
JSON_HEADERS = ((b"content-type", b"application/json"),)
_BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decision not to serve a request: its kind, a name of `REFUSALS`, and what a person reads.

    `retry_after_s` is when it may be worth asking again; it is sent, whole and at least 1, with every 429 and 503.
    """

    kind: str
    message: str
    param: str | None = None
    retry_after_s: float = 1.0
    extra: tuple[tuple[bytes, bytes], ...] = ()

    def answer(self) -> Answer:
        """Return the response."""
        kind = REFUSALS[self.kind]
        headers = [*JSON_HEADERS, *self.extra]
        if kind.status in _BUSY:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s))))
        if kind.dropped_reason is not None:
            headers.append((DROPPED_REASON, kind.dropped_reason))
        if kind.status == 429 and not kind.may_retry:
            headers.append((b"x-should-retry", b"false"))
        if kind.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return Answer(kind.status, tuple(headers), error_body(self.message, kind.type, kind.code, self.param))

    def event(self) -> bytes:
        """Return the refusal as a server-sent event, for a stream that has begun: its status can't be changed."""
        kind = REFUSALS[self.kind]
        return b"data: " + error_body(self.message, kind.type, kind.code, self.param) + b"\n\n"


NO_INSTANCE = Refusal("no_instance", "no instance is healthy; ask again later")


def error_body(message: str, type: str, code: str | None, param: str | None) -> bytes:
    """Return the JSON of an error in the OpenAI API's shape."""
    return orjson.dumps({"error": {"message": message, "type": type, "param": param, "code": code}})
