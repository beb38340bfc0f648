"""Whether an instance that failed a request can be passed over when it is decided anew."""

from __future__ import annotations

from polyslo.core.state import EITHER, FITS, Fleet
from polyslo.gateway.instances.roster import Roster


def has_stand_in(fleet: Fleet, instances: Roster, i: int) -> bool:
    """Tell whether another open instance can do what `i` does; where groups are fixed, one of its own."""
    group, role = fleet.instances["group"], fleet.instances["role"]
    likewise = (role == EITHER) | (role == role[i]) if fleet.settings["elastic"][0] else group == group[i]
    return any(other.index != i and other.closed == FITS and likewise[other.index] for other in instances)
