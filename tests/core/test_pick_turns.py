"""Round robin: its exact sequence, and what absence, retries and reloads do to it."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import Endpoint
from gateway.core.pick.turns import Rotation, RoundRobin
from tests.core.simulated_pool import make_pool

DICE = Random(1)


def names(policy: RoundRobin, candidates: list[Endpoint], picks: int, pool: list[Endpoint]) -> str:
    """Picks, as letters: a is the pool's first endpoint."""
    return "".join(
        "abcdefgh"[pool.index(policy.pick(candidates, b"", float(turn), DICE))] for turn in range(1, picks + 1)
    )


def test_weights_5_1_1_give_the_smooth_sequence_of_nginx() -> None:
    pool = make_pool(3, [5, 1, 1])
    assert names(RoundRobin(pool), pool, 14, pool) == "aabacaa" * 2


def test_weights_4_2_1_are_interleaved() -> None:
    pool = make_pool(3, [4, 2, 1])
    assert names(RoundRobin(pool), pool, 7, pool) == "abacaba"


def test_equal_weights_take_plain_turns() -> None:
    pool = make_pool(4, [2.5])
    assert names(RoundRobin(pool), pool, 9, pool) == "abcdabcda"


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=8), rounds=st.integers(1, 4))
def test_every_round_gives_each_endpoint_exactly_its_weight(weights: list[int], rounds: int) -> None:
    pool = make_pool(len(weights), weights)
    policy = RoundRobin(pool)
    for _ in range(rounds):
        served = Counter(policy.pick(pool, b"", 1.0, DICE) for _ in range(sum(weights)))
        assert [served[endpoint] for endpoint in pool] == weights


@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=8), away=st.integers(1, 100), before=st.integers(0, 40))
def test_an_endpoint_that_was_away_neither_catches_up_nor_waits(weights: list[int], away: int, before: int) -> None:
    """A round gives it weight - (change of its credit)/(sum of weights); a credit stays within that sum of zero, and so
    changes by less than twice that sum: the round after its return is off by one at most."""
    pool = make_pool(len(weights), weights)
    policy = RoundRobin(pool)
    for _ in range(before):
        policy.pick(pool, b"", 1.0, DICE)
    for _ in range(away):
        assert policy.pick(pool[1:], b"", 1.0, DICE) is not pool[0]
    served = Counter(policy.pick(pool, b"", 1.0, DICE) for _ in range(sum(weights)))
    for endpoint, weight in zip(pool, weights, strict=True):
        assert abs(served[endpoint] - weight) <= 1


def test_equal_endpoints_keep_their_turn_while_one_is_away_and_when_it_returns() -> None:
    pool = make_pool(4)
    policy = RoundRobin(pool)
    without_c = [pool[0], pool[1], pool[3]]
    assert names(policy, pool, 2, pool) == "ab"
    assert names(policy, without_c, 5, pool) == "dabda"
    assert names(policy, pool, 5, pool) == "bcdab"


def test_a_retry_goes_to_the_next_in_turn() -> None:
    pool = make_pool(3)
    policy = RoundRobin(pool)
    assert names(policy, pool, 1, pool) == "a"
    assert names(policy, [pool[0], pool[2]], 1, pool) == "c"  # b failed
    assert names(policy, pool, 3, pool) == "abc"


def test_a_reload_continues_the_turns() -> None:
    for weights, expected in (([1.0], "abcabca"), ([5.0, 1.0, 1.0], "aabacaa")):
        pool = make_pool(3, weights)
        assert names(RoundRobin(pool), pool, 2, pool) + names(RoundRobin(pool), pool, 5, pool) == expected


@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=12), seed=st.integers(0, 10**6))
def test_a_rotation_finds_every_least_value_once_a_round(values: list[int], seed: int) -> None:
    rotation, dice = Rotation(), Random(seed)
    least = [index for index, value in enumerate(values) if value == min(values)]
    for _ in range(3):
        assert sorted(rotation.least(values, dice) for _ in least) == least


@given(rounds=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), max_size=6), seed=st.integers(0, 10**6))
def test_the_idlest_endpoint_is_the_one_of_the_least_value(rounds: list[list[int]], seed: int) -> None:
    pool, by_value, by_endpoint = make_pool(4), Rotation(), Rotation()
    for values in rounds:
        for endpoint, value in zip(pool, values, strict=True):
            endpoint.pending = value
        assert by_endpoint.idlest(pool, Random(seed)) is pool[by_value.least(values, Random(seed))]


def test_rotations_do_not_all_begin_with_the_first() -> None:
    assert {Rotation().least([0] * 4, Random(seed)) for seed in range(50)} == {0, 1, 2, 3}
