from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyslo.core.profile import Profile
from polyslo.engines.step_plan import Decodes, Prompt, StepPlanner
from polyslo.profiles.library import load_profile

PROFILE = load_profile("llama-3.1-8b-h200-tp1").profile
PLANNER = StepPlanner(PROFILE, token_limit=4096, most_residents=64)


def decodes(num, kv_tokens_each=1000):
    """Decodes of the same length."""
    return Decodes(num, num * kv_tokens_each, num)


def step_s(profile: Profile, batch: Decodes, prompts, chunk):
    """How long a step lasts that spends its chunk along the prompts."""
    left, pairs = chunk, 0.0
    for prompt in prompts:
        take = min(left, prompt.remaining_tokens)
        pairs += take * (prompt.done_tokens + 0.5 * take)
        left -= take
    return profile.iteration_s(batch.num, chunk, batch.kv_tokens, pairs / chunk if chunk else 0.0)


prompts_of = st.lists(
    st.builds(Prompt, st.integers(0, 20_000), st.integers(1, 5_000), st.just(math.inf)), min_size=1, max_size=8
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 50), prompts_of, st.floats(0.006, 0.2))
def test_a_step_fills_its_budget_and_no_more(num_decodes, prompts, budget_s):
    """A chunk fits into the budget, and one token more would not, unless tokens or prompts run out."""
    batch = decodes(num_decodes)
    chunk = PLANNER.plan(budget_s, batch, prompts, 0.0).chunk
    if num_decodes == 0 and chunk <= 16:
        return  # the least with which an engine without decodes gets on
    assert chunk == 0 or step_s(PROFILE, batch, prompts, chunk) <= budget_s + 1e-9
    every = sum(prompt.remaining_tokens for prompt in prompts)
    if chunk < min(every, 4096 - num_decodes):
        assert step_s(PROFILE, batch, prompts, chunk + 1) > budget_s - 1e-9


def test_without_a_budget_the_token_limit_binds():
    """No TPOT and no pace: a step carries what it may."""
    assert PLANNER.plan(math.inf, decodes(10), [Prompt(0, 9000, math.inf)], 0.0).chunk == 4086


def test_a_first_token_that_is_due_ends_the_step():
    """A prompt that would be late with a full step is not made to share it with later ones."""
    mine, other = Prompt(0, 200, 100.02), Prompt(0, 4000, math.inf)
    alone = PLANNER.plan(0.1, decodes(4), [mine], 100.0).chunk
    shared = PLANNER.plan(0.1, decodes(4), [mine, other], 100.0).chunk
    assert alone == 200
    assert shared < PLANNER.plan(0.1, decodes(4), [Prompt(0, 200, 500.0), other], 100.0).chunk
    assert step_s(PROFILE, decodes(4), [mine, other], shared) <= 0.02 + 1e-9


def test_best_effort_waits_until_prompts_are_through():
    """While a prompt with an SLO is not through with this step, no best-effort decode joins it."""
    plan = PLANNER.plan(0.02, decodes(4), [Prompt(0, 4000, math.inf)], 0.0, [500] * 5, [Prompt(0, 100, math.inf)])
    assert plan.num_yielding == 0
    assert plan.chunk < 4000


def test_best_effort_gets_what_is_left():
    """Decodes join as far as time is left, then prompts; together they keep the budget."""
    yielding = [2000] * 30
    tight_s = PROFILE.iteration_s(4 + 10, 0, 4000 + 10 * 2000, 0.0)
    plan = PLANNER.plan(tight_s, decodes(4), [], 0.0, yielding, [Prompt(0, 100, math.inf)])
    assert plan.num_yielding == 10
    plan = PLANNER.plan(0.05, decodes(4), [], 0.0, yielding, [Prompt(0, 100, math.inf)])
    assert (plan.num_yielding, plan.chunk) == (30, 100)


def test_best_effort_leaves_slots_to_prompts():
    """A batch that best-effort work would fill keeps a place for each prompt with an SLO."""
    plan = PLANNER.plan(1.0, decodes(40), [Prompt(0, 10, math.inf)] * 4, 0.0, [10] * 60)
    assert (plan.num_yielding, plan.chunk) == (20, 40)


@pytest.mark.parametrize("count", [0, 100])
def test_any_number_of_prompts_can_be_planned(count):
    """More prompts than residents, or none, are planned as far as there are places."""
    chunk = PLANNER.plan(1.0, decodes(0), [Prompt(0, 1, math.inf)] * count, 0.0).chunk
    assert chunk == min(count, 64)
