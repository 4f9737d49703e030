"""What is before an endpoint, in tokens and streams: exact, shared, and back to nothing."""

import pytest

from gateway.core.endpoint import Endpoint, Row
from gateway.core.load import Works
from gateway.core.work import BUSIEST, Cells, Work


def two_workers() -> tuple[Endpoint, Endpoint]:
    """One endpoint as two workers see it."""
    mine, theirs = ([0], [0], [0], [0]), ([0], [0], [0], [0])
    cells = [Cells(*each, *([other] for other in others)) for each, others in ((mine, theirs), (theirs, mine))]
    first, second = (Endpoint("http://server", 0, Row([1], [0], work=each)) for each in cells)
    return first, second


def test_a_prompt_is_pending_until_its_first_token_and_runs_until_its_end() -> None:
    work = Work(0, None)
    stream = work.begin(1000, 400, 200, 10.0)
    assert (work.pending, work.running, work.context) == (600, 0, 0)
    stream.first(10.5)
    assert (work.pending, work.running, work.context) == (0, 1, 1100)
    stream.end(12.5, 101)
    assert (work.pending, work.running, work.context) == (0, 0, 0)
    assert (work.speed.first.mean_x, work.speed.first.mean_y) == (600, 0.5)
    assert (work.speed.each.mean_x, work.speed.each.mean_y) == (1100, 0.02)
    assert work.speed.output.mean_y == 101


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_stream_that_fails_leaves_nothing_and_teaches_nothing_of_its_pace(has_begun: bool) -> None:
    work = Work(0, None)
    stream = work.begin(1000, 0, 200, 10.0)
    if has_begun:
        stream.first(10.5)
    stream.end(11.0, 7, is_failed=True)
    assert (work.pending, work.running, len(work.waiting)) == (0, 0, 0)
    assert work.speed.each.weight == 0.0


def test_a_second_first_token_changes_nothing() -> None:
    work = Work(0, None)
    stream = work.begin(10, 0, 200, 1.0)
    stream.first(2.0)
    stream.first(3.0)
    assert work.running == 1
    assert work.speed.first.weight == 1.0


def test_what_a_prompt_waits_for_includes_what_was_there_before_it() -> None:
    work = Work(0, None)
    work.begin(5000, 0, 200, 1.0)
    second = work.begin(100, 0, 200, 1.0)
    second.first(2.0)
    assert work.speed.first.mean_x == 5100


def test_the_context_beside_a_stream_is_averaged_over_its_life() -> None:
    """Alone for a second, beside another for three: 1.75 times 110 tokens."""
    work = Work(0, None)
    first = work.begin(10, 0, 200, 0.0)
    first.first(1.0)
    other = work.begin(10, 0, 200, 1.0)
    other.first(2.0)
    first.end(5.0, 41)
    assert work.speed.each.mean_x == pytest.approx(1.75 * 110)
    assert work.speed.each.mean_y == pytest.approx(0.1)
    other.end(5.0, is_failed=True)


def test_workers_add_up_what_each_has_sent() -> None:
    mine, theirs = two_workers()
    works = Works([mine])
    running = theirs.work.begin(300, 0, 200, 0.0)
    running.first(0.1)
    theirs.work.begin(700, 0, 200, 0.0)
    mine.work.begin(50, 0, 200, 0.0)
    assert (mine.work.pending, mine.work.running, mine.work.context) == (50, 0, 0)
    assert works.due < 0.0
    works.refresh(0.2)
    assert (mine.work.pending, mine.work.running, mine.work.context) == (750, 1, 400)
    assert 0.2 < works.due < 0.21


def test_a_single_worker_never_has_to_add_up() -> None:
    assert Works([Endpoint("http://server", 0, Row([1], [0]))]).due > 1e9


def test_what_is_done_of_the_prompt_at_the_front_is_not_ahead_any_more() -> None:
    work = Work(0, None)
    work.a = 1e-4
    work.begin(5000, 0, 200, 1.0)
    work.begin(3000, 0, 200, 1.1)
    assert work.ahead(1.2) == pytest.approx(8000 - 2000)
    assert work.ahead(9.0) == pytest.approx(3000)  # never more than the front: what is late may be stuck


def test_the_prefills_of_others_are_no_part_of_a_pace() -> None:
    """Ten seconds for 101 tokens, four of which went into a prompt of 40,000 tokens."""
    work = Work(0, None)
    work.a = 1e-4
    stream = work.begin(100, 0, 200, 0.0)
    stream.first(0.1)
    other = work.begin(40_000, 0, 200, 1.0)
    other.first(5.0)
    stream.end(10.1, 101)
    assert work.speed.each.mean_y == pytest.approx(0.06)
    other.end(10.1)


def test_no_more_is_taken_off_a_pace_for_prefills_than_is_put_on_when_it_is_foretold() -> None:
    """A pace of 0.1 s a token beside nothing but prefills, were each as slow as it is taken to be."""
    work = Work(0, None)
    work.a = 1e-4
    stream = work.begin(100, 0, 200, 0.0)
    stream.first(0.1)
    work.begin(100_000, 0, 200, 1.0).first(10.0)
    stream.end(10.1, 101)
    assert work.speed.each.mean_y / (1.0 - BUSIEST) == pytest.approx(0.1)
