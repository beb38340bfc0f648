"""A second policy beside the one that serves: where would it have sent each request, were it asked now?

It is asked at each arrival, about the live belief as it stands, and nothing that it says is carried out. So it never
sees what its own choices would have led to: agreement tells how alike two policies are where they stand before the
same fleet, not how well the other would have served. For that, replay the journal under it (`what_if`).

A policy can be a shadow when its choice leaves no trace and needs no tiers of its own: the load balancers. Its view
of the fleet shares instances and requests with the live one, and has its own order, turn and random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polyslo.core.state import NONE, Fleet
from polyslo.core.streams import enter
from polyslo.errors import ConfigError
from polyslo.gateway.decider import Decider
from polyslo.gateway.requests.request import Request
from polyslo.policies.table import EXTERNAL, POLICIES, choose
from polyslo.sim.fleet import PolicySpec

_OWN = ("settings", "order", "group_size", "turn", "counters", "actions", "num_actions")  # what a choice may change
_GROUP = 0  # where policies without tiers look for instances


@dataclass(slots=True)
class Agreement:
    """How often a shadow policy would have sent a request where it was sent."""

    num_same: int = 0
    num_other: int = 0
    num_open: int = 0  # one of the two sent it nowhere: it pends, or is refused

    @property
    def ratio(self) -> float:
        """Share of the requests that both sent somewhere; NaN without any."""
        both = self.num_same + self.num_other
        return self.num_same / both if both else float("nan")

    def add(self, live: int | None, shadow: int | None) -> None:
        """Count one request."""
        if live is None or shadow is None:
            self.num_open += 1
        elif live == shadow:
            self.num_same += 1
        else:
            self.num_other += 1


class Shadow:
    """The shadow policy of one decider."""

    def __init__(self, name: str, decider: Decider, tell: Callable[[int, int | None], None] | None = None) -> None:
        """Be policy `name`; `tell(r, instance)` hears of each choice."""
        self.name = name
        self._tell = tell
        self.agreement = Agreement()
        self._policy = shadow_policy(name).kind.code
        self._streams = decider.streams
        self._live = decider.fleet
        parts = {part: getattr(self._live, part) for part in Fleet.ARRAYS}
        own = {part: parts[part].copy() for part in _OWN}
        self._fleet = Fleet(**parts | own, profile=self._live.profile)
        self._fleet.group_size[:] = 0
        self._fleet.group_size[_GROUP] = len(self._live.instances)

    def choose(self, r: int, request: Request, now_s: float) -> int | None:
        """Return the instance for a request that is about to arrive in the free record `r`; None refuses.

        The record is filled as the arrival will fill it again; nothing else that the live belief says is touched.
        """
        enter(
            self._streams.handle, r, request.arrival_s, request.arrival_s + request.ttft_s, request.tpot_s,
            request.tier, request.input_tokens, request.max_tokens, request.expected_tokens,
            not request.shows_tokens, request.is_best_effort,
        )  # fmt: skip
        loads = self._live.instances["committed_tokens"]
        self._fleet.order[_GROUP] = np.argsort(-loads, kind="stable")  # most loaded first, as the core keeps groups
        i = int(choose(self._policy, self._fleet.handle, r, now_s))
        chosen = None if i == NONE else i
        if self._tell is not None:
            self._tell(r, chosen)
        return chosen

    def compare(self, r: int, choice: int | None) -> None:
        """Hold a choice against what became of the request."""
        instance = int(self._live.requests["instance"][r])
        self.agreement.add(None if instance == NONE else instance, choice)


def shadow_policy(name: str) -> PolicySpec:
    """Return a policy that can be a shadow. Raises `ConfigError` for others."""
    spec = PolicySpec.parse(name)
    if spec.kind.tiers or spec.kind.code == EXTERNAL:
        able = ", ".join(known for known, kind in POLICIES.items() if not kind.tiers)
        raise ConfigError(
            f"shadow: {name!r} can't be one, its choices depend on what became of its earlier ones; "
            f"choose of {able}, or replay the journal under it"
        )
    return spec
