"""Errors as OpenAI's clients read them, and refusals as the llm-d router tells them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyslo.gateway
from polyslo.gateway.requests.openai_errors import REFUSALS, BadRequest, Refusal

_GIVEN = re.compile(r'Refusal\(\s*"(\w+)"')  # in the source


@pytest.mark.parametrize("kind", REFUSALS)
def test_every_refusal_is_an_openai_error(kind: str) -> None:
    """Message, type, param and code, whatever the kind; the status is never 529."""
    answer = Refusal(kind, "why", "param").answer()
    assert json.loads(answer.body) == {
        "error": {"message": "why", "type": REFUSALS[kind].type, "param": "param", "code": REFUSALS[kind].code}
    }
    assert (b"content-type", b"application/json") in answer.headers
    assert 400 <= answer.status < 529
    assert len({name for name, _ in answer.headers}) == len(answer.headers)


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if REFUSALS[kind].status == 429])
def test_a_429_says_why_and_when_to_come_back(kind: str) -> None:
    """Retry-After and the reason that the llm-d router's clients look at."""
    headers = dict(Refusal(kind, "why").answer().headers)
    assert int(headers[b"retry-after"]) >= 1
    assert headers[b"x-llm-d-request-dropped-reason"]


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("saturated", 429, b"rejected-saturated"),
        ("expired", 429, b"rejected-ttl-expired"),
        ("late", 429, b"rejected-saturated"),
        ("infeasible", 429, b"slo-infeasible"),
        ("shutting_down", 503, b"rejected-shutting-down"),
        ("no_instance", 503, None),
        ("failed", 502, None),
        ("timeout", 504, None),
        ("unauthorized", 401, None),
        ("class_not_allowed", 403, None),
        ("unknown_model", 404, None),
    ],
)
def test_the_table_of_refusals(kind: str, status: int, reason: bytes | None) -> None:
    """Status and reason are what the conventions say."""
    answer = Refusal(kind, "why").answer()
    assert answer.status == status
    assert dict(answer.headers).get(b"x-llm-d-request-dropped-reason") == reason


def test_every_kind_of_refusal_is_somebodys() -> None:
    """None is declared that nobody gives: a client would be told of an answer that it never gets."""
    sources = Path(polyslo.gateway.__file__).parent.rglob("*.py")
    given = {kind for source in sources for kind in _GIVEN.findall(source.read_text())}
    assert set(REFUSALS) == given


@given(st.floats(0, 1e6))
def test_retry_after_is_whole_seconds_and_never_early(retry_after_s: float) -> None:
    """A client that waits so long does not come too early, nor at once."""
    told = int(dict(Refusal("saturated", "why", retry_after_s=retry_after_s).answer().headers)[b"retry-after"])
    assert told >= max(1, retry_after_s)
    assert told <= retry_after_s + 1


def test_only_what_no_waiting_mends_forbids_retries() -> None:
    """OpenAI's clients retry a 429 by themselves, unless this header says not to."""
    assert (b"x-should-retry", b"false") in Refusal("infeasible", "why").answer().headers
    assert (b"x-should-retry", b"false") not in Refusal("saturated", "why").answer().headers


def test_a_stream_that_has_begun_ends_with_an_event() -> None:
    """The same error, as one server-sent event."""
    event = Refusal("failed", "line\nbreak").event()
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:])["error"]["code"] == "instance_failed"


def test_further_headers_are_kept() -> None:
    """405 says which methods there are."""
    answer = Refusal("wrong_method", "why", extra=((b"allow", b"POST"),)).answer()
    assert (answer.status, dict(answer.headers)[b"allow"]) == (405, b"POST")


def test_a_bad_request_names_the_field() -> None:
    """Its body has the field as param and a code that programs can read."""
    error = BadRequest("n: must be so, got thus; change it", param="n")
    answer = error.answer()
    assert answer.status == 400
    assert json.loads(answer.body)["error"] == {
        "message": "n: must be so, got thus; change it",
        "type": "invalid_request_error",
        "param": "n",
        "code": "invalid_value",
    }
    assert str(error) == error.message
