"""What the words on a page mean, in the terms of the project's specification."""

from __future__ import annotations

_TIER = (
    "Tier",
    "All requests with the same TPOT (time per output token) target; tighter means a smaller TPOT.",
)
_DSLO = (
    "DSLO",
    "Deadline-based SLO: token i of a request (i = 0, 1, …) is due at arrival + TTFT + i · TPOT. A "
    "request attains its SLO when every token is on time; being early earns slack for later tokens.",
)
_ATTAINMENT = (
    "Attainment",
    "Share of requests that attain their SLO, of all that arrived: refused, relegated, lost and "
    "unfinished requests count as misses. Shares are cut, not rounded, to three decimals.",
)
_COST = (
    "Cost",
    "Instance-seconds owned by tiers per 1,000 attained requests. Instances in the idle pool belong to "
    "no tier and cost nothing here, unless they are kept warm because starting takes time.",
)

_COMMON = (_TIER, _DSLO, _ATTAINMENT, _COST)

_GOODPUT = (
    "Goodput",
    "The highest offered rate at which attainment is at least the target. The interval is the 95% "
    "confidence interval of its mean over seeds.",
)
_FLUID_OPTIMUM = (
    "Fluid optimum",
    "The rate that a fleet of this size could serve with perfect batches: no bursts, no whole instances, "
    "no look-ahead. It is reckoned for full attainment, so goodput at 0.90 can pass it.",
)
_RIVALS = (
    (
        "Best baseline",
        "The baseline with the highest goodput at that target, not one chosen in advance. Variants of "
        "polyserve are not baselines.",
    ),
    (
        "Win, tie, loss",
        "All policies see the same seeds. A lead counts when every seed agrees on its sign; else, or under "
        "0.5%, it is called a tie.",
    ),
)

OF_COMPARISON = (*_COMMON, _GOODPUT, _FLUID_OPTIMUM, *_RIVALS)

OF_GOODPUT = (_TIER, _DSLO, _ATTAINMENT, _GOODPUT, _FLUID_OPTIMUM, *_RIVALS)

OF_PLAN = (
    *_COMMON,
    (
        "Instances",
        "The smallest fleet with which the policy attains the target in every seed. Its tiers own instances on "
        "average over the scored window; what none owns is idle.",
    ),
    (
        "Fluid optimum",
        "The instances that perfect batches would need: no bursts, no look-ahead, and parts of instances where "
        "a fleet needs whole ones.",
    ),
)

OF_RUN = (
    *_COMMON,
    (
        "Placement rung",
        "Where a request found its instance: in its own tier, on a tighter tier's instance (promotion), by "
        "scaling up from the idle pool, or after pending.",
    ),
    (
        "Refusal reason",
        "The test that an instance failed when it was asked to take a request; one request can be refused by "
        "many instances before one takes it.",
    ),
    (
        "Load gradient",
        "Instances of a tier are filled the most loaded first, so that the least loaded one drains by itself "
        "and can go back to the idle pool.",
    ),
)
