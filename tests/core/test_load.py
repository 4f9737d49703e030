"""Which endpoints are open, and the sum of what all workers hold."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.load import CELL, FRESH, Loads
from gateway.core.openlist import OpenList
from gateway.core.pick import POLICIES
from gateway.core.pool import Pool

states = st.lists(st.sampled_from(Health), min_size=1, max_size=8)


def a_pool(health: list[int], changes: list[int] | None = None) -> list[Endpoint]:
    row = Row(health, [0] * len(health), (), changes if changes is not None else ())
    return [Endpoint(f"http://server-{slot}", slot, row) for slot in range(len(health))]


def named(endpoints: tuple[Endpoint, ...], health: list[Health], state: Health) -> bool:
    return [endpoint.slot for endpoint in endpoints] == [slot for slot, h in enumerate(health) if h is state]


@given(health=states)
def test_those_up_are_open_and_failing_that_those_still_checking(health: list[Health]) -> None:
    open_list = OpenList(a_pool(list(map(int, health))))
    expected = Health.UP if Health.UP in health else Health.CHECKING
    assert named(tuple(open_list.candidates()), health, expected)


@given(health=states, tried=st.sets(st.integers(0, 7)))
def test_what_was_tried_is_out_and_makes_room_for_those_still_checking(health: list[Health], tried: set[int]) -> None:
    pool = a_pool(list(map(int, health)))
    found = OpenList(pool).candidates([endpoint for endpoint in pool if endpoint.slot in tried])
    up = [slot for slot, h in enumerate(health) if h is Health.UP and slot not in tried]
    checking = [slot for slot, h in enumerate(health) if h is Health.CHECKING and slot not in tried]
    assert [endpoint.slot for endpoint in found] == (up or checking)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Health)), max_size=40))
def test_with_a_count_of_changes_the_list_is_never_out_of_date(writes: list[tuple[int, Health]]) -> None:
    health, changes = [0] * 4, [0]
    cached, always_read = OpenList(a_pool(health, changes)), OpenList(a_pool(health))
    for slot, state in writes:
        health[slot] = state
        changes[0] += 1
        assert [e.slot for e in cached.candidates()] == [e.slot for e in always_read.candidates()]


def test_nothing_is_read_again_until_a_change_is_counted() -> None:
    health, changes = [int(Health.UP)] * 2, [0]
    open_list = OpenList(a_pool(health, changes))
    before = open_list.candidates()
    health[0] = Health.DOWN
    assert open_list.candidates() is before
    changes[0] += 1
    assert [endpoint.slot for endpoint in open_list.candidates()] == [1]


def test_a_change_elsewhere_leaves_the_same_tuple() -> None:
    health, changes = [int(Health.UP)] * 3, [0]
    pool = a_pool(health, changes)
    open_list = OpenList(pool[:2])
    before = open_list.candidates()
    health[2] = Health.DOWN
    changes[0] += 1
    assert open_list.candidates() is before


def test_a_change_during_the_reading_is_seen_by_the_next() -> None:
    changes = [0]

    class Racing(list[int]):
        """The controller writes the first cell just after it was read."""

        def __getitem__(self, slot: int) -> int:  # type: ignore[override]
            value = super().__getitem__(slot)
            if slot == 0 and changes[0] == 0:
                super().__setitem__(0, int(Health.DOWN))
                changes[0] = 1
            return value

    open_list = OpenList(a_pool(Racing([Health.UP, Health.UP]), changes))
    assert len(open_list.candidates()) == 2
    assert [endpoint.slot for endpoint in open_list.candidates()] == [1]


def test_a_pool_without_endpoints_has_no_candidates() -> None:
    assert OpenList([]).candidates() == ()


def test_an_open_list_shows_its_state() -> None:
    open_list = OpenList(a_pool([Health.UP, Health.DOWN, Health.CHECKING, Health.UP]))
    open_list.candidates()
    assert repr(open_list) == "<OpenList 2 up, 1 checking of 4>"


def test_a_pool_offers_its_open_endpoints() -> None:
    endpoints = a_pool([Health.DOWN, Health.UP])
    pool = Pool("iris", "v1", endpoints, POLICIES["random"](endpoints), ("iris", None))
    assert list(pool.candidates()) == [endpoints[1]]
    assert list(pool.candidates([endpoints[1]])) == []


# --- loads ------------------------------------------------------------------------------------------------------------


def test_with_one_worker_loads_are_never_due() -> None:
    assert Loads(a_pool([1, 1])).due == inf
    assert Loads([]).due == inf


def test_loads_are_due_at_first_and_again_when_they_may_be_old() -> None:
    others = [[3, 0], [4, 1]]
    row = Row([1, 1], [0, 0], others)
    pool = [Endpoint(f"http://server-{slot}", slot, row) for slot in range(2)]
    loads = Loads(pool)
    assert loads.due < 0
    with pool[0].lease():
        loads.refresh(50.0)
        assert [endpoint.pending for endpoint in pool] == [8, 1]
        assert loads.due == 50.0 + FRESH
        others[0][0] = 0
        with pool[0].lease():
            assert pool[0].pending == 9
        loads.refresh(loads.due)
        assert pool[0].pending == 5
    assert pool[0].pending == 4


def test_many_cells_are_summed_less_often() -> None:
    row = Row([1] * 500, [0] * 500, [[0] * 500] * 63)
    loads = Loads([Endpoint(f"http://server-{slot}", slot, row) for slot in range(500)])
    loads.refresh(0.0)
    assert loads.due == pytest.approx(500 * 63 * CELL)
