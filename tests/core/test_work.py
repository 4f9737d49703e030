"""What is before an endpoint, in tokens and streams: exact, shared, and back to nothing."""

import pytest

from gateway.core.endpoint import Endpoint, Row
from gateway.core.load import Works
from gateway.core.work import Cells, Work


def two_workers() -> tuple[Endpoint, Endpoint]:
    """One endpoint as two workers see it."""
    pending, running = ([0], [0]), ([0], [0])
    cells = [Cells(pending[i], running[i], [pending[1 - i]], [running[1 - i]]) for i in range(2)]
    first, second = (Endpoint("http://server", 0, Row([1], [0], work=each)) for each in cells)
    return first, second


def test_a_prompt_is_pending_until_its_first_token_and_runs_until_its_end() -> None:
    work = Work(0, None)
    stream = work.begin(1000, 400, 10.0)
    assert (work.pending, work.running) == (600, 0)
    stream.first(10.5)
    assert (work.pending, work.running) == (0, 1)
    stream.end(12.5, 101)
    assert (work.pending, work.running) == (0, 0)
    assert (work.speed.first.mean_x, work.speed.first.mean_y) == (600, 0.5)
    assert (work.speed.each.mean_x, work.speed.each.mean_y) == (1.0, 0.02)
    assert work.speed.output.mean_y == 101


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_stream_that_fails_leaves_nothing_and_teaches_nothing_of_its_pace(has_begun: bool) -> None:
    work = Work(0, None)
    stream = work.begin(1000, 0, 10.0)
    if has_begun:
        stream.first(10.5)
    stream.end(11.0, 7, is_failed=True)
    assert (work.pending, work.running, len(work.waiting)) == (0, 0, 0)
    assert work.speed.each.weight == 0.0


def test_a_second_first_token_changes_nothing() -> None:
    work = Work(0, None)
    stream = work.begin(10, 0, 1.0)
    stream.first(2.0)
    stream.first(3.0)
    assert work.running == 1
    assert work.speed.first.weight == 1.0


def test_what_a_prompt_waits_for_includes_what_was_there_before_it() -> None:
    work = Work(0, None)
    work.begin(5000, 0, 1.0)
    second = work.begin(100, 0, 1.0)
    second.first(2.0)
    assert work.speed.first.mean_x == 5100


def test_the_streams_beside_one_are_averaged_over_its_life() -> None:
    """Alone for a second, beside another for three: 1.75."""
    work = Work(0, None)
    first = work.begin(10, 0, 0.0)
    first.first(1.0)
    other = work.begin(10, 0, 1.0)
    other.first(2.0)
    first.end(5.0, 41)
    assert work.speed.each.mean_x == pytest.approx(1.75)
    assert work.speed.each.mean_y == pytest.approx(0.1)
    other.end(5.0, is_failed=True)


def test_workers_add_up_what_each_has_sent() -> None:
    mine, theirs = two_workers()
    works = Works([mine])
    running = theirs.work.begin(300, 0, 0.0)
    running.first(0.1)
    theirs.work.begin(700, 0, 0.0)
    mine.work.begin(50, 0, 0.0)
    assert (mine.work.pending, mine.work.running) == (50, 0)
    assert works.due < 0.0
    works.refresh(0.2)
    assert (mine.work.pending, mine.work.running) == (750, 1)
    assert 0.2 < works.due < 0.21


def test_a_single_worker_never_has_to_add_up() -> None:
    assert Works([Endpoint("http://server", 0, Row([1], [0]))]).due > 1e9
