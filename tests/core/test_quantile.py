"""A quantile of what happened of late, at most a tenth too long."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.quantile import ENOUGH, Quantile


def of(*samples: float) -> Quantile:
    quantile = Quantile()
    for sample in samples:
        quantile.add(sample)
    return quantile


@settings(deadline=None)
@given(st.lists(st.floats(1e-4, 1000), min_size=ENOUGH, max_size=300), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_share_is_within_it_and_hardly_more(samples: list[float], share: float) -> None:
    told = of(*samples).of(share)
    within = sum(sample <= told * 1.0001 for sample in samples)
    assert within >= share * len(samples) - 1
    exact = sorted(samples)[min(int(share * len(samples)), len(samples) - 1)]
    assert told <= exact * 1.1001


def test_nothing_is_said_while_too_few_are_known() -> None:
    assert of(*[0.1] * (ENOUGH - 1)).of(0.95) == inf
    assert of(*[0.1] * ENOUGH).of(0.95) == pytest.approx(0.1, rel=0.11)


def test_what_was_long_ago_counts_less_and_less() -> None:
    quantile = of(*[10.0] * 1500)
    for _ in range(8000):
        quantile.add(0.1)
    assert quantile.of(0.95) < 0.12


def test_the_shortest_and_the_longest_have_a_place() -> None:
    assert of(*[0.0] * 30).of(0.95) == pytest.approx(1e-4)
    assert 2000 < of(*[1e9] * 30).of(0.95) < 3000
