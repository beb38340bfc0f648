"""Tracks of streams: blocks, steps and waits, by hand."""

from __future__ import annotations

import asyncio

import pytest

from polyslo.errors import InputError
from polyslo.measure.steps import decode_step, middle
from polyslo.measure.track import Track


def _track(*arrivals):
    """Return a track of (seconds, tokens)."""
    track = Track(10, 0.0)
    for at_s, tokens in arrivals:
        track.note(tokens, at_s)
    return track


def test_blocks_are_mean_gaps_between_arrivals():
    """Two tokens that come together are known as a pair: the time to it is shared."""
    track = _track((1.0, 1), (1.1, 1), (1.3, 2), (1.4, 1), (1.5, 1))
    assert list(track.block_steps_s(1, 7, 3)) == pytest.approx([0.1])
    assert list(track.block_steps_s(1, 6, 2)) == pytest.approx([0.3 / 3, 0.2 / 2])
    assert list(track.block_steps_s(5, 6, 4)) == []


def test_one_pause_does_not_move_the_time_of_a_step():
    """A pause of half a second in one of several blocks leaves the median where it is."""
    arrivals = [(0.02 * k + (0.5 if k >= 20 else 0.0), 1) for k in range(60)]
    step = decode_step([_track(*arrivals)], [2], 50)
    assert step.time_s == pytest.approx(0.02)


def test_steps_back_end_with_the_arrival_nearest_to_a_time():
    """The probe's token of a step may come a little before or behind the prompt's."""
    track = _track((1.0, 1), (1.02, 1), (1.12, 1), (1.14, 1))
    for at_s in (1.118, 1.122):
        assert track.steps_back_s(at_s, 2) == pytest.approx([0.02, 0.1])
    assert track.steps_back_s(1.02, 3) == pytest.approx([0.02])
    assert (track.tokens_by(1.119), track.tokens_nearest(1.119)) == (2, 3)


def test_an_answer_that_ends_early_is_an_error_that_says_why():
    """Whoever waits for more tokens hears of the end, and of the engine's own words."""

    async def main():
        track = _track((1.0, 1))
        asyncio.get_running_loop().call_soon(track.end, "HTTP 503 full")
        with pytest.raises(InputError, match="after 1 of at least 5 tokens: HTTP 503 full"):
            await track.until(5)

    asyncio.run(main())


def test_spread_is_half_of_the_middle_half():
    """Of 1, 2, 3, 4, 5 the middle half is 2 to 4, the median 3."""
    found = middle([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.time_s, found.spread_ratio) == (3.0, pytest.approx(1 / 3))
