"""What traffic says of one endpoint, with several workers that each see a part of it."""

import pytest

from gateway.core.standing import BUSY_MOST, MOST_COST, PATIENCE, SHUN, WORDS, Cells, Stand, Standing, error_cost


def shared(workers: int, rung: list[None] | None = None) -> list[Standing]:
    """One endpoint as each of so many workers knows it."""
    rows = [[0.0] * WORDS for _ in range(workers)]
    ring = None if rung is None else lambda: rung.append(None)
    return [Standing(7, 0, Cells(rows[i], rows[:i] + rows[i + 1 :], ring)) for i in range(workers)]


class Owner:
    def __init__(self, standing: Standing) -> None:
        self.standing = standing


def test_an_endpoint_that_nobody_asked_is_fine() -> None:
    (standing,) = shared(1)
    assert (standing.read(0.0), standing.counts(), standing.times_out) == (Stand.FINE, (0, 0), 0)


def test_the_first_failure_costs_a_second_each_further_one_twice_that_up_to_a_minute() -> None:
    (standing,) = shared(1)
    costs = []
    for _ in range(8):
        standing.fail(10.0)
        costs.append(error_cost(Owner(standing), 10.0))
    assert costs == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, MOST_COST, MOST_COST]


def test_a_cost_fades_with_tau_and_is_quartered_by_a_success() -> None:
    (standing,) = shared(1)
    standing.fail(0.0)
    standing.fail(0.0)
    assert error_cost(Owner(standing), 10.0) == pytest.approx(2.0 / 2.71828, rel=1e-4)
    standing.succeed(10.0)
    assert error_cost(Owner(standing), 10.0) == pytest.approx(0.5 / 2.71828, rel=1e-4)
    for _ in range(3):
        standing.succeed(10.0)
    assert error_cost(Owner(standing), 10.0) == 0.0
    assert standing.read(10.0) is Stand.FINE


def test_it_doubles_also_after_it_has_faded() -> None:
    """Failed trials come half a minute apart."""
    (standing,) = shared(1)
    standing.fail(0.0)
    standing.fail(30.0)
    assert error_cost(Owner(standing), 30.0) == 2.0


def test_failures_in_a_row_are_counted_over_all_workers() -> None:
    one, other, third = shared(3)
    assert [one.fail(0.0), other.fail(0.1), one.fail(0.2), third.fail(0.3), other.fail(0.4)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_success_of_any_worker_begins_the_row_anew(who: int) -> None:
    workers = shared(3)
    for standing in workers:
        standing.fail(0.0)
    workers[who].succeed(1.0)
    assert workers[0].fail(2.0) == 1
    assert workers[1].fail(2.0) == 2
    assert [standing.in_a_row() for standing in workers] == [2, 2, 2]


def test_a_failure_has_every_worker_look_again_and_a_success_nobody() -> None:
    rung: list[None] = []
    one, other = shared(2, rung)
    one.succeed(0.0)
    assert not rung
    one.fail(0.0)
    assert rung
    assert other.read(0.0) is Stand.SHUNNED
    count = len(rung)
    one.read(0.0)
    for _ in range(100):
        one.fail(0.0)
    assert len(rung) == count, "it is shunned already"


def test_another_workers_failures_mean_nothing_after_a_success() -> None:
    one, other = shared(2)
    one.fail(0.0)
    other.succeed(0.1)
    assert other.read(0.2) is Stand.FINE


def test_after_its_cost_has_faded_one_request_may_try() -> None:
    (standing,) = shared(1)
    standing.fail(0.0)
    assert standing.read(29.0) is Stand.SHUNNED
    assert standing.read(31.0) is Stand.UNPROVEN
    standing.begin_trial(31.0)
    assert standing.read(31.0) is Stand.TRYING
    standing.succeed(31.1)
    assert standing.read(31.1) is Stand.FINE


def test_a_failed_trial_shuns_it_for_longer() -> None:
    (standing,) = shared(1)
    standing.fail(0.0)
    standing.read(31.0)
    standing.begin_trial(31.0)
    standing.fail(31.1)
    assert standing.read(61.2) is Stand.SHUNNED
    assert standing.read(69.0) is Stand.UNPROVEN


def test_an_ejected_endpoint_is_out_for_every_worker_until_its_time_is_over() -> None:
    one, other = shared(2)
    assert one.eject(100.0, 30.0, 300.0) == 30.0
    for standing in (one, other):
        assert standing.read(129.9) is Stand.OUT
        assert standing.due == 130.0
        assert standing.read(130.0) is Stand.UNPROVEN


def test_one_trial_over_all_workers_decides_for_all() -> None:
    one, other = shared(2)
    one.eject(100.0, 30.0, 300.0)
    other.read(130.0)
    other.begin_trial(130.0)
    assert one.read(130.1) is Stand.TRYING
    other.succeed(131.0)
    assert (one.read(131.0), one.ramp_at) == (Stand.FINE, 131.0)
    assert other.read(131.0) is Stand.FINE


def test_a_trial_that_says_nothing_or_whose_worker_died_is_given_to_another() -> None:
    one, other = shared(2)
    one.eject(100.0, 30.0, 300.0)
    one.begin_trial(130.0)
    one.abandon()
    assert other.read(130.1) is Stand.UNPROVEN
    one.begin_trial(140.0)
    assert other.read(140.1 + PATIENCE) is Stand.UNPROVEN


def test_it_is_out_for_longer_each_time_in_a_row_and_forgiven_while_it_is_back() -> None:
    one, other = shared(2)
    lengths, now = [], 0.0
    for turn in range(12):
        now += 1.0
        lengths.append((one, other)[turn % 2].eject(now, 30.0, 300.0))
        now += lengths[-1]
    assert lengths == [30.0, 60.0, 90.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0, 300.0, 300.0]
    one.read(now)
    one.begin_trial(now)
    one.succeed(now)
    assert one.eject(now + 10 * 30.0, 30.0, 300.0) == 90.0, "the thirteenth, less ten"
    assert one.times_out == 13


def test_an_endpoint_that_asks_to_be_left_alone_is_busy_and_neither_failed_nor_out() -> None:
    one, other = shared(2)
    one.busy(5.0, 100.0)
    assert (other.read(101.0), other.busy_until, other.due) == (Stand.FINE, 105.0, 105.0)
    one.busy(3600.0, 200.0)
    other.read(200.0)
    assert other.busy_until == 200.0 + BUSY_MOST
    assert other.fail(300.0) == 1


def test_a_worker_that_was_started_anew_goes_on_where_the_one_before_it_ended() -> None:
    row = [0.0] * WORDS
    before = Standing(7, 0, Cells(row))
    before.succeed(0.0)
    for _ in range(3):
        before.fail(1.0)
    after = Standing(7, 0, Cells(row))
    assert after.read(1.0) is Stand.SHUNNED
    assert (after.counts(), after.fail(1.0)) == ((1, 3), 4)


def test_what_was_said_of_a_slots_earlier_owner_is_forgotten() -> None:
    rows = [[0.0] * WORDS, [0.0] * WORDS]
    before = Standing(7, 0, Cells(rows[0], rows[1:]))
    before.eject(0.0, 30.0, 300.0)
    other = Standing(8, 0, Cells(rows[1], rows[:1]))
    assert other.read(1.0) is Stand.FINE
    assert Standing(8, 0, Cells(rows[0], rows[1:])).read(1.0) is Stand.FINE


def test_the_least_cost_that_keeps_work_away_is_reached_when_it_says() -> None:
    (standing,) = shared(1)
    standing.fail(0.0)
    assert standing.aged_cost(30.0) == pytest.approx(SHUN, rel=0.01)
