"""What comes up is given work by a line from a tenth to all, under every policy that may choose freely."""

from itertools import pairwise
from math import inf, sqrt
from random import Random
from time import process_time

import pytest

from gateway.core.ejection import Rules
from gateway.core.endpoint import Endpoint, Health, Lease, Row
from gateway.core.openlist import FIRST_SHARE, ramp
from gateway.core.pick import POLICIES, PROMPTED
from gateway.core.pick.llm import LATE, QUEUE, Llm
from gateway.core.pool import Pool
from gateway.core.prompt import Prompt
from gateway.core.standing import LEAST_COST, MOST_COST, error_cost
from tests.core.simulated_pool import make_pool

LENGTH = Rules().slow_start  # seconds
SIZE = 6
HELD = 40  # requests that each of the others holds


def coming_up(at: float) -> list[Endpoint]:
    """The last one of them came up then."""
    row = Row([int(Health.UP)] * SIZE, [0] * SIZE, (), [0], None, [0.0] * (SIZE - 1) + [at])
    return [Endpoint(f"http://server-{slot}", slot, row) for slot in range(SIZE)]


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - PROMPTED.keys() - {"ip_hash", "consistent_hash"}))
@pytest.mark.parametrize("age", [0.0, 7.5, 15.0, 29.0])
def test_one_that_comes_up_never_holds_more_than_its_share_under_any_policy(name: str, age: float) -> None:
    endpoints = coming_up(1000.0)
    *others, new = endpoints
    for endpoint in others:
        for _ in range(HELD):
            Lease(endpoint).__enter__()
    pool = Pool("m", "v", endpoints, POLICIES[name](endpoints), ("m", None), rules=Rules(slowness=inf))
    now, dice = 1000.0 + age, Random(1)
    for _ in range(400):
        chosen = pool.pick(b"key", now, dice)
        assert chosen is not None
        if chosen is new:  # what goes to the others is over at once
            Lease(chosen).__enter__()
    share = FIRST_SHARE + (1.0 - FIRST_SHARE) * age / LENGTH
    assert ramp(new, LENGTH, now) == pytest.approx(share)
    assert 1 <= new.pending <= HELD * share + 1


def test_the_share_grows_in_a_line_and_is_all_in_the_end() -> None:
    new = coming_up(1000.0)[-1]
    shares = [ramp(new, LENGTH, 1000.0 + LENGTH * part / 10) for part in range(12)]
    assert shares[0] == FIRST_SHARE
    assert all(later - sooner == pytest.approx(0.09) for sooner, later in pairwise(shares[:11]))
    assert shares[10:] == [1.0, 1.0]


def waited_for(cost: float) -> float:
    """Seconds of waiting that cost so much: w with w + QUEUE w/(1 + w/LATE) = cost."""
    half = (LATE + QUEUE * LATE - cost) / 2
    return sqrt(half * half + cost * LATE) - half


def test_an_error_costs_as_many_seconds_in_the_score_as_it_is_said_to() -> None:
    """One that has failed is chosen again exactly when the wait for the other one costs that much more."""
    for failures in range(1, 9):
        failed, other = pool = make_pool(2)
        policy = Llm(pool)
        for endpoint in pool:
            endpoint.work.speed.add_first(100.0, 0.02, 99.0)
            endpoint.work.speed.add_first(1000.0, 0.1, 99.0)
        policy.choose(pool, Prompt(100), 100.0, Random(1))  # learns
        for _ in range(failures):
            failed.standing.fail(100.0)
        cost = error_cost(failed, 100.0)
        assert cost == min(LEAST_COST * 2.0 ** (failures - 1), MOST_COST)
        for factor, expected in ((0.98, other), (1.02, failed)):
            other.work.strange_ahead = waited_for(factor * cost) / other.work.a
            assert policy.choose(pool, Prompt(100), 100.0, Random(1)) is expected, (failures, factor)


def test_a_pick_among_many_that_come_up_grows_with_their_number_and_not_with_its_square() -> None:
    """Of 10,000 endpoints, half of them in their slow start, a pick took a third of a second."""

    def seconds(size: int) -> float:
        row = Row([int(Health.UP)] * size, [0] * size, (), [0], None, [990.0] * (size // 2) + [1000.0] * (size // 2))
        endpoints = [Endpoint(f"http://server-{slot}", slot, row) for slot in range(size)]
        pool = Pool("m", "v", endpoints, POLICIES["random"](endpoints), ("m", None), rules=Rules(slowness=inf))
        pool.pick(b"key", 1000.0, Random(1))
        spent = []
        for _ in range(5):
            began = process_time()
            pool.pick(b"key", 1000.0, Random(1))
            spent.append(process_time() - began)
        return min(spent)

    assert seconds(4000) < 40 * seconds(200)  # 20 and a little; by the square 400
