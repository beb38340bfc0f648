"""The emulated engine on virtual time: the simulator's times, and accounts that return to zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.engines.clock import VirtualClock
from polyslo.engines.emulated_engine import EmulatedEngine, EngineSettings
from polyslo.errors import ConfigError, InputError
from polyslo.profiles.library import load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world, run_world
from polyslo.workload.model import load_model
from polyslo.workload.workload import Workload

from .conftest import Tokens

NUM_REQUESTS = 900


def make_workload(rate_rps, tpot_s=0.05, ttft_s=0.5):
    """Requests of a shipped workload, all with the same SLO."""
    trace = load_model("azure2023-conv").sample(NUM_REQUESTS, rate_rps, 3, "poisson")
    same = np.ones(NUM_REQUESTS)
    return Workload(
        "same", trace.arrival_s, trace.input_tokens, trace.output_tokens, ttft_s * same, tpot_s * same, (tpot_s,),
        np.zeros(NUM_REQUESTS, dtype=np.int32),
    )  # fmt: skip


def simulate(workload, profile, policy, kv_capacity_tokens):
    """First and last token times of one simulated instance, and its preemptions."""
    config = FleetConfig(num_instances=1, kv_capacity_tokens=kv_capacity_tokens)
    world = build_world(workload, profile, PolicySpec.parse(policy), config)
    run_world(world)
    return world.jobs["first_token_s"], world.jobs["last_token_s"], int(world.clock["num_preemptions"][0])


def emulate(workload, engine, clock, with_slo=False):
    """The same of an emulated engine that is sent the same requests at the same times."""
    seen = [Tokens(clock) for _ in range(len(workload))]

    def send(r):
        slo = {"first_due_in_s": workload.ttft_s[r], "tpot_s": workload.tpot_s[r]} if with_slo else {}
        engine.submit(int(workload.input_tokens[r]), int(workload.output_tokens[r]), seen[r], **slo)

    for r, arrival_s in enumerate(workload.arrival_s):
        clock.call_at(float(arrival_s), lambda r=r: send(r))
    clock.run()
    assert [len(tokens.times_s) for tokens in seen] == workload.output_tokens.tolist()
    first_s, last_s = [t.times_s[0] for t in seen], [t.times_s[-1] for t in seen]
    return np.array(first_s), np.array(last_s), engine.num_preemptions


@pytest.mark.parametrize(("rate_rps", "kv_capacity_tokens"), [(15.0, 822_753), (20.0, 40_000)])
def test_tokens_come_when_the_simulator_says(profile, clock, rate_rps, kv_capacity_tokens):
    """First and last tokens have the simulator's times, with ample memory and with preemptions, numbers used again."""
    workload = make_workload(rate_rps)
    expected = simulate(workload, profile, "round-robin:chunk=2048,relegate=off", kv_capacity_tokens)
    settings = EngineSettings(
        kv_capacity_tokens=kv_capacity_tokens, max_num_batched_tokens=2048, max_requests=NUM_REQUESTS // 3
    )
    first_s, last_s, num_preemptions = emulate(workload, EmulatedEngine(profile, settings, clock), clock)
    assert first_s == pytest.approx(expected[0], abs=1e-6)
    assert last_s == pytest.approx(expected[1], abs=1e-6)
    assert num_preemptions == expected[2]
    assert (num_preemptions > 0) == (kv_capacity_tokens < 100_000)


def test_dynamic_chunks_are_the_simulators(profile, clock):
    """With SLOs and dynamic chunking, tokens come as in a simulated tier that keeps to its TPOT."""
    workload = make_workload(12.0, tpot_s=0.03)
    expected = simulate(workload, profile, "static-tiers:relegate=off", None)
    engine = EmulatedEngine(profile, EngineSettings(dynamic_chunking=True), clock)
    first_s, last_s, _ = emulate(workload, engine, clock, with_slo=True)
    assert first_s == pytest.approx(expected[0], abs=1e-6)
    assert last_s == pytest.approx(expected[1], abs=1e-6)


def test_iterations_keep_to_the_tightest_tpot_inside(make_engine, submit, clock):
    """Beside a long prompt, the tokens of a request with a TPOT keep to it; without the option they don't."""
    paces_s = {}
    for dynamic in (True, False):
        engine = make_engine(dynamic_chunking=dynamic)
        tokens, _ = submit(engine, 100, 60, tpot_s=0.015, first_due_in_s=1.0)
        clock.run_until(clock.now_s() + 0.05)
        submit(engine, 30_000, 2)
        clock.run()
        paces_s[dynamic] = max(np.diff(tokens.times_s))
    assert paces_s[True] <= 0.015 + 1e-9
    assert paces_s[False] > 0.1


def test_a_prompt_with_an_earlier_deadline_goes_first(make_engine, submit, clock):
    """With dynamic chunking the prefill queue is by deadline; a request without an SLO comes last."""
    engine = make_engine(dynamic_chunking=True, max_num_batched_tokens=512)
    slos = ({}, {"tpot_s": 0.1, "first_due_in_s": 9.0}, {"tpot_s": 0.1, "first_due_in_s": 5.0})
    submit(engine, 500, 2)  # is under way when the others come
    seen = [submit(engine, 500, 1, **slo)[0] for slo in slos]
    clock.run()
    first_s = [tokens.times_s[0] for tokens in seen]
    assert first_s[2] < first_s[1] < first_s[0]


def test_an_aborted_request_leaves_batch_and_memory(make_engine, submit, clock):
    """Abort while waiting, in prefill and in decode: no further token, memory is free, the others go on."""
    engine = make_engine(max_num_batched_tokens=512)
    decoding, decoder = submit(engine, 100, 1000)
    clock.run_until(0.1)
    prefilling, prefiller = submit(engine, 5000, 10)
    staying, _ = submit(engine, 50, 20)
    waiting, waiter = submit(engine, 5000, 10)
    clock.run_until(0.13)
    assert engine.num_running == 2
    num_before = len(decoding.times_s)
    for resident in (decoder, prefiller, waiter, waiter):
        engine.abort(resident)
    clock.run()
    assert len(decoding.times_s) == num_before
    assert prefilling.times_s == waiting.times_s == []
    assert staying.is_finished
    assert (engine.kv_tokens, engine.num_residents, engine.num_running) == (0, 0, 0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 900), st.integers(1, 60)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("wait"), st.floats(0.0, 0.2)),
        st.tuples(st.just("jump"), st.floats(0.0, 0.1)),
        st.tuples(st.just("stall"), st.floats(0.001, 0.1)),
    ),
    max_size=60,
)


@given(ACTIONS, st.booleans())
@settings(max_examples=60)
def test_accounts_return_to_zero(actions, dynamic):
    """After any submits, aborts, pauses and stalls, with memory for few: every token came once, nothing is held."""
    clock = VirtualClock()
    limits = EngineSettings(
        kv_capacity_tokens=1500, max_num_seqs=6, max_requests=10, max_num_batched_tokens=128, dynamic_chunking=dynamic
    )
    engine = EmulatedEngine(load_profile("llama-3.1-8b-h200-tp1").profile, limits, clock)
    sent = []
    for kind, *values in actions:
        if kind == "submit" and not engine.is_full:
            tokens = Tokens(clock)
            sent.append((tokens, engine.submit(*values, tokens, tpot_s=0.02), values[1]))
        elif kind == "abort" and sent:
            tokens, resident, _ = sent.pop(values[0] % len(sent))
            engine.abort(resident)
            tokens.is_finished = True  # hearing of another token fails
        elif kind == "wait":
            clock.run_until(clock.now_s() + values[0])
        elif kind == "jump":
            clock.jump(values[0])
        elif kind == "stall":
            engine.stall(values[0])
        assert 0 <= engine.kv_tokens <= 1500
        assert 0 <= engine.num_running <= engine.num_residents
    clock.run()
    assert all(tokens.is_finished and len(tokens.times_s) == length for tokens, _, length in sent)
    assert (engine.kv_tokens, engine.num_residents, engine.num_running) == (0, 0, 0)


def test_a_late_timer_does_not_delay_what_follows(make_engine, submit, clock):
    """A timer that fires 20 ms late: the tokens after it come when they would have; the lag is counted."""
    seen = {}
    for late_s in (0.0, 0.02):
        engine, start_s = make_engine(), clock.now_s()
        tokens, _ = submit(engine, 100, 50)
        clock.run_until(start_s + 0.101)
        clock.jump(late_s)
        clock.run()
        seen[late_s] = np.array(tokens.times_s) - start_s
        assert engine.lost_s == 0.0
        assert engine.lag.count == 50
        assert max(engine.lag.sum, 1e-9) == pytest.approx(2.5 * late_s, rel=0.5, abs=1e-6)
    assert seen[0.0][-1] == pytest.approx(seen[0.02][-1], abs=1e-9)


def test_a_long_pause_is_lost(make_engine, submit, clock):
    """After a pause of a second the engine goes on from there, and tells the time it lost."""
    engine = make_engine()
    tokens, _ = submit(engine, 100, 50)
    clock.run_until(0.1)
    clock.jump(1.0)
    clock.run()
    assert engine.lost_s == pytest.approx(1.0, abs=0.02)
    assert max(np.diff(tokens.times_s)) == pytest.approx(1.0, abs=0.02)
    assert tokens.times_s[-1] > 1.2


def test_a_request_that_comes_before_a_late_timer_joins_the_next_iteration(make_engine, submit, clock):
    """An iteration that is over by the clock ends before the request is taken, as it would have on time."""
    engine = make_engine()
    tokens, _ = submit(engine, 100, 50)
    clock.run_until(0.1)
    clock.jump(0.01)
    num_before = len(tokens.times_s)
    newcomer, _ = submit(engine, 100, 2)
    assert len(tokens.times_s) > num_before
    clock.run()
    assert newcomer.times_s[0] < 0.13


def test_a_receiver_may_send_and_abort_requests(make_engine, clock):
    """Whoever is told of a token may end other requests and send new ones, at once."""
    engine, heard = make_engine(max_requests=2), []
    other = engine.submit(10, 50, lambda is_last: heard.append("other"))

    def chain(is_last):
        heard.append("chain")
        engine.abort(other)
        if is_last and len(heard) < 40:
            engine.submit(10, 2, chain)

    engine.submit(10, 2, chain)
    clock.run()
    assert "other" not in heard[2:]
    assert len(heard) >= 40
    assert (engine.kv_tokens, engine.num_residents) == (0, 0)


@pytest.mark.parametrize("is_idle", [False, True])
def test_a_stall_stops_tokens_and_ends(make_engine, submit, clock, is_idle):
    """No token comes while the engine is stalled, busy or idle; then everything goes on."""
    engine = make_engine()
    if not is_idle:
        early, _ = submit(engine, 100, 50)
        clock.run_until(0.1)
    engine.stall(2.0)
    late, _ = submit(engine, 100, 5)
    clock.run()
    assert late.times_s[0] > 2.0
    assert late.is_finished
    if not is_idle:
        assert max(np.diff(early.times_s)) == pytest.approx(2.0, abs=0.02)
    assert engine.lag.sum == pytest.approx(0.0, abs=1e-6)


def test_a_slow_engine_takes_a_factor_longer(make_engine, submit, clock):
    """Iterations take the factor times as long until it is taken back."""
    engine = make_engine()
    tokens, _ = submit(engine, 100, 30)
    clock.run_until(0.05)
    engine.slow_down(10.0)
    clock.run_until(0.5)
    engine.slow_down(1.0)
    clock.run()
    paces_s = np.diff(tokens.times_s)
    assert max(paces_s) == pytest.approx(10 * min(paces_s), rel=0.05)


def test_a_crash_loses_everything_and_keeps_the_counters(make_engine, submit, clock):
    """After a crash the engine is empty and takes requests; nobody of before hears another token."""
    engine = make_engine()
    before, _ = submit(engine, 100, 50)
    clock.run_until(0.1)
    num_before, num_iterations = len(before.times_s), engine.num_iterations
    engine.crash()
    assert (engine.kv_tokens, engine.num_residents) == (0, 0)
    after, _ = submit(engine, 100, 5)
    clock.run()
    assert len(before.times_s) == num_before
    assert after.is_finished
    assert engine.num_iterations > num_iterations


def test_what_does_not_fit_is_refused(make_engine, profile, clock):
    """Too long, empty, one too many, and a context longer than the memory are errors that name the numbers."""
    engine = make_engine(kv_capacity_tokens=1000, max_requests=1)
    with pytest.raises(InputError, match=r"990 \+ 11 tokens.*at most 1000"):
        engine.submit(990, 11, lambda is_last: None)
    with pytest.raises(InputError, match="at least 1"):
        engine.submit(0, 1, lambda is_last: None)
    engine.submit(990, 10, lambda is_last: None)
    with pytest.raises(InputError, match="fewer than 1 requests"):
        engine.submit(1, 1, lambda is_last: None)
    with pytest.raises(ConfigError, match="holds 1,000; lower it"):
        make_engine(kv_capacity_tokens=1000, max_model_len=2000)
    with pytest.raises(ConfigError, match="max_num_seqs must be from 1 to 8192, got 0"):
        EngineSettings(max_num_seqs=0)
