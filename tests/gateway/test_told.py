from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from polyslo.gateway.relays.told import told_slo
from polyslo.gateway.requests.slo_body import body_with_slo

RECORD = {"tpot_s": 0.05, "first_due_s": 10.3}


def told(body, budget_s=math.inf, is_relegated=False, is_best_effort=False):
    """What an engine reads of a request that is sent at 10.0 s."""
    request = SimpleNamespace(is_best_effort=is_best_effort)
    relay = SimpleNamespace(request=request, passage=SimpleNamespace(is_relegated=is_relegated))
    ask = SimpleNamespace(body=json.loads(body))
    return json.loads(body_with_slo(body, ask, told_slo(relay, RECORD, budget_s, 10.0)))


def test_an_engine_is_told_what_is_left():
    """Its TPOT, the time until its first token is due, and the pace where there is one."""
    assert told(b'{"prompt":"x"}')["vllm_xargs"] == {"polyslo_tpot_ms": 50.0, "polyslo_first_due_ms": 300.0}
    assert told(b'{"prompt":"x"} ', budget_s=0.02)["vllm_xargs"]["polyslo_pace_ms"] == 20.0


@pytest.mark.parametrize("why", ["is_relegated", "is_best_effort"])
def test_an_engine_is_told_of_best_effort(why):
    """A request that was relegated, or asked for no SLO, comes last at the engine as well."""
    assert told(b'{"prompt":"x"}', **{why: True})["vllm_xargs"]["polyslo_best_effort"] == 1


@pytest.mark.parametrize("given", [{"a": 1}, None])
def test_what_a_client_told_is_kept(given):
    """Arguments of the client's own stay beside ours."""
    body = json.dumps({"prompt": "x", "vllm_xargs": given}).encode()
    assert told(body)["vllm_xargs"] == {"polyslo_tpot_ms": 50.0, "polyslo_first_due_ms": 300.0, **(given or {})}


def test_what_is_no_table_is_the_engines_to_refuse():
    """A malformed value goes on as it is."""
    assert told(b'{"prompt":"x","vllm_xargs":7}')["vllm_xargs"] == 7
