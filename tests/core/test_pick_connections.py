"""Policies by load: what they compare, how ties end, and what other workers hold."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import Endpoint, Row
from gateway.core.load import FRESH
from gateway.core.pick import POLICIES
from gateway.core.pick.connections import LeastConnections, TwoChoices, WeightedLeastConnections
from gateway.core.policy import Policy
from tests.core.simulated_pool import make_pool

loads = st.lists(st.integers(0, 5), min_size=1, max_size=20)
weighted_loads = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=20)


def busy_pool(loads: list[int], weights: list[int] | None = None) -> list[Endpoint]:
    pool = make_pool(len(loads), [float(weight) for weight in weights or [1]])
    for endpoint, load in zip(pool, loads, strict=True):
        for _ in range(load):
            endpoint.lease().__enter__()
    return pool


@given(loads=loads, seed=st.integers(0, 1000))
def test_least_connections_picks_the_least_loaded_and_all_of_them_in_turn(loads: list[int], seed: int) -> None:
    pool = busy_pool(loads)
    policy, dice = LeastConnections(pool), Random(seed)
    least = [endpoint for endpoint in pool if endpoint.load == min(loads)]
    picks = [policy.pick(pool, b"", 0.0, dice) for _ in least]
    assert sorted(endpoint.slot for endpoint in picks) == [endpoint.slot for endpoint in least]


def test_least_connections_ignores_weights() -> None:
    pool = busy_pool([2, 1, 2], [9, 1, 9])
    assert LeastConnections(pool).pick(pool, b"", 0.0, Random(1)) is pool[1]


@given(loads=weighted_loads)
def test_weighted_least_connections_picks_the_least_load_for_its_weight(loads: list[tuple[int, int]]) -> None:
    pool = busy_pool([load for load, _ in loads], [weight for _, weight in loads])
    chosen = WeightedLeastConnections(pool).pick(pool, b"", 0.0, Random(1))
    assert chosen.load / chosen.weight == min(load / weight for load, weight in loads)


def test_weighted_least_connections_shares_ties_as_weighted_round_robin() -> None:
    pool = make_pool(3, [5, 1, 1])
    policy = WeightedLeastConnections(pool)
    picks = [policy.pick(pool, b"", 0.0, Random(1)).slot for _ in range(7)]
    assert picks == [0, 0, 1, 0, 2, 0, 0]


def test_fractions_that_are_equal_tie() -> None:
    """49 of weight 49 and 1 of weight 1: no rounding decides, though 49 x (1/49) < 1 in floats."""
    pool = busy_pool([49, 1], [49, 1])
    policy = WeightedLeastConnections(pool)
    assert Counter(policy.pick(pool, b"", 0.0, Random(1)).slot for _ in range(50)) == {0: 49, 1: 1}


@given(loads=weighted_loads.filter(lambda loads: len(loads) > 1), seed=st.integers(0, 1000))
def test_of_two_choices_the_most_loaded_never_wins(loads: list[tuple[int, int]], seed: int) -> None:
    pool = busy_pool([load for load, _ in loads], [weight for _, weight in loads])
    worst = max(endpoint.load / endpoint.weight for endpoint in pool)
    chosen = TwoChoices(pool).pick(pool, b"", 0.0, Random(seed))
    losers = [endpoint for endpoint in pool if endpoint.load / endpoint.weight == worst]
    assert chosen not in losers or len(losers) > 1


def test_two_choices_compare_any_two() -> None:
    pool = busy_pool([0, 1, 2, 3, 4])
    policy, dice = TwoChoices(pool), Random(5)
    wins = Counter(policy.pick(pool, b"", 0.0, dice).slot for _ in range(20_000))
    # Of the 10 pairs, 4 hold the idle one, and it wins them all; 3 hold the next one without it; ...
    assert [wins[slot] / 20_000 for slot in range(5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0], abs=0.018)


def test_two_choices_fill_bins_far_more_evenly_than_one() -> None:
    """Mitzenmacher: the fullest of n bins with n balls holds lnln n/ln 2 + O(1) against ln n/lnln n."""

    def fullest(name: str) -> int:
        pool = make_pool(500)
        policy, dice = POLICIES[name](pool), Random(2)
        for _ in range(500):
            policy.pick(pool, b"", 0.0, dice).lease().__enter__()
        return max(endpoint.load for endpoint in pool)

    assert fullest("two_choices") <= 3 < 5 <= fullest("random")


# --- other workers ----------------------------------------------------------------------------------------------------


def shared_pool(size: int) -> tuple[list[Endpoint], list[int], list[int]]:
    """A pool as one of three workers sees it, and what the other two hold of each endpoint."""
    second, third = [0] * size, [0] * size
    row = Row([1] * size, [0] * size, [second, third])
    return [Endpoint(f"http://server-{slot}", slot, row) for slot in range(size)], second, third


LOAD_AWARE = ["least_connections", "weighted_least_connections", "two_choices", "least_response_time", "peak_ewma"]


@pytest.mark.parametrize("name", LOAD_AWARE)
def test_what_other_workers_hold_counts(name: str) -> None:
    pool, second, third = shared_pool(2)
    policy: Policy = POLICIES[name](pool)
    for endpoint in pool:
        endpoint.observe(0.1, 5.0)
    second[0], third[0] = 3, 1
    assert {policy.pick(pool, b"", 5.0, Random(seed)) for seed in range(20)} == {pool[1]}
    third[1], second[0], third[0] = 9, 0, 0
    assert {policy.pick(pool, b"", 5.0 + FRESH, Random(seed)) for seed in range(20)} == {pool[0]}


@pytest.mark.parametrize("name", LOAD_AWARE)
def test_what_this_worker_holds_counts_at_once(name: str) -> None:
    pool, second, _ = shared_pool(2)
    policy: Policy = POLICIES[name](pool)
    for endpoint in pool:
        endpoint.observe(0.1, 5.0)
    second[0] = 1
    assert policy.pick(pool, b"", 5.0, Random(1)) is pool[1]
    with pool[1].lease(), pool[1].lease():
        assert policy.pick(pool, b"", 5.0, Random(1)) is pool[0]
    assert policy.pick(pool, b"", 5.0, Random(1)) is pool[1]
