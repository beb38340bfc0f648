"""The load gradient stays in order, whatever moves (I9, I10)."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.gradient import change_load, move_to_group

MOVES = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(-500, 500), st.integers(0, 3)), max_size=60)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(moves=MOVES)
def test_groups_stay_sorted_under_random_moves(hand, moves):
    """I9, I10: after any loads and moves each group lists its instances once, most loaded first."""
    fleet = hand(6).fleet
    group = [3] * 6
    for load, i, tokens, target in moves:
        if load:
            change_load(fleet.handle, i, tokens)
        else:
            move_to_group(fleet.handle, i, target)
            group[i] = target
        assert fleet.instances["group"].tolist() == group
        assert fleet.group_size.tolist() == [group.count(g) for g in range(4)]
        for g in range(4):
            members = fleet.order[g, : fleet.group_size[g]]
            assert sorted(members.tolist()) == [k for k in range(6) if group[k] == g]
            assert (np.diff(fleet.instances["committed_tokens"][members]) <= 0).all()
            assert (fleet.instances["rank"][members] == np.arange(len(members))).all()
