"""A policy of one's own. In the repository's root:

    PYTHONPATH=. polyslo compare --policies minimal,examples.my_policy:place

`place` sees what the router believes and returns the index of an instance, or -1 to refuse.
"""

from __future__ import annotations

import numpy as np

from polyslo.core.state import Fleet


def place(fleet: Fleet, r: int, now_s: float) -> int:
    """Send a request where the fewest prompt tokens wait; among equals, where the batch is smallest."""
    instances = fleet.instances
    disaggregated = fleet.settings["disaggregated"][0] == 1
    entry = len(fleet.tpots_s) if disaggregated else 0  # prefill instances, or all
    usable = np.flatnonzero((instances["closed"] == 0) & (instances["group"] == entry))
    if len(usable) == 0:
        return -1
    waiting, batch = instances["queued_tokens"][usable], instances["num_decodes"][usable]
    return int(usable[np.lexsort((batch, waiting))[0]])
