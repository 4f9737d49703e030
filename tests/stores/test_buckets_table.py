"""The table of buckets: no key has more than its limit, however few the cells are and wherever a process dies."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.limiter import SECOND, Limit, settled
from gateway.stores.table import BucketTable, size_of

WINDOWS = [Limit(1, 1, 1), Limit(100, 60, 20), Limit(10, 3600, 10), Limit(1000, 86_400, 400)]


def one_set() -> BucketTable:
    """A table of a single set of 63 cells, so that a few keys crowd it."""
    return BucketTable(memoryview(bytearray(size_of(1))))


def take(table: BucketTable, key: str, limit: Limit, now: int, cost: int = 1) -> bool:
    return table.take_one(table.place(key), cost * limit.price, limit.window, now) <= limit.window


class Alone:
    """What each key would have if it had its bucket for itself."""

    def __init__(self) -> None:
        self.full_at: dict[str, int] = {}

    def debt(self, key: str, now: int) -> int:
        return max(self.full_at.get(key, 0) - now, 0)

    def take(self, key: str, price: int, now: int) -> None:
        self.full_at[key] = now + self.debt(key, now) + price


def test_a_key_has_its_burst_and_then_its_rate() -> None:
    table, limit = one_set(), Limit(60, 60, 3)
    assert [take(table, "a", limit, 10 * SECOND) for _ in range(5)] == [True, True, True, False, False]
    assert [take(table, "a", limit, 12 * SECOND) for _ in range(3)] == [True, True, False]
    assert take(table, "b", limit, 12 * SECOND)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_limits_are_taken_together_or_not_at_all(order: tuple[int, int]) -> None:
    table, limits = BucketTable(memoryview(bytearray(size_of(10_000)))), [Limit(10, 1, 10), Limit(2, 1, 2)]
    places = [table.place(f"key{i}") for i in order]
    prices, windows = [limits[i].price for i in order], [limits[i].window for i in order]
    debts = [table.take(places, prices, windows, 0) for _ in range(5)]
    assert [all(d <= w for d, w in zip(debt, windows, strict=True)) for debt in debts] == [True] * 2 + [False] * 3
    assert table.debt(table.place("key0"), 0) == 2 * limits[0].price


def test_keys_of_one_request_that_crowd_one_set_get_different_cells() -> None:
    table, limit = one_set(), Limit(1, 3600, 1)
    for i in range(63):
        assert take(table, f"old{i}", Limit(1, 60, 1), 0)
    places = [table.place(f"new{i}") for i in range(3)] + [table.place("old5")]
    wide = [10**15] * 4
    table.take(places, [limit.price] * 4, wide, 1)
    assert len({place.cell for place in places}) == 4
    assert [table.debt(place, 1) for place in places] == [60 * SECOND - 1 + limit.price] * 4


def test_a_million_keys_fit_into_the_stated_memory() -> None:
    assert size_of(1_000_000) == 1024 * (1 + 31_250) <= 31 * 2**20


def test_a_full_table_recycles_idle_keys_without_anyone_noticing() -> None:
    table, limit = one_set(), Limit(1, 1, 1)
    for i in range(1000):
        assert take(table, f"key{i}", limit, i * SECOND)
    assert table.crowded == 0


def test_a_buffer_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2048 bytes"):
        BucketTable(memoryview(bytearray(1024)))


def test_a_second_table_over_the_same_memory_finds_the_same_buckets() -> None:
    memory, limit = memoryview(bytearray(size_of(1000))), Limit(1, 60, 1)
    assert take(BucketTable(memory), "a", limit, 0)
    assert not take(BucketTable(memory), "a", limit, 0)


steps = st.lists(
    st.tuples(st.integers(0, 79), st.integers(0, 20), st.integers(0, 30)), min_size=100, max_size=400
)  # key, seconds since the step before, tokens given back


@settings(max_examples=40, deadline=None)
@given(steps)
def test_however_crowded_a_set_is_no_key_is_granted_more_than_its_limit(steps: list[tuple[int, int, int]]) -> None:
    """80 keys of four kinds in 63 cells, with refunds in between: no bucket is fuller than it would be alone."""
    table, alone, now = one_set(), Alone(), 10**12
    places = [table.place(f"key{i}") for i in range(80)]
    for i in range(70):  # crowded from the beginning
        limit = WINDOWS[i % 4]
        if table.take_one(places[i], limit.price, limit.window, now) <= limit.window:
            alone.take(f"key{i}", limit.price, now)
    for i, wait, refund in steps:
        now += wait * SECOND
        key, limit = f"key{i}", WINDOWS[i % 4]
        cost = 1 + refund % 5
        before = alone.debt(key, now)
        assert table.debt(places[i], now) >= before
        if table.take_one(places[i], cost * limit.price, limit.window, now) <= limit.window:
            assert before + cost * limit.price <= limit.window
            alone.take(key, cost * limit.price, now)
            if refund > 15:
                correction = -(refund % (cost + 1)) * limit.price
                table.settle(places[i], correction, now)
                alone.full_at[key] = settled(alone.full_at[key], now, correction)
    for i in range(80):
        assert table.debt(places[i], now) >= alone.debt(f"key{i}", now)


def test_a_refund_does_not_free_a_key_that_was_evicted_by_the_one_refunded() -> None:
    """The floor: x inherits n's debt, n takes it over again and is refunded; x must still owe what it owed."""
    table, wide = one_set(), Limit(1, 1, 1000)
    for i in range(62):
        assert table.take_one(table.place(f"fill{i}"), 900 * SECOND, wide.window, 0) <= wide.window
    n, x = table.place("n"), table.place("x")
    assert take(table, "n", wide, 0, cost=100)
    assert take(table, "x", wide, 0, cost=50)
    owed = table.debt(x, 0)
    assert take(table, "n", wide, 0, cost=10)
    table.settle(n, -100 * SECOND, 0)
    assert table.debt(x, 0) >= owed


def test_a_refund_for_a_key_that_is_gone_goes_to_nobody() -> None:
    table, wide = one_set(), Limit(1, 1, 1000)
    for i in range(62):
        assert table.take_one(table.place(f"fill{i}"), 900 * SECOND, wide.window, 0) <= wide.window
    assert take(table, "n", wide, 0, cost=100)
    assert take(table, "x", wide, 0, cost=50)
    table.settle(table.place("n"), -100 * SECOND, 0)
    assert table.debt(table.place("x"), 0) == 150 * SECOND
    assert table.crowded == 1


def test_a_charge_for_a_key_that_is_gone_is_still_made() -> None:
    table, limit = one_set(), Limit(1, 1, 10)
    table.settle(table.place("a"), 5 * SECOND, 100)
    assert table.debt(table.place("a"), 100) == 5 * SECOND
    assert [take(table, "a", limit, 100) for _ in range(6)] == [True] * 5 + [False]


class Dies(Exception):
    """The process, between two stores."""


class Mortal:
    """Cells that die before the n-th store."""

    def __init__(self, cells: memoryview, lives: int) -> None:
        self.cells = cells
        self.lives = lives

    def __getitem__(self, index: Any) -> Any:
        return self.cells[index]

    def __setitem__(self, index: int, value: int) -> None:
        if self.lives == 0:
            raise Dies
        self.lives -= 1
        self.cells[index] = value


def crashes(setup: Any, act: Any) -> Iterator[tuple[BucketTable, bool]]:
    """The tables that are left after `act` died before its first, second, ... store, and the one it finished."""
    for lives in range(20):
        table = one_set()
        setup(table)
        table.cells, memory = Mortal(table.cells, lives), table.cells  # type: ignore[assignment]
        try:
            act(table)
            finished = True
        except Dies:
            finished = False
        table.cells = memory
        yield table, finished
        if finished:
            return


def test_a_process_that_dies_between_any_two_stores_leaves_every_bucket_valid_or_too_empty() -> None:
    long, wide = Limit(1, 60, 500), Limit(1, 1, 1000)

    def crowd(table: BucketTable) -> None:
        for i in range(63):
            table.take_one(table.place(f"old{i}"), (100 + i) * SECOND, long.window, 0)

    def evict_and_pay(table: BucketTable) -> None:
        table.take_one(table.place("new"), 7 * SECOND, wide.window, 0)
        table.settle(table.place("new"), -3 * SECOND, 0)

    left = list(crashes(crowd, evict_and_pay))
    assert len(left) == 5  # floor, debt, digest, refund; and the one that lived
    for table, _ in left:
        for i in range(63):
            assert table.debt(table.place(f"old{i}"), 0) >= (100 + i) * SECOND
        assert 100 * SECOND <= table.debt(table.place("new"), 0) <= 108 * SECOND
