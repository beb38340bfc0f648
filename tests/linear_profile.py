"""A profile made by hand: every iteration takes 5 ms and 0.01 ms a batch token; decode KV costs 0.1 us a token."""

from __future__ import annotations

import numpy as np

from polyslo.core.profile import PHYSICS, Profile, kv_knot

BASE_S, TOKEN_S, KV_S = 5e-3, 1e-5, 1e-7


def linear_profile(base_s=BASE_S, token_s=TOKEN_S, kv_s=KV_S, pair_s=0.0, capacity=100_000) -> Profile:
    """Return a profile where iteration = base + token_s * (decodes + chunk) + kv_s * kv + pair_s * pairs."""
    knots = np.array([kv_knot(column) for column in range(48)])
    return Profile(
        segment=np.zeros(32_769, dtype=np.int16),
        segment_end_tokens=np.array([32_768], dtype=np.int64),
        matrix_intercept_s=np.array([base_s]),
        matrix_slope_s=np.array([token_s]),
        decode_row=np.zeros(4097, dtype=np.int16),
        decode_knots=np.array([1, 4096], dtype=np.int64),
        attention_s=np.vstack([kv_s * knots, kv_s * knots]),
        physics=np.array([(pair_s, 0.0, capacity, 131_072.0)], dtype=PHYSICS),
    )
