from __future__ import annotations

from dataclasses import replace

from plausible import GOODPUTS_RPS, plausible_comparison, with_goodput

from polyslo.report.verdict import headline, lead_text, losses, optimum_sentence, verdicts
from polyslo.sim.results import Comparison


def versus_chunk(ours: tuple[float, ...], theirs: tuple[float, ...], target: float = 0.99) -> Comparison:
    """Build a comparison of polyserve and chunk only, with these goodputs at one target."""
    comparison = plausible_comparison({"polyserve": 400.0, "chunk": 320.0}, with_timeline=False)
    return with_goodput(with_goodput(comparison, "polyserve", target, *ours), "chunk", target, *theirs)


def test_a_win_names_the_best_baseline_and_the_ratio(comparison: Comparison) -> None:
    """The headline gives the ratio to the baseline with the highest goodput, at both targets."""
    assert headline(comparison) == (
        "polyserve serves 1.14x the load of the best baseline (chunk) at 99% attainment, and 1.14x at 90%."
    )


def test_a_variant_of_polyserve_is_no_baseline(comparison: Comparison) -> None:
    """polyserve-keep has more goodput than chunk, and is still not what polyserve is compared with."""
    assert GOODPUTS_RPS["polyserve-keep"] > GOODPUTS_RPS["chunk"]
    assert {v.best.policy for v in verdicts(comparison) if v.best} == {"chunk"}


def test_a_loss_is_stated_in_the_headline_and_in_the_list() -> None:
    """Less goodput than a baseline reads as `only`, and heads the list of losses."""
    comparison = versus_chunk((290.0, 300.0, 310.0), (320.0, 330.0, 340.0))
    assert headline(comparison).startswith(
        "polyserve serves only 0.91x the load of the best baseline (chunk) at 99% attainment, but 1.25x"
    )
    assert losses(comparison)[0] == "Goodput at 99% attainment: 300 requests/s against 330 for chunk."


def test_seeds_that_disagree_make_a_tie() -> None:
    """A lead in the mean is not called a win when some seed favours the baseline."""
    comparison = versus_chunk((330.0, 350.0, 370.0), (340.0, 345.0, 350.0))
    assert verdicts(comparison)[0].outcome == "tie"
    assert headline(comparison).startswith(
        "polyserve and the best baseline (chunk) serve about the same load at 99% attainment "
        "(1.01x, and the seeds disagree on who leads), but 1.25x"
    )


def test_a_lead_that_rounds_to_nothing_is_a_tie() -> None:
    """0.3% more load, even on every seed, is about the same load."""
    comparison = versus_chunk((401.0, 401.0), (400.0, 400.0))
    assert verdicts(comparison)[0].outcome == "tie"


def test_a_target_that_only_polyserve_reaches_is_a_win_without_a_ratio() -> None:
    """No ratio is made up when no baseline reaches the target."""
    comparison = versus_chunk((400.0,), ())
    assert verdicts(comparison)[0].outcome == "win"
    assert verdicts(comparison)[0].ratio is None
    assert "which no baseline reaches at any rate" in headline(comparison)


def test_a_target_that_polyserve_never_reaches_is_said_first() -> None:
    """The headline of a policy that never attains the target says so, and who does."""
    comparison = versus_chunk((), (320.0,))
    assert headline(comparison).startswith(
        "polyserve does not reach 99% attainment at any rate; the best baseline (chunk) does, but 1.25x"
    )
    assert losses(comparison)[0] == "Goodput at 99% attainment: no rate at all against 320 for chunk."


def test_without_polyserve_the_best_policy_heads_the_page() -> None:
    """A comparison of baselines alone is about the best of them."""
    comparison = plausible_comparison({"chunk": 352.0, "random": 262.0}, with_timeline=False)
    assert headline(comparison) == "chunk serves the most load, 352 requests/s at 99% attainment."
    assert losses(comparison) == ()
    assert verdicts(comparison) == ()


def test_losses_name_attainment_and_cost_by_rate() -> None:
    """Where a baseline attains more, or the same for less, the list says at which rate."""
    comparison = plausible_comparison({"polyserve": 300.0, "chunk": 400.0}, with_timeline=False)
    told = "\n".join(losses(comparison))
    assert "Attainment at 400 requests/s:" in told
    assert "for chunk" in told
    assert losses(plausible_comparison(with_timeline=False)) == ()


def test_a_cheap_policy_that_fails_its_requests_is_no_loss() -> None:
    """Costs are compared only with baselines that attain 0.90 or more."""
    comparison = plausible_comparison({"polyserve": 420.0, "random": 100.0}, with_timeline=False)
    assert not [sentence for sentence in losses(comparison) if sentence.startswith("Cost")]


def test_the_share_of_the_optimum_is_cut_not_rounded(comparison: Comparison) -> None:
    """402 of 427 is 94.14%: it reads 94.1%; the optimum itself is named."""
    sentence = optimum_sentence(comparison)
    assert sentence is not None
    assert sentence.startswith("Of the fluid optimum (427 requests/s) polyserve reaches 94.1% at 99%")


def test_a_lower_bound_is_said_to_be_one(comparison: Comparison) -> None:
    """A goodput that no run reached the end of makes its ratio a bound; two of them decide nothing."""
    ours = _bounded(comparison, "polyserve")
    assert "serves at least 1.14x the load of the best baseline (chunk) at 99%" in headline(ours)
    assert "reaches at least 94.1% at 99% attainment" in (optimum_sentence(ours) or "")
    assert lead_text(ours, "chunk", 0.99) == "≤ 0.88x"
    theirs = _bounded(with_goodput(comparison, "chunk", 0.99, 420.0, 420.0, 420.0), "chunk")
    assert "serves at most 0.96x the load" in headline(theirs)
    both = _bounded(_bounded(comparison, "polyserve"), "chunk")
    assert headline(both).startswith("neither polyserve nor the best baseline (chunk) falls below 99% attainment")
    assert lead_text(both, "chunk", 0.99) == "-"


def _bounded(comparison: Comparison, policy: str) -> Comparison:
    bounded = [
        replace(g, is_lower_bound=True) if (g.policy, g.target) == (policy, 0.99) else g for g in comparison.goodputs
    ]
    return replace(comparison, goodputs=tuple(bounded))
