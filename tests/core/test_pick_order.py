"""`first`, `priority`, `weighted`, `prequal`: what they do that other policies do not."""

from collections import Counter
from contextlib import ExitStack
from random import Random

import pytest

from gateway.config.settings import BalanceSettings
from gateway.core.endpoint import Endpoint
from gateway.core.pick import CLASSIC, POLICIES, make
from tests.core.simulated_pool import five_sigma, make_pool, serve


def tiered(*sizes: int) -> list[Endpoint]:
    """So many endpoints of tier 0, of tier 1 and so on."""
    pool = make_pool(sum(sizes))
    tiers = [tier for tier, size in enumerate(sizes) for _ in range(size)]
    for endpoint, tier in zip(pool, tiers, strict=True):
        endpoint.tier = tier
    return pool


def by_tier(pool: list[Endpoint], served: Counter[str]) -> list[int]:
    counts: Counter[int] = Counter()
    for endpoint in pool:
        counts[endpoint.tier] += served[endpoint.url]
    return [counts[tier] for tier in sorted(counts)]


# --- first ---


def test_first_fills_one_after_another_and_the_least_full_when_all_are() -> None:
    pool = make_pool(3, [1.0, 2.0, 1.0])
    policy = make(BalanceSettings(policy="first", full=2), pool)
    order = []
    with ExitStack() as stack:
        for _ in range(8):
            endpoint = policy.pick(pool, b"", 0.0, Random(1))
            order.append(endpoint.slot)
            stack.enter_context(endpoint.lease())
        assert policy.pick(pool, b"", 0.0, Random(1)).pending == 2
    assert order == [0, 0, 1, 1, 1, 1, 2, 2]
    assert policy.pick(pool, b"", 0.0, Random(1)) is pool[0]


def test_first_leaves_the_last_ones_idle() -> None:
    pool = make_pool(8)
    served = serve(POLICIES["first"](pool, full=10), pool, 2000, together=25)
    assert set(served) == {f"http://server-{n}" for n in range(3)}


# --- priority ---


def test_the_lowest_tier_takes_all_while_enough_of_it_is_open() -> None:
    pool = tiered(4, 4)
    policy = POLICIES["priority"](pool)
    assert by_tier(pool, serve(policy, pool, 500)) == [500, 0]
    assert by_tier(pool, serve(policy, pool[1:], 500)) == [500, 0], "three of four, times 1.4, are more than all"


def test_what_a_tier_cannot_carry_spills_over_to_the_next() -> None:
    pool = tiered(4, 4)
    policy = POLICIES["priority"](pool)
    requests, share = 4000, 2 / 4 * 1.4
    assert by_tier(pool, serve(policy, pool[2:], requests))[0] == pytest.approx(
        requests * share, abs=five_sigma(requests, share)
    )
    assert by_tier(pool, serve(policy, pool[4:], 100)) == [0, 100]


def test_a_last_tier_takes_what_is_left_however_few_of_it_are_open() -> None:
    pool = tiered(4, 4)
    served = serve(POLICIES["priority"](pool), [pool[0], pool[4]], 4000)
    assert by_tier(pool, served)[0] == pytest.approx(2000, abs=five_sigma(4000, 0.5)), "35 % each: half each"


def test_a_full_tier_spills_over_and_gets_no_more() -> None:
    pool = tiered(2, 2)
    policy = make(BalanceSettings(policy="priority", full=3), pool)
    with ExitStack() as stack:
        picked = [stack.enter_context(policy.pick(pool, b"", 0.0, Random(n)).lease()).tier for n in range(16)]
    assert picked[:12] == [0] * 6 + [1] * 6
    assert sorted(picked[12:]) == [0, 0, 1, 1], "all are full: like one tier"


@pytest.mark.parametrize("within", sorted(CLASSIC))
def test_a_tier_is_shared_by_the_policy_within_it(within: str) -> None:
    pool = tiered(4, 2)
    served = serve(make(BalanceSettings(policy="priority", within=within), pool), pool, 4000, together=8)
    for endpoint in pool[:4]:
        assert served[endpoint.url] == pytest.approx(1000, abs=five_sigma(4000, 0.25))


# --- weighted ---


def test_learned_weights_follow_speed_and_what_is_configured() -> None:
    pool = make_pool(3, [1.0, 1.0, 2.0])
    policy = make(BalanceSettings(policy="weighted", weights="learned"), pool)
    seconds = {pool[0]: 0.1, pool[1]: 0.3, pool[2]: 0.3}
    serve(policy, pool, 500, seconds=seconds.__getitem__)
    served = serve(policy, pool, 6000, seconds=seconds.__getitem__, start=2000.0)
    shares = [served[endpoint.url] / 6000 for endpoint in pool]
    assert shares == pytest.approx([3 / 6, 1 / 6, 2 / 6], rel=0.15)


def test_a_very_slow_endpoint_keeps_a_part_so_that_it_is_measured_again() -> None:
    pool = make_pool(4)
    policy = make(BalanceSettings(policy="weighted", weights="learned"), pool)
    slow = {"http://server-3": 100.0}
    serve(policy, pool, 400, seconds=lambda endpoint: slow.get(endpoint.url, 0.1))
    served = serve(policy, pool, 2000, seconds=lambda endpoint: slow.get(endpoint.url, 0.1), start=9000.0)
    assert 0.02 < served["http://server-3"] / 2000 < 0.1


def test_configured_weights_are_exact() -> None:
    pool = make_pool(3, [5.0, 1.0, 1.0])
    served = serve(make(BalanceSettings(policy="weighted"), pool), pool, 700)
    assert [served[endpoint.url] for endpoint in pool] == [500, 100, 100]


# --- prequal ---


def test_prequal_prefers_the_fastest_of_the_cold_and_never_a_hot_one() -> None:
    pool = make_pool(6)
    for endpoint in pool:
        endpoint.observe(0.1 if endpoint.slot == 2 else 0.5, 10.0)
    policy = POLICIES["prequal"](pool)
    assert {policy.pick(pool, b"", 10.0, Random(n)) for n in range(20)} == {pool[2]}
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(pool[2].lease())
        assert pool[2] not in {policy.pick(pool, b"", 10.0, Random(n)) for n in range(50)}


def test_prequal_asks_whom_it_knows_nothing_of_and_whom_it_has_not_asked_for_long() -> None:
    pool = make_pool(4)
    policy = POLICIES["prequal"](pool)
    for endpoint in pool[:3]:
        endpoint.observe(0.1, 10.0)
    assert {policy.pick(pool, b"", 10.0, Random(n)) for n in range(20)} == {pool[3]}
    pool[3].observe(5.0, 10.0)
    for endpoint in pool[:3]:
        endpoint.observe(0.1, 100.0)
    assert {policy.pick(pool, b"", 100.0, Random(n)) for n in range(20)} == {pool[3]}


def test_prequal_gives_a_slow_endpoint_little() -> None:
    pool = make_pool(8)
    served = serve(
        POLICIES["prequal"](pool), pool, 8000, seconds=lambda endpoint: 6.0 if endpoint.slot == 3 else 1.0, together=32
    )
    assert served["http://server-3"] < 8000 / 8 / 4
