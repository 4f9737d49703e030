import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Figure, figure, is_missed, ratio

costs = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9)


def test_a_figure_is_the_median_and_both_ends():
    assert figure([5.0, 1.0, 3.0]) == Figure(3.0, 1.0, 5.0)


def test_no_samples_make_no_figure():
    with pytest.raises(ValueError, match="at least one"):
        figure([])


@given(costs)
def test_the_median_lies_between_the_ends(samples):
    found = figure(samples)
    assert found.low <= found.median <= found.high


def test_a_ratio_is_taken_within_each_round():
    # Both cost twice as much in the second round: the machine was busy, and the ratio does not know of it.
    assert ratio([30.0, 60.0], [20.0, 40.0]) == Figure(1.5, 1.5, 1.5)


@given(costs, st.floats(0.01, 100))
def test_a_slower_machine_changes_no_ratio(samples, slowness):
    before = ratio(samples, [2.0] * len(samples))
    after = ratio([sample * slowness for sample in samples], [2.0 * slowness] * len(samples))
    assert before is not None
    assert after is not None
    assert after.median == pytest.approx(before.median)


def test_there_is_no_ratio_to_nothing():
    assert ratio([1.0, 1.0], [0.0, 2.0]) is None
    assert ratio([], []) is None


def test_rounds_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("found", "is_over"),
    [
        (Figure(1.4, 1.3, 1.5), False),  # under the bar
        (Figure(1.5, 1.5, 1.5), False),  # on it
        (Figure(1.6, 1.3, 1.9), False),  # over it, within the noise of 0.3
        (Figure(1.7, 1.6, 1.8), True),  # over it by 0.2, where the noise is 0.1
    ],
)
def test_a_bar_is_missed_only_by_more_than_the_noise(found, is_over):
    assert is_missed(found, bar=1.5) is is_over
