"""What is compiled ahead is what runs ask for."""

from __future__ import annotations

from polyslo.policies.decide import on_arrival, on_iteration_settled, on_prefilled
from polyslo.sim.engine import end_iteration, join_batch, start_iteration, submit, take_back
from polyslo.sim.events import pop_event
from polyslo.sim.fleet import PolicySpec
from polyslo.sim.setting import Setting
from polyslo.sim.warmup import compile_decisions, compile_engine

AHEAD = (
    on_arrival, on_iteration_settled, on_prefilled,
    end_iteration, join_batch, pop_event, start_iteration, submit, take_back,
)  # fmt: skip


def test_runs_compile_nothing_of_it_anew():
    """Every function that is compiled ahead has one signature, also after a run: the one that the run asks for."""
    compile_engine()
    compile_decisions()
    ahead = [function.signatures for function in AHEAD]
    assert [len(signatures) for signatures in ahead] == [1] * len(AHEAD)
    setting = Setting.of(instances=2, mode="pd")
    setting.run([PolicySpec.parse("polyserve")], 0.5 * setting.optimum_rps(), 0, 2.0)
    assert [function.signatures for function in AHEAD] == ahead
