"""A closed loop of clients on one engine, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.claims.closed_loop import EngineLimits, run_closed_loop
from polyslo.core.profile import PHYSICS, Profile
from polyslo.errors import InputError

WIDE = EngineLimits(batch_tokens=100, batch_requests=8)


def _profile(capacity: int = 1000) -> Profile:
    """An iteration takes 10 ms and 0.1 ms for each token of its batch, prompt tokens and decodes alike."""
    return Profile(
        segment=np.zeros(32_769, dtype=np.int16),
        segment_end_tokens=np.array([32_768], dtype=np.int64),
        matrix_intercept_s=np.array([0.010]),
        matrix_slope_s=np.array([0.0001]),
        decode_row=np.zeros(4097, dtype=np.int16),
        decode_knots=np.array([1, 4096], dtype=np.int64),
        attention_s=np.zeros((2, 48)),
        physics=np.array([(0.0, 0.0, capacity, 131_072.0)], dtype=PHYSICS),
    )


def test_alone_a_request_takes_its_prompt_and_then_decodes():
    """One client, 20 + 5 tokens: TTFT is 10 + 20 x 0.1 = 12 ms, TPOT one decode's 10.1 ms; so for each of three."""
    found = run_closed_loop(_profile(), WIDE, 1, [20] * 3, [5] * 3)
    assert found.ttft_s == pytest.approx(0.0120)
    assert found.tpot_s == pytest.approx(0.0101)
    assert found.num_requests == 3
    assert found.num_iterations == 15


def test_two_clients_delay_each_other_by_hand():
    """Two clients, 20 + 3 tokens, iterations of r0 | r0 and r1's prompt | both | r1, which end at these ms.

    12.0 (r0's first), 24.1 (r1's first), 34.3 (r0's last), 44.4 (r1's last): TTFTs of 12.0 and 24.1, TPOTs of
    (34.3 - 12.0) / 2 = 11.15 and (44.4 - 24.1) / 2 = 10.15.
    """
    found = run_closed_loop(_profile(), WIDE, 2, [20] * 2, [3] * 2)
    assert found.ttft_s == pytest.approx((0.0120 + 0.0241) / 2)
    assert found.tpot_s == pytest.approx((0.01115 + 0.01015) / 2)
    assert found.num_iterations == 4


def test_a_client_sends_its_next_request_when_its_last_has_ended():
    """Going on from the two: r2 is sent at 34.3 and r3 at 44.4, each while an iteration runs that it can't join.

    r2's prompt begins at 44.4 and ends at 56.4, a TTFT of 22.1; r3's beside r2's decode from 56.4 to 68.5, a TTFT
    of 24.1. Later tokens come as before. The first two are warm-up.
    """
    found = run_closed_loop(_profile(), WIDE, 2, [20] * 4, [3] * 4, num_unscored=2)
    assert found.num_requests == 2
    assert found.ttft_s == pytest.approx((0.0221 + 0.0241) / 2)
    assert found.tpot_s == pytest.approx((0.01115 + 0.01015) / 2)


def test_a_chunk_limit_cuts_prompts():
    """15 tokens an iteration: a prompt of 20 takes 11.5 and 10.5 ms."""
    found = run_closed_loop(_profile(), EngineLimits(batch_tokens=15, batch_requests=8), 1, [20], [2])
    assert found.ttft_s == pytest.approx(0.0220)


def test_no_more_requests_run_than_the_engine_takes():
    """Limited to one request, two clients take turns: the second of two waits for 12.0 + 2 x 10.1 ms and then 12.0."""
    found = run_closed_loop(_profile(), EngineLimits(batch_tokens=100, batch_requests=1), 2, [20] * 2, [3] * 2)
    assert found.tpot_s == pytest.approx(0.0101)
    assert found.ttft_s == pytest.approx((0.0120 + 0.0442) / 2)


def test_where_memory_is_short_requests_wait_instead_of_evicting_each_other():
    """100 tokens of KV, requests of 40 + 20: two decode, the third waits, and few lose their KV, none over and over.

    Were the third to begin in the corner that is left, the decodes would evict one another at nearly each step.
    """
    found = run_closed_loop(_profile(capacity=100), WIDE, 3, [40] * 12, [20] * 12)
    assert found.num_preemptions <= 12
    assert found.tpot_s < 2 * 0.0103


def test_a_request_that_memory_can_never_hold_is_refused():
    """60 + 50 tokens don't fit into 100."""
    with pytest.raises(InputError, match="60 \\+ 50 tokens of KV"):
        run_closed_loop(_profile(capacity=100), WIDE, 1, [60], [50])
