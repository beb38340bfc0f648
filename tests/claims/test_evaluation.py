"""The evaluation's stages, with workers whose answers are known."""

from __future__ import annotations

from itertools import product

import pytest
from click.testing import CliRunner

from claims.fakes import Formula
from polyslo.claims.cases import WORKLOADS, Case, family
from polyslo.claims.disturbances import COLD_STARTS_S, disturbances
from polyslo.claims.draft import TUNING_RATIO
from polyslo.claims.evaluation import QUICK_SEEDS, SEEDS, evaluate
from polyslo.claims.mechanisms import INSTEAD
from polyslo.claims.store import Store
from polyslo.claims.sweep import Sweep
from polyslo.claims.work import Inspection, Search, Trial
from polyslo.cli.main import cli
from polyslo.sim.run import WARMUP_RATIO

CASE = Case(WORKLOADS[0], "co")

pytestmark = pytest.mark.slow  # every workload and every disturbance is resolved


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Return a full and a quick evaluation, each with the workers that did it."""
    found = {}
    for quick in (False, True):
        workers = Formula()
        sweep = Sweep(Store(tmp_path_factory.mktemp("state")), workers)
        found[quick] = evaluate(sweep, quick=quick), workers
    return found


def test_every_workload_is_a_cell_in_both_modes(evaluated):
    """Nothing is dropped, quick or not."""
    for claims, _ in evaluated.values():
        assert [(c.workload, c.mode) for c in claims.cells] == [(w, m) for m in ("co", "pd") for w in WORKLOADS]


def test_a_baseline_is_scored_as_it_is_best_at_each_target(evaluated):
    """Of `chunk` 512 tokens are best at 0.99 and 2,048 at 0.90; each is scored where it is best."""
    claims, _ = evaluated[False]
    cell = claims.cells[0]
    mine = {g.target: g.policy for g in cell.goodputs if g.policy.startswith("chunk")}
    assert mine == {0.99: "chunk:chunk=512", 0.90: "chunk:chunk=2048"}


def test_relegation_off_is_tried_and_may_be_best(evaluated):
    """A baseline that is better without relegation is scored without it."""
    claims, _ = evaluated[False]
    assert claims.cells[0].best_baseline(0.99).policy == "static-tiers:relegate=off"
    assert claims.cells[0].ratio(0.99) == pytest.approx(0.95 / 0.85)
    assert claims.cells[0].best_baseline(0.90).policy == "chunk:chunk=2048"


def test_goodput_is_the_mean_over_seeds(evaluated):
    """Three seeds of 100, 99 and 98%: the mean is 99% of the first, inside its interval."""
    claims, _ = evaluated[False]
    cell = claims.cells[0]
    ours = cell.ours(0.99)
    assert len(ours.per_seed_rps) == SEEDS
    assert ours.rate_rps == pytest.approx(0.99 * 0.95 * cell.optimum_rps)
    assert ours.low_rps < ours.rate_rps < ours.high_rps


def test_parameters_that_lead_in_short_runs_are_chosen_by_full_ones(evaluated):
    """The two best of each policy and its defaults are searched at full length, from where the short runs ended.

    `lmetric` with 256 tokens leads in short runs and serves less at full length than with 512. Quick runs are once.
    """
    for quick, (claims, workers) in evaluated.items():
        cell = claims.cells[0]
        mine = [u for u in workers.asked if isinstance(u, Search) and u.case == CASE and u.seed == 0]
        tuning = [u for u in mine if not u.guesses_rps]
        full = [u for u in mine if u.guesses_rps and u.duration_s == cell.duration_s]
        assert {u.policy for u in tuning} == {tried.policy for tried in cell.tuned}
        tuning_s = cell.duration_s if quick else round(TUNING_RATIO * cell.duration_s, 1)
        assert {u.duration_s for u in tuning} == {tuning_s}
        assert {u.duration_s for u in full} == (set() if quick else {cell.duration_s})
        best = {g.policy for g in cell.goodputs}
        assert best <= {tried.policy for tried in cell.tried}
        if not quick:
            assert {u.policy for u in full} == {tried.policy for tried in cell.tried}
            assert {p for p in (u.policy for u in full) if p.startswith("lmetric")} == {
                "lmetric:chunk=256", "lmetric:chunk=512"
            }  # fmt: skip
            assert {p for p in best if p.startswith("lmetric")} == {"lmetric:chunk=512"}


def test_a_looser_target_is_never_served_less(evaluated):
    """Whatever was chosen at each target: more is served at 0.90 than at 0.99, as one run tells of both."""
    for claims, _ in evaluated.values():
        for cell in claims.cells:
            for name in cell.policies:
                strict, loose = (cell.goodput(name, target) for target in claims.targets)
                assert strict.per_seed_rps[0] <= loose.per_seed_rps[0]


def test_further_seeds_begin_where_the_first_ended(evaluated):
    """Their guesses are what the first seed found."""
    _, workers = evaluated[False]
    further = [unit for unit in workers.asked if isinstance(unit, Search) and unit.seed > 0]
    assert further
    assert all(unit.guesses_rps for unit in further)


def test_every_mechanism_is_ablated_on_every_workload(evaluated):
    """All of them, in the order in which they are explained."""
    claims, workers = evaluated[False]
    for cell in claims.cells:
        assert [a.mechanism for a in cell.ablations] == list(INSTEAD)
        mine = [u for u in workers.asked if (u.case.name, u.case.mode) == (cell.workload, cell.mode)]
        mine = [u for u in mine if "without=" in u.policy and isinstance(u, Search)]
        assert {u.duration_s for u in mine} == {round(TUNING_RATIO * cell.duration_s, 1)}
        promotion = next(a for a in cell.ablations if a.mechanism == "promotion")
        assert promotion.rates_rps[0] == pytest.approx(0.9 * cell.optimum_rps)


def test_cost_is_looked_at_without_every_mechanism(evaluated):
    """Polyserve with all of them first, then without each, on the first seed's requests, at each load."""
    claims, workers = evaluated[False]
    for cell in claims.cells:
        assert [(cost.share, cost.mechanism) for cost in cell.costs] == list(product((0.4, 0.8), (None, *INSTEAD)))
        assert [cost.mean_instances for cost in cell.costs] == pytest.approx([1.05 * c.share * 20 for c in cell.costs])
    runs = [u for u in workers.asked if isinstance(u, Trial) and u.policy == "polyserve:without=promotion"]
    for run, (cell, share) in zip(runs, product(claims.cells, (0.4, 0.8)), strict=True):
        assert (run.seed, run.duration_s, run.rate_rps) == (0, cell.duration_s, pytest.approx(share * cell.optimum_rps))


def test_misses_are_inspected_where_too_little_is_served(evaluated, tmp_path):
    """At 95% of the optimum nobody looks; at 80% every cell has the misses of a run at 92.5%."""
    assert all(cell.misses is None for cell in evaluated[True][0].cells)
    workers = Formula(ours=(0.8, 0.9))
    claims = evaluate(Sweep(Store(tmp_path), workers), quick=True)
    looks = [unit for unit in workers.asked if isinstance(unit, Inspection)]
    assert [look.rate_rps for look in looks] == [pytest.approx(0.925 * c.optimum_rps, abs=1e-3) for c in claims.cells]
    assert all(cell.misses is not None for cell in claims.cells)


def test_disturbed_settings_are_measured_by_their_own_optimum(evaluated):
    """Each level has its optimum, and polyserve and two rivals have their goodputs; one where fleets are largest."""
    claims, _ = evaluated[False]
    large = next(d for d in claims.disturbed if d.topic == "instances" and d.level == "1,024" and d.mode == "co")
    usual = next(d for d in claims.disturbed if d.topic == "nothing" and d.mode == "co")
    assert large.optimum_rps == pytest.approx(1024 / 20 * usual.optimum_rps)
    assert large.rates_rps[0][0] == pytest.approx(0.95 * large.optimum_rps)
    assert all(len(d.policies) == len(d.rates_rps) == 3 for d in claims.disturbed if d.level != "1,024")
    assert [family(policy) for policy in large.policies] == ["polyserve", "static-tiers"]


def test_cold_starts_are_looked_at_at_light_load(evaluated):
    """Each in both modes at 30% of the optimum, in runs whose warm-up outlasts what is warm at their beginning."""
    claims, workers = evaluated[False]
    found = [(c.mode, c.cold_start_s) for c in claims.cold_starts]
    assert found == [(mode, start_s) for mode in ("co", "pd") for start_s in (0.0, 10.0, 30.0, 120.0)]
    assert all(c.mean_instances == pytest.approx(1.05 * 6) for c in claims.cold_starts)
    assert all(c.warm_instances == pytest.approx(0.0, abs=1e-9) for c in claims.cold_starts)
    runs = [u for u in workers.asked if isinstance(u, Trial) and dict(u.case.fleet).get("cold_start_s") == 120.0]
    assert [run.case.mode for run in runs] == ["co", "pd"]
    assert all(WARMUP_RATIO * run.duration_s > 120.0 for run in runs)


def test_quick_leaves_out_what_takes_long(evaluated):
    """Two seeds for polyserve and the best baselines only; nothing is ablated or disturbed."""
    claims, workers = evaluated[True]
    assert claims.is_quick
    assert not claims.disturbed
    assert not claims.cold_starts
    assert not any(cell.ablations or cell.costs for cell in claims.cells)
    seeds = {len(g.per_seed_rps) for g in claims.cells[0].goodputs if g.policy.startswith("random")}
    assert seeds == {1}
    assert len(claims.cells[0].ours(0.99).per_seed_rps) == QUICK_SEEDS
    assert len(workers.asked) < 500


def test_an_evaluation_that_was_done_is_not_done_again(tmp_path):
    """With the same state no unit is asked for, and the result is the same but for the time."""
    first = evaluate(Sweep(Store(tmp_path), Formula()), quick=True)
    workers = Formula()
    again = evaluate(Sweep(Store(tmp_path), workers), quick=True)
    assert workers.asked == []
    assert again.cells == first.cells


def test_what_is_finished_is_told_without_running_the_rest(tmp_path):
    """The main tables are whole; ablations and disturbances are left out, counted, and run the next time.

    The usual case, beside which disturbances stand, is part of the main tables.
    """
    store = Store(tmp_path)
    first = evaluate(Sweep(store, Formula()), finished=True)
    assert first.num_unablated == len(first.cells)
    assert {level.topic for level in first.disturbed} == {"nothing"}
    num_levels = sum(len(disturbances(mode)) + len(COLD_STARTS_S) for mode in ("co", "pd"))
    assert first.num_undisturbed == num_levels - len(first.disturbed)
    assert not first.cold_starts
    whole = evaluate(Sweep(store, Formula()))
    idle = Formula()
    assert evaluate(Sweep(store, idle), finished=True) == whole
    assert not idle.asked
    assert (whole.num_unablated, whole.num_undisturbed) == (0, 0)
    assert [cell.goodputs for cell in whole.cells] == [cell.goodputs for cell in first.cells]


def test_the_command_prints_a_table_and_keeps_its_state(tmp_path, monkeypatch):
    """Quick: a row a workload and the means, no page; the state and the JSON are written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("polyslo.cli.claims.LocalProcesses", lambda count: Formula())
    monkeypatch.setattr("polyslo.cli.claims.warm_up", lambda: None)
    result = CliRunner().invoke(cli, ["claims", "--quick", "--json", "c.json"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "sharegpt" in result.stdout
    assert "1.18x" in result.stdout
    assert {p.name for p in tmp_path.iterdir()} == {".claims", "c.json"}


def test_the_full_command_wants_to_know_where_the_page_goes(tmp_path, monkeypatch):
    """Without a folder `docs` it asks for one before anything is run."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["claims"])
    assert result.exit_code == 2
    assert "there is no folder docs here; name one with --out" in result.output
