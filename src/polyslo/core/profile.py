"""Iteration time of one engine: what a batch costs, and what fits into a time.

    iteration = host + matrix(decodes + chunk) + decode_attention(decodes, kv) + prefill_attention(chunk, context)

(PolyServe section 2; the last term, which the paper drops, is kept: a full chunk on a long context is several
times slower without it.) `matrix` is piecewise linear in the tokens of the batch; decode attention is bilinear
in decodes and KV tokens (and carries what each sequence costs beside attention: sampling, logits); prefill
attention is proportional to the token pairs, chunk x context. How the tables are made from measured points is
`measured.py`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from polyslo.compiled import compiled
from polyslo.native import Native

KV_KNOT_MIN = 64  # the first knot of the KV axis; later ones are 64, 96, 128, 192, 256, ... tokens
EXPONENT_OF_FIRST_KNOT = 1023 + 6  # in the bits of a float64
USUAL_CHUNK = 512  # where the search for a chunk begins when nothing is known

PHYSICS = np.dtype(
    [
        ("prefill_s_per_pair", np.float64),  # seconds per (chunk token x context token)
        ("host_s", np.float64),  # the engine's own time per step
        ("kv_capacity_tokens", np.int64),
        ("kv_bytes_per_token", np.float64),
    ],
    align=True,
)


class Profile(Native):
    """Tables of one (model, GPU, tensor-parallel size), laid out for the hot path. Times in seconds.

    `matrix_s(x) = matrix_intercept_s[g] + matrix_slope_s[g] * x` for x batch tokens in segment
    g = segment[min(x, len(segment) - 1)]; `segment_end_tokens[g]` is the last x of segment g.
    Compiled functions take `profile.handle`; the methods are for Python.
    """

    segment: npt.NDArray[np.int16]  # (max batch tokens + 1,)
    segment_end_tokens: npt.NDArray[np.int64]  # (segments,)
    matrix_intercept_s: npt.NDArray[np.float64]  # (segments,)
    matrix_slope_s: npt.NDArray[np.float64]  # (segments,) seconds per token
    decode_row: npt.NDArray[np.int16]  # (max decodes + 1,) row below or at a number of decodes
    decode_knots: npt.NDArray[np.int64]  # (rows,) numbers of decodes
    attention_s: npt.NDArray[np.float64]  # (rows, 1 + KV knots); column 0 is kv = 0
    physics: npt.NDArray[np.void]  # (1,) PHYSICS

    FIRST_SLOT: ClassVar = 0
    ARRAYS: ClassVar = {
        "segment": (np.int16, 1),
        "segment_end_tokens": (np.int64, 1),
        "matrix_intercept_s": (np.float64, 1),
        "matrix_slope_s": (np.float64, 1),
        "decode_row": (np.int16, 1),
        "decode_knots": (np.int64, 1),
        "attention_s": (np.float64, 2),
        "physics": (PHYSICS, 1),
    }

    def iteration_s(self, decodes: int, chunk: int, kv_tokens: float, prefill_context: float) -> float:
        """Predict one iteration, seconds; see `iteration_s` below."""
        return float(iteration_s(self.handle, decodes, chunk, float(kv_tokens), float(prefill_context)))

    def largest_chunk(self, time_s: float, decodes: int, kv_tokens: float, context: int, limit: int) -> int:
        """Return the most tokens of one prompt that an iteration of `time_s` can carry beside its decodes."""
        spare_s = time_s - self.physics["host_s"][0] - decode_attention_s(self.handle, decodes, float(kv_tokens))
        return int(largest_chunk(self.handle, spare_s, decodes, context, limit, USUAL_CHUNK))

    def largest_batch(self, time_s: float, context_tokens: float) -> int:
        """Return the most decodes of `context_tokens` each that one iteration of `time_s` can carry."""
        return int(largest_batch(self.handle, time_s, float(context_tokens)))

    def idle_ttft_s(self, input_tokens: npt.ArrayLike, chunk: int = 8192) -> npt.NDArray[np.float64]:
        """Return the TTFT of prompts, shape (n,), each alone on an idle instance, in pieces of `chunk` tokens."""
        tokens = np.asarray(input_tokens, dtype=np.int64)
        return np.asarray(idle_ttfts_s(self.handle, tokens, chunk))

    def with_capacity(self, kv_capacity_tokens: int) -> Profile:
        """Return the same profile for an instance that holds another number of KV tokens."""
        physics = self.physics.copy()
        physics["kv_capacity_tokens"] = kv_capacity_tokens
        return Profile(**{name: getattr(self, name) for name in self.ARRAYS} | {"physics": physics})

    def slowed(self, ratio: float) -> Profile:
        """Return the same profile with every time `ratio` times as long."""
        physics = self.physics.copy()
        for name in ("prefill_s_per_pair", "host_s"):
            physics[name] *= ratio
        times = ("matrix_intercept_s", "matrix_slope_s", "attention_s")
        slowed = {name: ratio * getattr(self, name) for name in times}
        return Profile(**{name: getattr(self, name) for name in self.ARRAYS} | slowed | {"physics": physics})

    @property
    def kv_capacity_tokens(self) -> int:
        """KV tokens that an instance holds."""
        return int(self.physics["kv_capacity_tokens"][0])


@compiled
def iteration_s(profile: Profile, decodes: int, chunk: int, kv_tokens: float, prefill_context: float) -> float:
    """Predict one iteration, seconds.

    `decodes` requests hold `kv_tokens` of KV in all; `chunk` prompt tokens attend to `prefill_context`
    tokens each on average (for one prompt: tokens before the chunk plus half of the chunk).
    """
    pairs = chunk * prefill_context
    return (
        profile.physics[0].host_s
        + matrix_s(profile, decodes + chunk)
        + decode_attention_s(profile, decodes, kv_tokens)
        + profile.physics[0].prefill_s_per_pair * pairs
    )


@compiled
def matrix_s(profile: Profile, tokens: int) -> float:
    """Return the matrix work of a batch of `tokens`, seconds; 0 for an empty batch."""
    if tokens <= 0:
        return 0.0
    g = profile.segment[min(tokens, profile.segment.shape[0] - 1)]
    return profile.matrix_intercept_s[g] + profile.matrix_slope_s[g] * tokens


@compiled
def decode_attention_s(profile: Profile, decodes: int, kv_tokens: float) -> float:
    """Return decode attention (and per-sequence work) of `decodes` requests over `kv_tokens`, seconds."""
    if decodes <= 0:
        return 0.0
    last = profile.decode_knots.shape[0] - 1
    row = profile.decode_row[min(decodes, profile.decode_row.shape[0] - 1)]
    row = min(row, last - 1)
    low, high = profile.decode_knots[row], profile.decode_knots[row + 1]
    weight = (decodes - low) / (high - low)  # beyond the last knot: the last slope goes on
    column, left, share_per_token = _kv_column(float(kv_tokens), profile.attention_s.shape[1])
    share = (kv_tokens - left) * share_per_token
    below = profile.attention_s[row, column]
    below += share * (profile.attention_s[row, column + 1] - below)
    above = profile.attention_s[row + 1, column]
    above += share * (profile.attention_s[row + 1, column + 1] - above)
    return max(0.0, below + weight * (above - below))


@compiled
def _kv_column(kv_tokens: float, num_columns: int) -> tuple[int, float, float]:
    """Return the column left of `kv_tokens`, the KV tokens there, and 1 over those up to the next (a power of two).

    Knots stand at every half of an octave, so they are read off the number itself: its exponent, and the first bit
    of its mantissa.
    """
    if kv_tokens < KV_KNOT_MIN:
        return 0, 0.0, 1.0 / KV_KNOT_MIN
    bits = np.float64(kv_tokens).view(np.int64)
    exponent, half = bits >> 52, (bits >> 51) & 1
    column = 1 + 2 * (exponent - EXPONENT_OF_FIRST_KNOT) + half
    if column > num_columns - 2:
        left = kv_knot(num_columns - 2)
        return num_columns - 2, left, 1.0 / (kv_knot(num_columns - 1) - left)
    left = np.int64(bits & ~((1 << 51) - 1)).view(np.float64)
    return int(column), left, 1.0 / np.int64((exponent - 1) << 52).view(np.float64)


@compiled
def kv_knot(column: int) -> float:
    """Return the KV tokens at a column: 0, 64, 96, 128, 192, 256, 384, ..."""
    if column == 0:
        return 0.0
    octave, half = (column - 1) // 2, (column - 1) % 2
    return float((KV_KNOT_MIN + half * (KV_KNOT_MIN // 2)) << octave)


@compiled
def largest_chunk(profile: Profile, time_s: float, tokens: int, context: int, limit: int, near: int) -> int:
    """Return how many more tokens of one prompt fit into an iteration, in [0, limit].

    `time_s` is what matrix work of the whole batch and this prompt's attention may take together, `tokens` is
    already in the batch, `context` is the prompt's part that was prefilled before. Solves
    `matrix_s(tokens + c) + pair_s * c * (context + c / 2) = time_s` on the piece of `matrix_s` where it lies, which
    is looked for from `near` more tokens on: a good guess saves time and changes nothing.
    """
    return _most_tokens(profile, profile.physics[0].prefill_s_per_pair, time_s, tokens, context, limit, near)


@compiled
def chunk_bound(profile: Profile, time_s: float, tokens: int, limit: int) -> int:
    """Return what no iteration can exceed, however many prompts share it: `largest_chunk` without attention."""
    return _most_tokens(profile, 0.0, time_s, tokens, 0, limit, USUAL_CHUNK)


@compiled
def _most_tokens(
    profile: Profile, pair_s: float, time_s: float, tokens: int, context: int, limit: int, near: int
) -> int:
    if limit <= 0:
        return 0
    if matrix_s(profile, tokens + limit) + pair_s * limit * (context + 0.5 * limit) <= time_s:
        return limit
    first = profile.segment[min(tokens + 1, profile.segment.shape[0] - 1)]
    last = profile.segment_end_tokens.shape[0] - 1
    g = profile.segment[min(tokens + max(1, near), profile.segment.shape[0] - 1)]
    while g < last and _at_end_s(profile, g, tokens, context, pair_s) <= time_s:
        g += 1
    while g > first and _at_end_s(profile, g - 1, tokens, context, pair_s) > time_s:
        g -= 1
    constant = profile.matrix_intercept_s[g] + profile.matrix_slope_s[g] * tokens - time_s
    if constant >= 0.0:
        return 0
    linear = profile.matrix_slope_s[g] + pair_s * context
    quadratic = 0.5 * pair_s
    # The positive root in the form that stays exact when the quadratic term is tiny.
    root = -2.0 * constant / (linear + math.sqrt(linear * linear - 4.0 * quadratic * constant))
    return max(0, min(limit, int(root + 1e-9)))


@compiled
def _at_end_s(profile: Profile, g: int, tokens: int, context: int, pair_s: float) -> float:
    """Return matrix work and attention of a batch that one more prompt fills up to the end of a segment, seconds."""
    end = profile.segment_end_tokens[g]
    c = end - tokens
    return profile.matrix_intercept_s[g] + profile.matrix_slope_s[g] * end + pair_s * c * (context + 0.5 * c)


@compiled
def largest_batch(profile: Profile, time_s: float, context_tokens: float) -> int:
    """Return the most decodes of `context_tokens` each that one iteration of `time_s` can carry."""
    low, high = 0, profile.decode_row.shape[0] - 1
    while low < high:
        middle = (low + high + 1) // 2
        if iteration_s(profile, middle, 0, middle * context_tokens, 0.0) <= time_s:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def fastest_prefill_s(profile: Profile, input_tokens: int) -> float:
    """Return the least time in which an idle instance can prefill a prompt, however it is cut into chunks.

    Attention costs the same for every cut. The rest is at least what the cheapest chunk costs a token: the whole
    prompt, or one where a segment of `matrix_s` ends.
    """
    host_s = profile.physics[0].host_s
    cheapest_s = (host_s + matrix_s(profile, input_tokens)) / input_tokens
    for g in range(profile.segment_end_tokens.shape[0]):
        end = profile.segment_end_tokens[g]
        if end >= input_tokens:
            break
        cheapest_s = min(cheapest_s, (host_s + matrix_s(profile, end)) / end)
    return input_tokens * cheapest_s + profile.physics[0].prefill_s_per_pair * 0.5 * input_tokens * input_tokens


@compiled
def idle_ttft_s(profile: Profile, input_tokens: int, chunk: int) -> float:
    """Return the TTFT of a prompt alone on an idle instance, prefilled in pieces of at most `chunk` tokens."""
    done, total_s = 0, 0.0
    while done < input_tokens:
        piece = min(chunk, input_tokens - done)
        total_s += iteration_s(profile, 0, piece, 0.0, done + 0.5 * piece)
        done += piece
    return total_s


@compiled
def idle_ttfts_s(profile: Profile, input_tokens: npt.NDArray[np.int64], chunk: int) -> npt.NDArray[np.float64]:
    """Return `idle_ttft_s` for each prompt, shape (n,)."""
    times_s = np.empty(input_tokens.shape[0])
    for k in range(input_tokens.shape[0]):
        times_s[k] = idle_ttft_s(profile, input_tokens[k], chunk)
    return times_s
