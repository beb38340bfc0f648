"""A small fleet that tests fill by hand, with the profile of linear_profile.py."""

from __future__ import annotations

import pytest
from linear_profile import linear_profile

from polyslo.core.belief import arrive
from polyslo.core.state import new_fleet


class Hand:
    """A small fleet that tests fill by hand."""

    def __init__(self, num_instances, tpots_s=(0.02, 0.05), *, pd=False, capacity=100_000, relegate=True, **more):
        self.fleet = new_fleet(
            linear_profile(capacity=capacity),
            num_instances=num_instances,
            tpots_s=tpots_s,
            num_requests=128,
            **more,
        )
        settings = self.fleet.settings
        settings["elastic"] = settings["promote"] = settings["by_deadline"] = 1
        settings["relegate"] = relegate
        settings["disaggregated"] = pd
        settings["prefill_budget_s"] = 0.05
        settings["transfer_s"] = 0.001
        self.count = 0

    @property
    def handle(self):
        """What compiled functions take."""
        return self.fleet.handle

    def request(self, tier, input_tokens, output_tokens, *, arrival_s=0.0, ttft_s=0.5) -> int:
        """Enter a request whose output length is known and return its number."""
        r = self.count
        self.count += 1
        record = self.fleet.requests
        record["arrival_s"][r] = arrival_s
        record["first_due_s"][r] = arrival_s + ttft_s
        record["tpot_s"][r] = self.fleet.tpots_s[tier]
        record["input_tokens"][r] = input_tokens
        record["max_tokens"][r] = 10_000
        record["tier"][r] = tier
        record["expected_tokens"][r] = output_tokens
        arrive(self.handle, r)
        return r

    def actions(self):
        """Return and forget what was decided: (kind, request, instance)."""
        found = [tuple(int(x) for x in row) for row in self.fleet.actions[: self.fleet.num_actions[0]]]
        self.fleet.num_actions[0] = 0
        return found

    def order(self, group):
        """Return a group's instances, most loaded first."""
        return self.fleet.order[group, : self.fleet.group_size[group]].tolist()


@pytest.fixture(scope="session")
def hand():
    """Return the builder of fleets filled by hand."""
    return Hand


@pytest.fixture(scope="session")
def make_profile():
    """Return the builder of linear profiles."""
    return linear_profile
