"""Policies by latency: the fast are preferred, the new and the once slow are found out, nobody is flooded."""

from math import exp, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import TAU, Endpoint
from gateway.core.pick.latency import PENALTY, LeastResponseTime, PeakEwma, cost
from tests.core.simulated_pool import make_pool, serve

states = st.lists(
    st.tuples(st.floats(0.001, 60), st.integers(0, 9), st.floats(0.1, 10)), min_size=2, max_size=12
)  # latency, requests in flight, weight


def measured_pool(states: list[tuple[float, int, float]], now: float = 0.0) -> list[Endpoint]:
    pool = make_pool(len(states), [weight for _, _, weight in states])
    for endpoint, (latency, load, _) in zip(pool, states, strict=True):
        endpoint.observe(latency, now)
        hold(endpoint, load)
    return pool


def hold(endpoint: Endpoint, leases: int) -> None:
    for _ in range(leases):
        endpoint.lease().__enter__()


@given(states)
def test_least_response_time_is_latency_times_load_for_the_weight(states: list[tuple[float, int, float]]) -> None:
    pool = measured_pool(states)
    chosen = LeastResponseTime(pool).pick(pool, b"", 0.0, Random(1))
    best = min(latency * (load + 1) / weight for latency, load, weight in states)
    assert chosen.latency * (chosen.load + 1) / chosen.weight == pytest.approx(best)


def test_a_slower_endpoint_takes_what_the_faster_one_has_no_room_for() -> None:
    pool = measured_pool([(0.1, 0, 1.0), (0.3, 0, 1.0)])
    policy = LeastResponseTime(pool)
    picks = []
    for _ in range(8):
        chosen = policy.pick(pool, b"", 0.0, Random(1))
        hold(chosen, 1)
        picks.append(chosen.load)
    assert (pool[0].load, pool[1].load) == (6, 2)  # 0.1 x 6 = 0.3 x 2


def test_endpoints_without_a_sample_are_asked_at_once() -> None:
    pool = make_pool(3)
    pool[0].observe(0.001, 0.0)
    policy = LeastResponseTime(pool)
    first = policy.pick(pool, b"", 0.1, Random(1))
    hold(first, 1)
    second = policy.pick(pool, b"", 0.1, Random(1))
    assert {first, second} == set(pool[1:])


def test_endpoints_without_a_sample_are_not_flooded() -> None:
    """One never answers; it gets what an endpoint as good as the best would get, and no more."""
    pool = make_pool(3)
    policy = LeastResponseTime(pool)
    for endpoint in pool[:2]:
        endpoint.observe(0.1, 0.0)
    for step in range(30):
        chosen = policy.pick(pool, b"", 0.01 * step, Random(step))
        hold(chosen, 1)
        if chosen is not pool[2]:
            chosen.observe(0.1, 0.01 * step)
    assert [endpoint.load for endpoint in pool] == pytest.approx([10, 10, 10], abs=1)


def test_a_pool_without_any_sample_is_filled_evenly() -> None:
    pool = make_pool(4)
    policy = LeastResponseTime(pool)
    for _ in range(12):
        hold(policy.pick(pool, b"", 0.0, Random(1)), 1)
    assert [endpoint.load for endpoint in pool] == [3, 3, 3, 3]


@pytest.mark.parametrize("ratio", [10.0, 1000.0])
def test_an_endpoint_that_was_slow_is_asked_again_after_tau_times_the_log_of_how_slow(ratio: float) -> None:
    pool = make_pool(2)
    pool[0].observe(0.01 * ratio, 0.0)
    policy = LeastResponseTime(pool)
    for step in range(1, 100_000):
        now = step * 0.05
        pool[1].observe(0.01, now)
        if policy.pick(pool, b"", now, Random(1)) is pool[0]:
            break
    assert now == pytest.approx(TAU * log(ratio), abs=0.2)


def test_an_endpoint_that_was_away_for_long_is_not_flooded() -> None:
    """Its average has aged by e^60; until it answers, it counts as good as the best and no better."""
    pool = make_pool(4)
    policy = LeastResponseTime(pool)
    pool[0].observe(0.5, 0.0)
    now = 60 * TAU
    for step in range(40):
        for endpoint in pool[1:]:
            endpoint.observe(0.1, now)
        hold(policy.pick(pool, b"", now, Random(step)), 1)
    assert pool[0].load == pytest.approx(10, abs=1)


def test_the_fast_serve_more_in_proportion() -> None:
    pool = make_pool(4)
    slow = {"http://server-3"}
    served = serve(
        LeastResponseTime(pool), tuple(pool), 4000, together=40, seconds=lambda e: 0.4 if e.url in slow else 0.1
    )
    assert served["http://server-3"] < served["http://server-0"] / 2
    assert served["http://server-3"] > 0


# --- peak EWMA --------------------------------------------------------------------------------------------------------


@given(states)
def test_peak_ewma_never_picks_the_most_costly(states: list[tuple[float, int, float]]) -> None:
    pool = measured_pool(states)
    costs = [latency * (load + 1) / weight for latency, load, weight in states]
    policy = PeakEwma(pool)
    chosen = policy.pick(pool, b"", 0.0, Random(3))
    assert costs[chosen.slot] < max(costs) or costs.count(max(costs)) > 1


def test_the_cost_counts_the_request_to_come_and_decays_while_nobody_asks() -> None:
    endpoint = make_pool(1)[0]
    endpoint.observe(2.0, 100.0)
    assert cost(endpoint, 100.0) == 2.0
    hold(endpoint, 2)
    assert cost(endpoint, 100.0) == 6.0
    assert cost(endpoint, 100.0 + TAU) == pytest.approx(6.0 / exp(1))
    assert cost(endpoint, 99.0) == 6.0  # a clock read a little earlier


def test_the_cost_is_by_weight() -> None:
    endpoint = make_pool(1, [4.0])[0]
    endpoint.observe(2.0, 0.0)
    assert cost(endpoint, 0.0) == 0.5


def test_one_slow_answer_sends_traffic_elsewhere_at_once_and_it_comes_back() -> None:
    pool = measured_pool([(0.1, 0, 1.0), (0.1, 0, 1.0)])
    policy = PeakEwma(pool)
    pool[0].observe(5.0, 0.001)
    assert {policy.pick(pool, b"", 0.001, Random(seed)) for seed in range(20)} == {pool[1]}
    later = TAU * log(50) + 1
    pool[1].observe(0.1, later)
    assert policy.pick(pool, b"", later, Random(1)) is pool[0]


def test_an_endpoint_that_never_answered_is_asked_once_and_then_comes_last() -> None:
    pool = measured_pool([(9.0, 5, 1.0), (9.0, 5, 1.0)])
    pool += make_pool(1, first=2)
    assert cost(pool[2], 0.0) == 0.0
    hold(pool[2], 1)
    assert cost(pool[2], 0.0) == PENALTY + 1
    policy = PeakEwma(pool)
    assert pool[2] not in {policy.pick(pool, b"", 0.0, Random(seed)) for seed in range(30)}
