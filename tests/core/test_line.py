"""Who waits how long: priorities, turns, and what is left of a line after anything."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.line import Line, Waiter


def waiter(owner: str = "a", rank: int = 1, since: float = 0.0, until: float = 100.0) -> Waiter:
    return Waiter(rank, owner, since, until)


def line_of(*waiters: Waiter) -> Line:
    line = Line()
    for each in waiters:
        line.add(each)
    return line


def served(line: Line) -> list[Waiter]:
    order = []
    while (each := line.next()) is not None:
        line.serve(each, 0.0)
        order.append(each)
    return order


Waiters = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=40)


@settings(deadline=None)
@given(Waiters)
def test_all_are_served_once_and_none_before_one_that_is_more_important(wanted: list[tuple[str, int]]) -> None:
    waiters = [waiter(owner, rank) for owner, rank in wanted]
    line = line_of(*waiters)
    assert len(line) == len(list(line)) == len(waiters)
    order = served(line)
    assert sorted(map(id, order)) == sorted(map(id, waiters))
    assert [each.rank for each in order] == sorted(each.rank for each in waiters)
    assert len(line) == 0


@settings(deadline=None)
@given(Waiters)
def test_one_owners_requests_keep_their_order_and_no_owner_has_two_turns_while_another_waits(
    wanted: list[tuple[str, int]],
) -> None:
    waiters = [waiter(owner, 0) for owner, _ in wanted]
    order = served(line_of(*waiters))
    for owner in "abcd":
        assert [each for each in order if each.owner == owner] == [each for each in waiters if each.owner == owner]
    for index, each in enumerate(order[:-1]):
        still = {later.owner for later in order[index + 1 :]}
        if order[index + 1].owner == each.owner:
            assert still == {each.owner}


@settings(deadline=None)
@given(Waiters, st.data())
def test_the_order_that_is_shown_is_the_order_of_service(wanted: list[tuple[str, int]], data: st.DataObject) -> None:
    line = line_of(*(waiter(owner, rank) for owner, rank in wanted))
    for each in list(line):
        if data.draw(st.booleans()):
            line.remove(each)
            line.remove(each)  # no effect
    shown = list(line)
    assert shown == served(line)


def test_who_asks_most_waits_longest() -> None:
    greedy = [waiter("greedy") for _ in range(50)]
    modest = waiter("modest")
    assert served(line_of(*greedy, modest)).index(modest) == 1


def test_one_that_is_barred_keeps_nobody_else_from_being_next() -> None:
    first, second = waiter("a"), waiter("b")
    line = line_of(first, second)
    assert line.next() is first
    assert line.next({"a"}) is second
    assert line.next({"a", "b"}) is None


def test_one_whose_time_is_over_is_found() -> None:
    late = waiter(until=5.0)
    line = line_of(waiter(until=9.0), late)
    assert line.overdue(4.9) == []
    assert line.overdue(5.0) == [late]


def test_the_worst_is_the_newest_of_who_has_most_among_the_least_important() -> None:
    newest = waiter("a", 3)
    line = line_of(waiter("a", 3), waiter("b", 3), newest, waiter("c", 1))
    assert line.worst(0) is newest
    assert line.worst(1) is newest
    assert line.worst(3) is None, "an equal gives up nothing"
    assert Line().worst(0) is None


def test_the_wait_is_told_by_how_fast_those_before_were_served() -> None:
    line = line_of(*(waiter(since=10.0) for _ in range(12)))
    assert line.wait(1, "a") == 0.0, "nothing is known"
    for second in range(1, 5):
        line.serve(line.next() or waiter(), 10.0 + second * 2)
    assert line.gap == pytest.approx(2.0)
    assert line.wait(1, "a") == pytest.approx(2.0 * 9)
    assert line.wait(0, "a") == pytest.approx(2.0), "more important than all of them"
    assert line.wait(1, "other") == pytest.approx(2.0 * 2), "one turn each"
    assert line.wait(2, "other") == pytest.approx(2.0 * 9)
