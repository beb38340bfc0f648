import numpy as np
import pytest

from polyslo.errors import InputError
from polyslo.workload.lengths import Lengths, Quantiles, spearman


def test_a_tie_that_correlation_can_not_see_is_kept() -> None:
    """Outputs that rise and fall with the prompt (rank correlation 0) are drawn so, stratum by stratum."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(1, 4001, 50_000).astype(np.int32)
    outputs = (1 + 500 * np.sin(np.pi * inputs / 4000) + rng.integers(0, 20, 50_000)).astype(np.int32)
    assert abs(spearman(inputs, outputs)) < 0.02
    drawn_in, drawn_out = Lengths.fit(inputs, outputs).draw(50_000, np.random.default_rng(1))
    for low, high in ((0, 500), (1800, 2200), (3500, 4000)):
        expected = outputs[(inputs > low) & (inputs <= high)].mean()
        found = drawn_out[(drawn_in > low) & (drawn_in <= high)].mean()
        assert found == pytest.approx(expected, rel=0.03)


def test_correlation_inside_a_stratum_is_kept() -> None:
    """With one stratum only, the copula alone carries the rank correlation."""
    rng = np.random.default_rng(0)
    inputs = rng.lognormal(6, 1, 300).astype(np.int32) + 1
    outputs = (inputs * rng.lognormal(0, 0.7, 300)).astype(np.int32) + 1
    lengths = Lengths.fit(inputs, outputs)
    assert len(lengths.outputs) == 1
    drawn = lengths.draw(50_000, np.random.default_rng(1))
    assert spearman(*drawn) == pytest.approx(spearman(inputs, outputs), abs=0.03)


def test_order_of_the_file_does_not_matter_among_equal_prompts() -> None:
    """Equal prompts are shared out at random: a trend along the file is not taken for a tie to length."""
    inputs = np.full(20_000, 100, np.int32)
    outputs = np.arange(1, 20_001, dtype=np.int32)
    medians = [output.tokens[len(output.tokens) // 2] for output in Lengths.fit(inputs, outputs).outputs]
    assert max(medians) / min(medians) < 1.3


def test_half_open_bounds_make_whole_numbers_uniform() -> None:
    """Quantiles 0.5 to 3.5 are the uniform distribution over 1, 2, 3."""
    drawn = Quantiles((0.0, 1.0), (0.5, 3.5)).at(np.random.default_rng(0).random(60_000))
    counts = np.bincount(drawn)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx([20_000] * 3, rel=0.03)
    assert Quantiles((0.0, 1.0), (0.5, 3.5)).mean == 2.0


def test_ties_share_their_mean_rank() -> None:
    """Spearman of arrays with ties is the textbook value; a constant has none."""
    first = np.array([1, 2, 2, 3], np.int32)
    assert spearman(first, np.array([1, 2, 3, 4], np.int32)) == pytest.approx(0.9486833)
    assert spearman(first, np.ones(4, np.int32)) == 0.0


@pytest.mark.parametrize(
    ("probabilities", "tokens"),
    [((0.0, 1.0), (5.0, 4.0)), ((0.0, 0.9), (1.0, 2.0)), ((0.0, 1.0), (1.0,)), ((0.0, 1.0), (-3.0, 4.0))],
)
def test_quantiles_that_no_distribution_has_are_refused(
    probabilities: tuple[float, ...], tokens: tuple[float, ...]
) -> None:
    """Falling, truncated, unpaired and negative tables are errors."""
    with pytest.raises(InputError, match="quantiles: "):
        Quantiles(probabilities, tokens)
