"""Decisions over live streams against the simulator, which knows everything: the same attainment, and no trace left."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from virtual_fleet import VirtualFleet

from polyslo.core.fluid import LengthMoments, optimum_rps
from polyslo.core.state import DISPATCH, DRAINING, FITS, REFUSE, RELEGATE, RETIER, UNHEALTHY, WITHDRAW, new_fleet
from polyslo.gateway.decider import Decider
from polyslo.gateway.requests.request import Request
from polyslo.policies.table import POLYSERVE
from polyslo.profiles.library import load_profile
from polyslo.sim.fleet import FleetConfig, PolicySpec
from polyslo.sim.run import build_world, run_world
from polyslo.sim.world import ATTAINED
from polyslo.workload.model import load_model
from polyslo.workload.slo import lay, load_slo_mix

NUM_INSTANCES, NUM_REQUESTS, SEED = 4, 1000, 2
TOLERANCE = 0.005
COUNTERS = ("num_residents", "num_decodes", "num_own", "num_queued", "queued_tokens", "decode_kv_tokens", "kv_tokens",
            "committed_tokens", "busy")  # fmt: skip


@cache
def _profile():
    return load_profile("llama-3.1-8b-h200-tp1").profile


@cache
def _workload(ratio):
    """Return requests at a share of the fluid optimum."""

    def draw(count, rate_rps):
        trace = load_model("azure2023-conv").sample(count, rate_rps, SEED, "poisson")
        return lay(trace, load_slo_mix("default"), SEED, _profile().idle_ttft_s)

    sample = draw(2000, 50.0)
    shares = np.bincount(sample.tier, minlength=len(sample.tpots_s)) / len(sample)
    moments = LengthMoments.of(sample.input_tokens, sample.output_tokens)
    optimum = optimum_rps(_profile(), sample.tpots_s, shares, moments, num_instances=NUM_INSTANCES, mode="co")
    return draw(NUM_REQUESTS, ratio * optimum)


@cache
def _simulated(policy, ratio):
    world = build_world(
        _workload(ratio), _profile(), PolicySpec.parse(policy), FleetConfig(num_instances=NUM_INSTANCES)
    )
    run_world(world)
    return float(np.mean(world.jobs["outcome"] == ATTAINED))


def check_empty(decider, num_records):
    """Nothing is believed to be anywhere, and every record is free, once."""
    fleet = decider.fleet
    for name in COUNTERS:
        assert not fleet.instances[name].any(), (name, fleet.instances[name])
    assert not fleet.pending_size.any()
    assert not decider.has_news
    assert sorted(decider.free) == list(range(num_records))


@pytest.mark.parametrize("ratio", [0.7, 0.97, 1.15])
@pytest.mark.parametrize("hidden", [False, True], ids=["streamed", "hidden"])
@pytest.mark.parametrize("policy", ["polyserve", "minimal"])
def test_live_decisions_attain_what_the_simulator_does(policy, hidden, ratio):
    """To half a point, below, at and over capacity, though streams show tokens only, and hidden ones not even that."""
    fleet = VirtualFleet(_workload(ratio), _profile(), policy=policy, num_instances=NUM_INSTANCES, hidden=hidden)
    fleet.run()
    assert not np.isnan(fleet.last_s).any(), "a request was never served"
    assert fleet.attainment == pytest.approx(_simulated(policy, ratio), abs=TOLERANCE)
    check_empty(fleet.decider, 4096)


def test_records_are_used_again():
    """A thousand requests need no more records than are under way at once."""
    fleet = VirtualFleet(_workload(0.7), _profile(), num_instances=NUM_INSTANCES, num_records=400)
    fleet.run()
    assert fleet.attainment == pytest.approx(_simulated("polyserve", 0.7), abs=TOLERANCE)
    check_empty(fleet.decider, 400)


class Shell:
    """A decider and what it asked to be done."""

    def __init__(self, num_instances=2, num_records=8, on_action=None):
        fleet = new_fleet(_profile(), num_instances=num_instances, tpots_s=[0.02, 0.05], num_requests=num_records)
        for name in ("elastic", "promote", "by_deadline", "relegate"):
            fleet.settings[name] = 1
        fleet.settings["lengths"] = 1
        self.done = []
        self.on_action = on_action
        self.decider = Decider(fleet, POLYSERVE, self._carry_out)

    def _carry_out(self, kind, r, i):
        self.done.append((kind, r, i))
        if self.on_action:
            self.on_action(self, kind, r, i)

    def send(self, *, at_s=0.0, ttft_s=5.0, input_tokens=1000, tier=1, streamed=True):
        """Let a request arrive and return its record."""
        r = self.decider.enter()
        tpot_s = float(self.decider.fleet.tpots_s[tier])
        self.decider.arrive(r, Request(at_s, ttft_s, tpot_s, tier, input_tokens, 500, streamed), at_s)
        return r

    def kinds(self, r):
        """Return what was done about a request."""
        return [kind for kind, request, _ in self.done if request == r]


def test_what_is_decided_while_actions_are_carried_out_comes_after_them():
    """A shell that lets a request in while it carries out another one's dispatch sees whole decisions, in order."""

    def once(shell, kind, r, i):
        if kind == DISPATCH and not hasattr(shell, "inner"):
            shell.inner = None
            shell.inner = shell.send()
            assert shell.kinds(shell.inner) == []  # decided, but not yet carried out

    shell = Shell(on_action=once)
    outer = shell.send()
    dispatched = [r for kind, r, _ in shell.done if kind == DISPATCH]
    assert dispatched == [outer, shell.inner]


def test_a_shell_that_fails_leaves_the_rest_to_be_done():
    """An exception of a shell's comes through; what was decided besides is carried out after the next decision."""

    def fail(shell, kind, r, i):
        if len(shell.done) == 1:
            raise RuntimeError("no")

    shell = Shell(on_action=fail)
    with pytest.raises(RuntimeError, match="no"):
        shell.send()
    assert [kind for kind, _, _ in shell.done] == [RETIER]
    shell.decider.tick(0.001)
    assert [kind for kind, _, _ in shell.done] == [RETIER, DISPATCH]


def test_news_and_ends_beyond_the_buffers_are_digested_on_the_way():
    """More news than the buffers hold loses nothing."""
    shell = Shell()
    r = shell.send()
    shell.decider.saw_tokens(r, 1, 0.05)
    capacity = len(shell.decider.streams.news)
    for k in range(capacity + 5):
        shell.decider.saw_tokens(r, 1, 0.05 + 1e-3 * k)
    shell.decider.saw_end(r, capacity + 6, 20.0)
    shell.decider.digest(20.0)
    check_empty(shell.decider, 8)


def test_news_of_many_at_once_is_as_news_of_each():
    """Rows are taken in order, with what came one by one before, and lose nothing where there is no room for all."""
    states = []
    for at_once in (1, 7, 64):
        shell = Shell()
        streams = [shell.send() for _ in range(3)]
        tokens = [(streams[k % 3], 1 + k % 2) for k in range(len(shell.decider.streams.news) + 100)]
        shell.decider.saw_tokens(streams[0], 1, 0.05)
        for k in range(0, len(tokens), at_once):
            rows = np.array(tokens[k : k + at_once])
            if at_once == 1:
                shell.decider.saw_tokens(*map(int, rows[0]), 0.05)
            else:
                shell.decider.saw_many(rows, 0.05)
        assert shell.decider.has_news
        shell.decider.digest(0.06)
        states.append([int(shell.decider.streams.stream_tokens[r]) for r in streams])
        for r in streams:
            shell.decider.lose(r, 0.07)
        check_empty(shell.decider, 8)
    assert states[0] == states[1] == states[2]
    assert sum(states[0]) == 1 + sum(count for _, count in tokens)


def test_losing_a_request_takes_in_its_news_first():
    """Its last tokens, seen but not digested, must not be counted for whoever has its record next."""
    shell = Shell()
    r = shell.send()
    shell.decider.saw_tokens(r, 1, 0.05)
    shell.decider.saw_tokens(r, 3, 0.06)
    shell.decider.lose(r, 0.06)
    again = shell.send(at_s=0.07)
    assert again == r
    shell.decider.digest(0.07)
    assert shell.decider.streams.stream_tokens[again] == 0
    shell.decider.lose(again, 0.08)
    check_empty(shell.decider, 8)


@pytest.mark.parametrize("ends", ["end", "lose"])
def test_work_that_was_taken_back_ends_all_the_same(ends):
    """A best-effort request whose last token was under way when its instance was claimed is over, and forgotten."""
    shell = Shell(num_instances=1)
    late = shell.send(ttft_s=0.0001)
    shell.decider.tick(0.001)
    assert shell.kinds(late) == [RELEGATE, DISPATCH]
    shell.decider.saw_tokens(late, 1, 0.05)
    shell.decider.digest(0.05)
    urgent = shell.send(at_s=0.06)
    assert shell.kinds(late)[-1] == WITHDRAW
    if ends == "end":
        shell.decider.saw_end(late, 2, 0.061)
    else:
        shell.decider.lose(late, 0.061)
    shell.decider.digest(0.062)
    shell.decider.lose(urgent, 0.07)
    check_empty(shell.decider, 8)


def test_refused_requests_give_their_records_back():
    """Told to refuse, the decider says so once; `release` frees the record."""
    shell = Shell(num_instances=1)
    shell.decider.fleet.settings["refuse"] = 1
    r = shell.send(ttft_s=0.0001)
    shell.decider.tick(0.001)
    assert shell.kinds(r) == [REFUSE]
    shell.decider.release(r)
    check_empty(shell.decider, 8)


def test_closing_and_opening_moves_what_waits():
    """With both instances closed a request waits; opening one sends it there and nowhere else."""
    shell = Shell()
    shell.decider.close(0, DRAINING, 0.0)
    shell.decider.close(1, UNHEALTHY, 0.0)
    r = shell.send()
    shell.decider.tick(0.01)
    assert shell.kinds(r) == []
    shell.decider.open(1, 0.02)
    assert [action for action in shell.done if action[0] != RETIER] == [(DISPATCH, r, 1)]
    assert shell.decider.fleet.instances["closed"].tolist() == [DRAINING, FITS]


def test_when_no_record_is_free_none_is_given():
    """`enter` says so; the caller refuses."""
    shell = Shell(num_records=1)
    r = shell.send()
    assert shell.decider.enter() is None
    shell.decider.lose(r, 0.1)
    assert shell.decider.enter() == r
