"""Wishes: every spelling of the field, who wins, and what is malformed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyslo.gateway.config.slo import MAX_TTFT_MS
from polyslo.gateway.requests.openai_errors import BadRequest
from polyslo.gateway.requests.wishes import NOTHING, read_wish, strip_own_fields

# Spellings of the TPOT, the strongest first: (headers, body).
SPELLINGS: list[tuple[str, list[tuple[bytes, bytes]], dict[str, Any]]] = [
    ("x-llm-d-slo-tpot-ms", [(b"x-llm-d-slo-tpot-ms", b"11")], {}),
    ("x-slo-tpot-ms", [(b"x-slo-tpot-ms", b"12")], {}),
    ("slo.tpot_ms", [], {"slo": {"tpot_ms": 13}}),
    ("nvext.router.itl_target", [], {"nvext": {"router": {"itl_target": 14}}}),
]


def test_a_request_without_a_wish() -> None:
    """What says nothing wishes nothing; JSON's null says nothing."""
    assert read_wish([(b"host", b"x")], {"model": "m"}) == NOTHING
    body = {"slo": {"ttft_ms": None, "class": None}, "nvext": {"router": None, "agent_hints": {}}}
    assert read_wish([], body) == NOTHING
    assert read_wish([], {"slo": None, "nvext": None}) == NOTHING


def test_default_in_a_header_of_a_time_names_no_slo() -> None:
    """As inference-perf writes it for requests without one; what is said elsewhere counts."""
    headers = [(b"x-slo-ttft-ms", b"default"), (b"x-slo-tpot-ms", b"default")]
    assert read_wish(headers, {}) == NOTHING
    wish = read_wish(headers, {"slo": {"tpot_ms": 20}})
    assert (wish.ttft_ms, wish.tpot_ms, wish.tpot_source) == (None, 20.0, "slo.tpot_ms")


@given(st.lists(st.sampled_from(range(4)), min_size=1, unique=True))
def test_the_strongest_spelling_wins(given_ones: list[int]) -> None:
    """Canonical header, then the other header, then slo, then nvext, in whatever order they stand."""
    headers = [header for index in given_ones for header in SPELLINGS[index][1]]
    body = {key: value for index in given_ones for key, value in SPELLINGS[index][2].items()}
    strongest = min(given_ones)
    wish = read_wish(headers, body)
    assert (wish.tpot_ms, wish.tpot_source) == (11 + strongest, SPELLINGS[strongest][0])
    assert (wish.ttft_ms, wish.ttft_source) == (None, None)


def test_everything_that_a_request_says_of_itself() -> None:
    """TTFT, class, tenant, session, request id and receipt, by their canonical and other names."""
    headers = [
        (b"x-slo-ttft-ms", b" 300.5 "),
        (b"x-gateway-inference-objective", b"voice"),
        (b"x-llm-d-inference-fairness-id", b"acme"),
        (b"x-dynamo-session-id", b"s1"),
        (b"x-session-token", b"s2"),
        (b"x-correlation-id", b"r1"),
        (b"x-polyslo-explain", b"1"),
    ]
    wish = read_wish(headers, {"slo": {"class": "chat"}})
    assert (wish.ttft_ms, wish.ttft_source) == (300.5, "x-slo-ttft-ms")
    assert (wish.class_name, wish.class_source) == ("voice", "x-gateway-inference-objective")
    assert (wish.tenant, wish.session, wish.request_id, wish.wants_receipt) == ("acme", "s1", "r1", True)
    assert read_wish([], {"slo": {"class": "chat"}}).class_source == "slo.class"


@given(st.floats(min_value=0, max_value=MAX_TTFT_MS, exclude_min=True), st.sampled_from(["{:f}", "{!r}", "{:e}"]))
def test_a_number_is_the_same_in_a_header_as_in_a_body(ttft_ms: float, form: str) -> None:
    """Decimals and exponents are read as they are; what rounds to 0 is refused and not served as nothing."""
    text = form.format(ttft_ms)
    if len(text) > 20:
        return  # more digits than anybody means are refused; see below
    headers = [(b"x-slo-ttft-ms", text.encode())]
    if not 0 < float(text) <= MAX_TTFT_MS:
        with pytest.raises(BadRequest):
            read_wish(headers, {})
        return
    assert read_wish(headers, {}).ttft_ms == read_wish([], {"slo": {"ttft_ms": float(text)}}).ttft_ms == float(text)


@pytest.mark.parametrize(
    "text",
    ["", "fast", "-5", "0", "0.0", "nan", "inf", "1_000", "3600001", "50ms", "20, 20", "٢٠", "1e999", "+5", "0x10"],
)
def test_a_malformed_header_is_named(text: str) -> None:
    """What a header may hold and what it held are both said, with an example."""
    with pytest.raises(BadRequest) as caught:
        read_wish([(b"x-llm-d-slo-ttft-ms", text.encode())], {})
    shown = repr(text.encode().decode("latin-1"))
    assert caught.value.message == (
        "header x-llm-d-slo-ttft-ms: must be a number of milliseconds above 0 and at most 3600000, "
        f"got {shown}; send for example 50"
    )
    assert (caught.value.param, caught.value.code, caught.value.status) == ("x-llm-d-slo-ttft-ms", "invalid_slo", 400)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"slo": {"tpot_ms": "20"}},
            "slo.tpot_ms: must be a number of milliseconds above 0 and at most 60000, got '20'; send for example 50",
        ),
        (
            {"slo": {"tpot_ms": True}},
            "slo.tpot_ms: must be a number of milliseconds above 0 and at most 60000, got True; send for example 50",
        ),
        (
            {"nvext": {"router": {"ttft_target": -1}}},
            "nvext.router.ttft_target: must be a number of milliseconds above 0 and at most 3600000, got -1; "
            "send for example 50",
        ),
        (
            {"slo": {"tpot_ms": {}}},
            "slo.tpot_ms: must be a number of milliseconds above 0 and at most 60000, got an object; "
            "send for example 50",
        ),
        ({"slo": 20}, "slo: must be an object, got 20; correct it or leave it out"),
        ({"slo": [1, 2]}, "slo: must be an object, got a list of 2; correct it or leave it out"),
        ({"nvext": "x"}, "nvext: must be an object, got 'x'; correct it or leave it out"),
        ({"nvext": {"router": 3}}, "nvext.router: must be an object, got 3; correct it or leave it out"),
        ({"slo": {"ttft": 300}}, "slo: unknown key 'ttft'; did you mean 'ttft_ms'?"),
        (
            {"slo": {"class": 5}},
            "slo.class: must be a text of 1 to 256 printable characters, got 5; correct it or leave it out",
        ),
        (
            {"slo": {"class": ""}},
            "slo.class: must be a text of 1 to 256 printable characters, got ''; correct it or leave it out",
        ),
    ],
)
def test_a_malformed_field_is_named(body: dict[str, Any], message: str) -> None:
    """Field, what is allowed, what was got, what to do."""
    with pytest.raises(BadRequest) as caught:
        read_wish([], body)
    assert caught.value.message == message


def test_a_weaker_spelling_must_be_well_formed_too() -> None:
    """Nobody's mistake is hidden by a stronger spelling."""
    with pytest.raises(BadRequest, match=r"x-slo-tpot-ms: must be"):
        read_wish([(b"x-llm-d-slo-tpot-ms", b"20"), (b"x-slo-tpot-ms", b"fast")], {})


def test_a_header_given_twice() -> None:
    """The same value twice is one; two values contradict each other and are both named."""
    twice = [(b"x-slo-tpot-ms", b"20"), (b"x-slo-tpot-ms", b"20 ")]
    assert read_wish(twice, {}).tpot_ms == 20
    with pytest.raises(BadRequest) as caught:
        read_wish([*twice, (b"x-slo-tpot-ms", b"30")], {})
    assert caught.value.message == "header x-slo-tpot-ms: must be given once, got '20' and '30'; leave one out"
    assert caught.value.code == "contradictory_header"


def test_a_receipt_is_asked_for_with_1() -> None:
    """0 and false are no; what is neither is told."""
    assert not read_wish([(b"x-polyslo-explain", b"False")], {}).wants_receipt
    with pytest.raises(BadRequest) as caught:
        read_wish([(b"x-polyslo-explain", b"yes")], {})
    assert caught.value.message == "header x-polyslo-explain: must be 1 or 0, got 'yes'; correct it or leave it out"


@given(st.dictionaries(st.sampled_from(["slo", "nvext", "model", "stream"]), st.none() | st.just({"a": 1})))
def test_own_fields_are_stripped_and_nothing_else(body: dict[str, Any]) -> None:
    """Engines never see them, the rest keeps its order, and it is told whether the bytes changed."""
    before = copy.deepcopy(body)
    changed = strip_own_fields(body)
    assert list(body.items()) == [(key, value) for key, value in before.items() if key not in ("slo", "nvext")]
    assert changed == (body != before)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["ttft_ms", "tpot_ms", "class", "router", "ttft_target", "itl_target"])


@given(st.fixed_dictionaries({}, optional={"slo": JSON | st.dictionaries(KEYS, JSON),
                                           "nvext": JSON | st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON))}),
       st.binary(max_size=12))  # fmt: skip
def test_whatever_comes_is_a_wish_or_a_bad_request(body: dict[str, Any], value: bytes) -> None:
    """No header and no body makes anything else; a wish holds sane numbers."""
    try:
        wish = read_wish([(b"x-slo-ttft-ms", value)], body)
    except BadRequest:
        return
    assert wish.ttft_ms is not None
    assert 0 < wish.ttft_ms <= MAX_TTFT_MS
