"""Compile what decides live, once for each machine, before anybody waits for it."""

from __future__ import annotations

import select
import sys

from polyslo.core.profile import fastest_prefill_s
from polyslo.core.state import DRAINING, new_fleet
from polyslo.gateway.decider import Decider
from polyslo.gateway.relays import bypass
from polyslo.gateway.requests.request import Request
from polyslo.policies.table import POLYSERVE
from polyslo.profiles.library import DEFAULT_PROFILE, load_profile
from polyslo.warmth import is_warm


def warm_up() -> None:
    """Load the compiled decision code, or compile it with a word to the person who waits."""
    modules = ["polyslo.policies.live", *(["polyslo.gateway.relays.token_pipe"] if hasattr(select, "epoll") else [])]
    is_cold = not all(map(is_warm, modules))
    if is_cold:
        print("polyslo: compiling the policy for this machine (once, up to a minute) ...", file=sys.stderr, flush=True)
    fleet = new_fleet(load_profile(DEFAULT_PROFILE).profile, num_instances=2, tpots_s=[0.05], num_requests=4)
    fleet.settings["elastic"] = 1
    decider = Decider(fleet, POLYSERVE, lambda kind, r, i: None)
    request = Request(0.0, 1.0, 0.05, 0, 8, 8, True)
    for r in (decider.enter(), decider.enter()):
        assert r is not None
        decider.arrive(r, request, 0.0)
    decider.saw_tokens(0, 1, 0.1)
    decider.digest(0.1)
    decider.saw_end(0, 1, 0.2)
    decider.digest(0.2)
    decider.resume(1, 9, 0.2)
    decider.lose(1, 0.2)
    decider.tick(0.3)
    decider.close(0, DRAINING, 0.3)
    decider.open(0, 0.3)
    fastest_prefill_s(fleet.profile.handle, 8)
    bypass.warm_up()
    if is_cold:
        print("polyslo: compiled.", file=sys.stderr, flush=True)
