"""Workers whose answers are a formula, so that the evaluation itself can be checked."""

from __future__ import annotations

from functools import cache

from polyslo.claims.cases import Case, family
from polyslo.claims.machine import Machine
from polyslo.claims.work import Found, Inspection, Misses, Outcome, Search

# Goodput in short runs, where it differs.
SHORT = {"lmetric:chunk=256": (0.79, 0.8), "lmetric:chunk=512": (0.78, 0.79)}
# Goodput at 0.99 and 0.90 as shares of the fluid optimum.
SHARES = {
    "polyserve": (0.95, 1.2),
    "polyserve:without=promotion": (0.9, 1.1),
    "chunk:chunk=512": (0.8, 0.85),
    "chunk:chunk=2048": (0.7, 0.95),
    "lmetric:chunk=512": (0.7, 0.7),
    "static-tiers:relegate=off": (0.85, 0.87),
}
OTHERS = (0.5, 0.6)
MACHINE = Machine("Some CPU 9000", 8, 31.4, "x86_64", "3.11.7")


@cache
def scale(case: Case) -> tuple[float, int]:
    """Return a case's fluid optimum and how many tiers it has."""
    setting = case.setting()
    return setting.optimum_rps(), len(setting.tpots_ms)


class Formula:
    """Workers that know what every policy serves; further seeds serve a percent less each."""

    def __init__(self, ours=SHARES["polyserve"]):
        self.asked, self.shares = [], SHARES | {"polyserve": ours}

    def answers(self, units):
        """See `Workers`."""
        for unit in units:
            self.asked.append(unit)
            yield unit, self._answer(unit)

    def _answer(self, unit):
        optimum, tiers = scale(unit.case)
        if isinstance(unit, Search):
            shares = self.shares.get(unit.policy, OTHERS)
            if not unit.guesses_rps:
                shares = SHORT.get(unit.policy, shares)
            rates = tuple(share * (1 - 0.01 * unit.seed) * optimum for share in shares)
            return Found(rates, ((rates[0], 0.99), (rates[1], 0.9)))
        if isinstance(unit, Inspection):
            counts = (4 * tiers, 3 * tiers, 10 * tiers, 4 * tiers, 9 * tiers, tiers)
            return Misses((100,) * tiers, (5,) * tiers, *counts, 800, 9000, 0.0, 0.0, 0.99)
        attained = 99 if family(unit.policy) == "polyserve" else 50
        instances = 1.05 * unit.case.num_instances * unit.rate_rps / optimum
        owners = (instances / tiers,) * tiers
        return Outcome(attained / 100, instances, (*owners, 0.0), (100,) * tiers, (attained,) * tiers, 0)

    def machines(self):
        """See `Workers`."""
        return [MACHINE]

    def close(self):
        """See `Workers`."""
