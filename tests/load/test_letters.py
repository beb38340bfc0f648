from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.fakes import workload
from polyslo.errors import ConfigError
from polyslo.load.letters import Letters
from polyslo.load.plan import LoadPlan
from polyslo.load.prompts import Prompts
from polyslo.load.target import FIRST_TOKEN_ID, Address, Target

URL = "http://127.0.0.1:1"
PLAN = LoadPlan.of(workload((0.0, 40, 7, 0.3, 0.05), (1.0, 1, 1, 1.0, 0.02), (2.0, 300, 2, 0.5, 0.05)), speed=0.5)


def bodies(**options):
    """Return the bodies of the plan's requests, as JSON."""
    letters = Letters(PLAN, Target((URL,), **options), "m")
    return [json.loads(letters.write(k).body) for k in range(len(PLAN))]


@given(st.integers(1, 3000), st.integers(0, 99), st.integers(20, 40))
def test_a_prompt_has_as_many_ids_as_it_should(num_tokens, request_number, vocab_size):
    """Ids are inside the vocabulary and their number is the one that was drawn."""
    prompts = Prompts.of_ids(vocab_size, num_requests=100, longest_tokens=3000, seed=1)
    ids = [int(text) for text in prompts.cut(request_number, num_tokens).split(b",")]
    assert len(ids) == num_tokens
    assert all(FIRST_TOKEN_ID <= i < vocab_size for i in ids)


def test_no_two_prompts_begin_alike():
    """The beginnings differ within the fewest tokens that can tell the requests apart, also at two seeds."""
    sizes = {"num_requests": 500, "longest_tokens": 40}
    one, other = (Prompts.of_words(**sizes, seed=seed) for seed in (1, 2))
    beginnings = {b" ".join(one.cut(k, 40).split()[:2]) for k in range(500)}
    assert len(beginnings) == 500
    assert all(one.cut(k, 40).split()[:5] != other.cut(k, 40).split()[:5] for k in range(500))
    assert one.cut(7, 40) == Prompts.of_words(**sizes, seed=1).cut(7, 40)


def test_exact_lengths_are_enforced_by_what_engines_know():
    """The body asks for the drawn length, neither less nor more, in the words of vLLM and of emulated engines."""
    body = bodies()[0]
    assert (body["max_tokens"], body["min_tokens"], body["ignore_eos"]) == (7, 7, True)
    assert body["vllm_xargs"] == {"emulate_output_tokens": 7}
    assert (body["model"], body["stream"], body["stream_options"]) == ("m", True, {"include_usage": True})
    assert [len(body["prompt"]) for body in bodies()] == [40, 1, 300]


def test_capped_lengths_use_standard_fields_only():
    """OpenAI's own API refuses fields that it does not know."""
    (body, *_) = bodies(output_lengths="capped")
    assert set(body) == {"model", "stream", "stream_options", "prompt", "max_tokens"}


def test_chat_takes_words():
    """A chat's one message has about four characters a token."""
    body = bodies(endpoint="chat")[2]
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert len(message["content"].split()) == 300
    assert len(message["content"]) == 4 * 300 - 1


def test_exact_tokens_asks_for_usage_in_every_event():
    """The option of vLLM and SGLang goes along."""
    assert bodies(exact_tokens=True)[0]["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_slos_go_along_in_milliseconds_of_the_endpoints_clock():
    """Headers carry the stretched SLO, the key is a bearer token, and both can be left out."""
    headers = dict(Letters(PLAN, Target((URL,), api_key="k"), "m").write(0).headers)
    assert headers[b"x-llm-d-slo-ttft-ms"] == b"600"
    assert headers[b"x-llm-d-slo-tpot-ms"] == b"100"
    assert headers[b"authorization"] == b"Bearer k"
    assert dict(Letters(PLAN, Target((URL,), slo_headers=False), "m").write(0).headers) == {
        b"content-type": b"application/json",
        b"accept": b"text/event-stream",
    }


def test_headers_of_ones_own_go_along():
    """A class in place of an SLO, and a tenant; what stands behind the first colon is the value."""
    target = Target((URL,), slo_headers=False, headers=("X-LLM-D-Inference-Objective: bulk", "x-tenant:a:b "))
    headers = Letters(PLAN, target, "m").write(0).headers
    assert headers[2:] == [(b"x-llm-d-inference-objective", b"bulk"), (b"x-tenant", b"a:b")]
    assert "bulk" not in repr(target)


@pytest.mark.parametrize(
    ("url", "origin", "prefix"),
    [
        ("http://h:30000", "http://h:30000", ""),
        ("http://h:30000/v1/", "http://h:30000", ""),
        ("https://h/proxy/v1", "https://h:443", "/proxy"),
        ("http://[::1]:80", "http://[::1]:80", ""),
    ],
)
def test_an_address_is_read_with_or_without_v1(url, origin, prefix):
    """People paste what their client takes."""
    assert Address.parse(url) == Address(origin, prefix)


@pytest.mark.parametrize("url", ["h:30000", "ftp://h", "http://", "http://h:x", "http://h?a=b", "http://me:pw@h"])
def test_an_address_that_is_none(url):
    """What was given and an example are in the message."""
    with pytest.raises(ConfigError, match=r"--url: .*got '.*'; e\.g\. http://127\.0\.0\.1:30000"):
        Target((url,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"urls": ()}, "--url: give at least one"),
        ({"endpoint": "chats"}, "--endpoint: got 'chats'; did you mean 'chat'"),
        ({"endpoint": "chat", "prompt": "ids"}, "chat takes text"),
        ({"output_lengths": "free"}, "--output-lengths: got 'free'; allowed: capped, exact"),
        ({"vocab_size": 17}, "--vocab: must be above 17, got 17"),
        ({"api_key": "a\nb"}, "--api-key: must be printable ASCII"),
        ({"headers": ("x-tenant",)}, "--header: must be NAME: VALUE"),
        ({"headers": ("x-tenant: a\r\nhost: b",)}, "--header: must be NAME: VALUE"),
        ({"headers": ("Host: b",)}, "--header host: is written by the generator"),
        ({"headers": ("authorization: Bearer a",), "api_key": "b"}, "give one of them"),
        ({"headers": ("x-llm-d-slo-tpot-ms: 5",)}, "--no-slo-headers"),
    ],
)
def test_a_target_that_can_not_be(options, message):
    """Each wrong option is named, with what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Target(**{"urls": (URL,), **options})


def test_a_key_is_not_shown():
    """A target may be printed."""
    assert "secret" not in repr(Target((URL,), api_key="secret"))
