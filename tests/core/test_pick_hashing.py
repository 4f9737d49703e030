"""Consistent hashing: each method's own promises, stability over releases, and bounded loads."""

from collections import Counter
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.endpoint import Endpoint, Row
from gateway.core.load import FRESH
from gateway.core.pick import maglev, ring
from gateway.core.pick.hashing import METHODS, consistent_hash
from gateway.core.pick.rendezvous import Rendezvous
from tests.core.simulated_pool import five_sigma, key_of, make_pool

KEYS = [key_of(n) for n in range(4000)]
DICE = Random(0)

every_method = pytest.mark.parametrize("method", sorted(METHODS))


def homes(method: str, pool: list[Endpoint], candidates: list[Endpoint] | None = None) -> dict[bytes, str]:
    policy = METHODS[method](pool)
    among = candidates or pool
    return {key: policy.pick(among, key, 0.0, DICE).url for key in KEYS}


def test_keys_stay_where_they_are_from_release_to_release() -> None:
    """Other gateways may run another release or another Python: these answers are part of the contract."""
    known = {
        "rendezvous": "240430402203232123013033",
        "ring": "214023120322201231311142",
        "maglev": "042243012401234113403100",
    }
    pool = make_pool(5)
    assert {method: "".join(homes(method, pool)[key][-1] for key in KEYS[:24]) for method in METHODS} == known


# --- shares -----------------------------------------------------------------------------------------------------------

# How far a method's own shares may be from the weights, apart from the dice of the keys: rendezvous not at all, a table
# of 16,381 entries by less than one entry, 160 points by 1/sqrt(160) = 8 % at one sigma, hence 32 % at four.
UNEVEN = {"rendezvous": 0.0, "maglev": 0.01, "ring": 0.32}


@every_method
@pytest.mark.parametrize("weights", [(1.0,), (4.0, 2.0, 1.0, 1.0)])
def test_keys_are_shared_by_weight(method: str, weights: tuple[float, ...]) -> None:
    pool = make_pool(8, weights)
    served = Counter(homes(method, pool).values())
    for endpoint in pool:
        share = endpoint.weight / sum(e.weight for e in pool)
        slack = five_sigma(len(KEYS), share) + UNEVEN[method] * share * len(KEYS) / min(1.0, endpoint.weight)
        assert served[endpoint.url] == pytest.approx(share * len(KEYS), abs=slack)


def test_draws_of_different_endpoints_are_independent() -> None:
    """Every order of three endpoints is equally likely: not only the first choice is even."""
    pool = make_pool(3)
    policy = Rendezvous(pool)
    orders = Counter(tuple(e.slot for e in policy.order(pool, key)) for key in KEYS)
    assert len(orders) == 6
    assert list(orders.values()) == pytest.approx([len(KEYS) / 6] * 6, abs=five_sigma(len(KEYS), 1 / 6))


def test_a_maglev_table_is_even_to_one_entry() -> None:
    table = maglev.build(tuple((f"http://server-{n}", 1.0) for n in range(37)))
    counts = Counter(table)
    assert sorted(counts) == list(range(37))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_maglev_table_is_the_same_in_whatever_order_addresses_are_written() -> None:
    members = [(f"http://server-{n}", 1.0 + n % 2) for n in range(9)]
    shuffled = Random(3).sample(members, len(members))
    first = [members[owner][0] for owner in maglev.build(tuple(members))]
    assert first == [shuffled[owner][0] for owner in maglev.build(tuple(shuffled))]


def test_a_ring_has_160_points_for_the_heaviest_and_at_least_one_for_each() -> None:
    points = ring.build((("http://a", 8.0), ("http://b", 2.0), ("http://c", 0.001)))
    assert Counter(point & 0xFFFF for point in points) == {0: 160, 1: 40, 2: 1}
    assert list(points) == sorted(points)


# --- who moves --------------------------------------------------------------------------------------------------------


@every_method
def test_the_order_of_addresses_does_not_move_a_key(method: str) -> None:
    pool = make_pool(9, (3.0, 1.0))
    assert homes(method, pool) == homes(method, Random(3).sample(pool, len(pool)))


@every_method
def test_an_endpoint_that_closes_moves_its_own_keys_only_and_gets_them_back(method: str) -> None:
    pool = make_pool(8)
    policy = METHODS[method](pool)
    before = homes(method, pool)
    still_open = pool[:2] + pool[3:]
    for key in KEYS:
        away = policy.pick(still_open, key, 0.0, DICE).url
        assert (away != before[key]) == (before[key] == pool[2].url)
    assert {key: policy.pick(pool, key, 0.0, DICE).url for key in KEYS} == before


@every_method
def test_with_one_endpoint_left_every_key_goes_there(method: str) -> None:
    pool = make_pool(6)
    assert set(homes(method, pool, [pool[4]]).values()) == {pool[4].url}


@every_method
def test_the_order_of_a_key_names_every_candidate_once_and_its_home_first(method: str) -> None:
    pool = make_pool(6, (2.0, 1.0))
    policy = METHODS[method](pool)
    for key in KEYS[:100]:
        order = list(policy.order(pool[1:], key))
        assert len(order) == 5
        assert set(order) == set(pool[1:])
        assert order[0] is policy.pick(pool[1:], key, 0.0, DICE)


@every_method
def test_endpoints_that_the_policy_was_not_built_for_are_named_too_and_last(method: str) -> None:
    """For the instant in which a request that began by one snapshot meets the endpoints of another."""
    policy = METHODS[method](make_pool(2))
    strangers = make_pool(2, first=7)
    assert set(policy.order(strangers, b"key")) == set(strangers)
    assert policy.pick(strangers, b"key", 0.0, DICE) in strangers


@pytest.mark.parametrize(("method", "strays"), [("rendezvous", 0.0), ("ring", 0.0), ("maglev", 0.04)])
def test_an_endpoint_that_is_removed_moves_few_keys_of_others(method: str, strays: float) -> None:
    """By configuration: the pool is built anew. Only maglev moves others' keys, a few in a hundred."""
    pool = make_pool(10)
    before, after = homes(method, pool), homes(method, pool[:9])
    stayed = [key for key in KEYS if before[key] != pool[9].url]
    assert sum(before[key] != after[key] for key in stayed) / len(stayed) <= strays


# --- bounded loads ----------------------------------------------------------------------------------------------------


@every_method
@settings(max_examples=30, deadline=None)
@given(
    factor=st.sampled_from([1.0, 1.25, 2.0]),
    weights=st.lists(st.integers(1, 4), min_size=2, max_size=6),
    keys=st.lists(st.integers(0, 5), min_size=1, max_size=60),
)
def test_no_endpoint_holds_more_than_its_bound(method: str, factor: float, weights: list[int], keys: list[int]) -> None:
    pool = make_pool(len(weights), [float(weight) for weight in weights])
    policy = consistent_hash(pool, method, factor)
    for held, key in enumerate(keys):
        chosen = policy.pick(pool, key_of(key), 0.0, DICE)
        chosen.lease().__enter__()
        assert chosen.load <= ceil(factor * (held + 1) * chosen.weight / sum(weights) + 1e-9)


@every_method
def test_a_hot_key_overflows_along_its_own_order_and_returns_home(method: str) -> None:
    pool = make_pool(6)
    policy = consistent_hash(pool, method, 1.25)
    order = list(METHODS[method](pool).order(pool, b"hot"))
    leases = []
    for _ in range(3):
        lease = policy.pick(pool, b"hot", 0.0, DICE).lease()
        leases.append((lease.__enter__(), lease))
    assert [endpoint for endpoint, _ in leases] == order[:3]
    leases[0][1].__exit__(None, None, None)
    assert policy.pick(pool, b"hot", 0.0, DICE) is order[0]


def test_a_bound_counts_the_request_to_come() -> None:
    """2 + 1 held, one to come: 1.25 x 4 / 2 = 2.5, so home has room for a third; of 1.25 x 3 / 2 = 1.9 it had none."""
    pool = make_pool(2)
    policy = consistent_hash(pool, bounded_load=1.25)
    home = policy.pick(pool, b"key", 0.0, DICE)
    for endpoint in (*pool, home):
        endpoint.lease().__enter__()
    assert policy.pick(pool, b"key", 0.0, DICE) is home


def test_without_a_bound_a_hot_key_stays() -> None:
    pool = make_pool(6)
    policy = consistent_hash(pool)
    for _ in range(10):
        policy.pick(pool, b"hot", 0.0, DICE).lease().__enter__()
    assert sorted(endpoint.load for endpoint in pool) == [0] * 5 + [10]


def test_a_bound_counts_what_other_workers_hold() -> None:
    others = [0, 0, 0]
    row = Row([1] * 3, [0] * 3, [others])
    pool = [Endpoint(f"http://server-{slot}", slot, row) for slot in range(3)]
    policy = consistent_hash(pool, bounded_load=1.25)
    home = policy.pick(pool, b"key", 0.0, DICE)
    others[home.slot] = 3
    assert policy.pick(pool, b"key", FRESH, DICE) is not home


def test_a_bound_below_the_average_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        consistent_hash(make_pool(2), "ring", 0.9)
