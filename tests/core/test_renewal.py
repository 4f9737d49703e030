from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.renewal import Suggestion, pause_after, renew_at

DAY = 86400.0


def test_a_certificate_of_90_days_is_renewed_when_30_are_left() -> None:
    assert renew_at(0.0, 90 * DAY, luck=0.0) == 60 * DAY


@given(st.floats(0, 1), st.floats(1, 1e9))
def test_luck_spreads_renewals_and_never_to_the_end(luck: float, lifetime: float) -> None:
    assert lifetime * 0.66 <= renew_at(0.0, lifetime, luck) <= lifetime * 0.71


@given(st.integers())
def test_pauses_double_up_to_six_hours(seed: int) -> None:
    pauses = [pause_after(failures, Random(seed)) for failures in range(1, 40)]
    assert 240 <= pauses[0] <= 360
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert pauses[1] == 2 * pauses[0]
    assert pauses[-1] <= 6 * 3600 * 1.2


def test_gateways_do_not_try_again_at_the_same_moment() -> None:
    assert len({pause_after(3, Random(seed)) for seed in range(10)}) == 10


def test_a_suggested_window_wins_and_luck_spreads_over_it() -> None:
    begin, end = 0.0, 90 * DAY
    window = Suggestion(70 * DAY, 72 * DAY, 3600.0)
    assert [renew_at(begin, end, luck, window) / DAY for luck in (0.0, 0.5, 1.0)] == [70, 71, 72]


def test_a_window_that_leaves_no_time_for_failures_is_not_waited_for() -> None:
    assert renew_at(0.0, 90 * DAY, 1.0, Suggestion(89 * DAY, 95 * DAY, 3600.0)) == 81 * DAY


def test_a_window_that_has_passed_means_now_and_none_means_the_usual_time() -> None:
    assert renew_at(0.0, 90 * DAY, 0.5, Suggestion(-2 * DAY, -1 * DAY, 3600.0)) < 0
    assert renew_at(0.0, 90 * DAY, 0.0, Suggestion(0.0, 0.0, 3600.0)) == 60 * DAY
