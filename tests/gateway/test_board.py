"""What the page is told: windows that advance by themselves, tokens of streams that run, bounded memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from polyslo.core.state import DISPATCH, PROMOTED, REQUEST, SCALED_UP, TAKEN_OVER
from polyslo.gateway.page.board import NUM_TOKEN_MARKS, Board
from polyslo.gateway.page.stories import MOST_STORIES
from polyslo.gateway.page.windows import BUCKET_S
from polyslo.gateway.relays.passage import Passage
from polyslo.gateway.requests.request import Request


class Clock:
    """Time moved by hand."""

    now_s = 100.0

    def __call__(self):
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock():
    """Time moved by hand."""
    return Clock()


AT_0 = SimpleNamespace(instance=0)


def _relay(name="r", *, arrival_s=100.0, streamed=True, tokens=0):
    passage = Passage(name, None, "50ms", tokens=tokens, first_token_s=arrival_s + 0.1, last_token_s=arrival_s + 0.6)
    request = Request(arrival_s, 1.0, 0.05, 0, 10, 10, streamed)
    return SimpleNamespace(passage=passage, request=request, at=AT_0, r=0, settle=lambda: None)


def _model(relays=(), *, owned=0, pending=0, vacant=3):
    """Make a model of one tier; its group has vacant slots, too, as that of a policy without an idle pool."""
    groups = {"group": np.zeros(owned + vacant, dtype=np.int64)}
    fleet = SimpleNamespace(instances=groups, tpots_s=np.array([0.05]), pending_size=np.array([pending, 0]))
    instances = [SimpleNamespace(index=i, standing="ready") for i in range(owned)]
    return SimpleNamespace(fleet=fleet, instances=instances, relays=[None, *relays], bypass=None)


def test_windows_advance_though_nobody_looks(clock):
    """Two requests that end twelve seconds apart are in different buckets, with a quiet one between them."""
    board = Board(clock, 1)
    for _ in range(3):
        board.finished(_relay(tokens=5), "attained")
        for _ in range(int(2 * BUCKET_S)):
            clock.now_s += 1.0
            board.tick(_model(owned=2, pending=3))
    buckets = list(board.windows[0].buckets)[-7:]
    assert [bucket.requests for bucket in buckets] == [1, 0, 1, 0, 1, 0, 0]
    assert [(bucket.instances, bucket.pending) for bucket in buckets[-3:]] == [(2, 3)] * 3


@pytest.mark.parametrize(
    ("rung", "kind", "text"),
    [
        (PROMOTED, "promotion", "to e0, of a tighter tier"),
        (SCALED_UP, "scale_up", "e0 came from the idle pool"),
        (TAKEN_OVER, "take_over", "e0 came from another tier"),
    ],
)
def test_an_event_says_in_words_what_became_of_an_instance(clock, rung, kind, text):
    """The rung is its kind, so the text does not repeat it."""
    board, requests = Board(clock, 1), np.zeros(1, dtype=REQUEST)
    requests["rung"] = rung
    model = SimpleNamespace(fleet=SimpleNamespace(requests=requests), instances=[SimpleNamespace(name="e0")])
    board.decided(model, _relay(), DISPATCH, 0)
    (event,) = board.events
    assert (event["kind"], event["text"], event["instance"]) == (kind, text, 0)


def test_tokens_of_streams_that_run_count(clock):
    """A stream with 30 tokens and one that ended with 20: 50 until now, kept over a bounded number of ticks."""
    board = Board(clock, 1)
    running, over = _relay("a", tokens=30), _relay("b", tokens=20)
    board.finished(over, "attained")
    assert board.num_tokens_of(_model([running])) == 50
    for _ in range(3 * NUM_TOKEN_MARKS):
        clock.now_s += 1.0
        running.passage.tokens += 10
        board.tick(_model([running]))
    since_s, tokens = board._token_marks[0]
    assert (board.num_tokens_of(_model([running])) - tokens) / (clock.now_s - since_s) == pytest.approx(10.0)


def test_a_request_that_nobody_missed_does_not_count_as_a_miss(clock):
    """Cancelled and rejected ones are totals, but not of the attainment."""
    board = Board(clock, 1)
    for outcome in ("attained", "missed", "refused", "failed", "rejected", "cancelled"):
        board.finished(_relay(tokens=3), outcome)
    assert board.windows[0].count(12) == (4, 1)
    assert board.totals["rejected"] == board.totals["cancelled"] == 1


def test_times_of_answers_that_are_not_streamed_are_left_out(clock):
    """Their first token was not seen, so their TTFT is not known."""
    board = Board(clock, 1)
    board.finished(_relay(streamed=False, tokens=3), "attained")
    assert board.windows[0].ttfts_s(0.0) == []
    board.finished(_relay(tokens=3), "attained")
    assert board.windows[0].ttfts_s(0.0) == pytest.approx([0.1])


def test_a_story_under_way_has_its_first_token_as_soon_as_it_came(clock):
    """Not at the end only; steps are told in the order of their times."""
    board, relay = Board(clock, 1), _relay(tokens=0)
    relay.passage.first_token_s = 0.0
    board.arrived(relay)
    assert [step["kind"] for step in board.story("r")["steps"]] == ["arrived"]
    clock.now_s += 1.0
    relay.passage.first_token_s = clock.now_s - 0.5
    assert [step["kind"] for step in board.story("r")["steps"]] == ["arrived", "first_token"]
    board.finished(relay, "attained")
    assert [step["kind"] for step in board.story("r")["steps"]] == ["arrived", "first_token", "attained"]


@pytest.mark.parametrize(
    ("outcome", "attained"),
    [
        ("attained", True),
        ("missed", False),
        ("refused", False),
        ("failed", False),
        ("rejected", None),
        ("cancelled", None),
    ],
)
def test_a_story_that_is_nobodys_miss_did_not_miss(clock, outcome, attained):
    """A client that left, or a request that its engine found wrong, says nothing of the SLO."""
    board, relay = Board(clock, 1), _relay(tokens=3)
    board.arrived(relay)
    assert (board.story("r")["outcome"], board.story("r")["attained"]) == (None, None)
    board.finished(relay, outcome)
    assert (board.story("r")["outcome"], board.story("r")["attained"]) == (outcome, attained)


def test_old_stories_are_forgotten_and_over_ones_hold_nothing(clock):
    """At most so many stories; of two requests of one name the later one is told."""
    board = Board(clock, 1)
    relays = [_relay(f"r{k}") for k in range(MOST_STORIES + 5)]
    for relay in relays:
        board.arrived(relay)
        board.finished(relay, "attained")
    assert len(board.stories) == MOST_STORIES
    assert all(story.relay is None for story in board.stories.values())
    first, second = _relay("same", tokens=1), _relay("same", tokens=2)
    board.arrived(first)
    board.arrived(second)
    board.finished(first, "attained")
    assert board.stories["same"].relay is second
