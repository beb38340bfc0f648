"""Output lengths that requests leave open."""

from __future__ import annotations

import numpy as np
import pytest

from polyslo.engines.output_lengths import OutputLengths
from polyslo.errors import ConfigError
from polyslo.workload.model import load_model

RANKS = (np.arange(4000) + 0.5) / 4000


def test_a_number_is_every_length():
    """A plain number of tokens is a constant."""
    lengths = OutputLengths.parse("70")
    assert {lengths.tokens(n, rank) for n in (1, 10**6) for rank in (0.0, 0.5, 0.999999)} == {70}


def test_log_normal_lengths_have_the_mean_and_spread():
    """The mean is the one given, the spread of the logarithm is sigma, and no length is below 1."""
    lengths = OutputLengths.parse("lognormal:300:0.8")
    drawn = np.array([lengths.tokens(5, rank) for rank in RANKS])
    assert drawn.mean() == pytest.approx(300, rel=0.01)
    assert np.log(drawn).std() == pytest.approx(0.8, rel=0.05)
    assert {OutputLengths.parse("lognormal:1:4").tokens(5, rank) for rank in RANKS[:100]} == {1}


def test_a_workloads_lengths_go_with_its_prompts():
    """The mean over the workload's own prompts is the workload's, and each prompt length has its own."""
    name = "azure2023-conv"
    lengths, model = OutputLengths.parse(name), load_model(name)
    prompts = model.sample(4000, 1.0, 5).input_tokens
    drawn = [lengths.tokens(int(n), rank) for n, rank in zip(prompts, RANKS[::-1], strict=True)]
    assert np.mean(drawn) == pytest.approx(model.mean_output_tokens, rel=0.1)
    means = [np.mean([lengths.tokens(n, rank) for rank in RANKS]) for n in (300, 1000, 7000)]
    assert max(means) > 1.5 * min(means)


@pytest.mark.parametrize("text", ["lognormal:0:1", "lognormal:10", "lognormal:10:nan", "azure", ""])
def test_what_is_no_distribution_is_refused(text):
    """Errors name the option and what it takes."""
    with pytest.raises(ConfigError, match="--output-lengths: "):
        OutputLengths.parse(text)
