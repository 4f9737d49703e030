"""When the gateway refuses new requests because it has too much to do itself."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.overload import Overload


def after(lags: list[float], bound: float = 0.5, every: float = 0.1) -> Overload:
    overload, now = Overload(bound, 0.0), 0.0
    for lag in lags:
        now += every + lag
        overload.see_lag(now, lag)
    return overload


def test_a_few_slow_turns_are_no_overload() -> None:
    assert after([0.0, 0.9, 0.0, 3.0, 0.0]).share == 0.0
    assert after([0.51]).share == 0.0


def test_while_no_sample_is_on_time_the_share_grows_but_never_to_all() -> None:
    shares = [after([0.6] * count).share for count in (1, 2, 5, 10, 100)]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert 0.9 < shares[-1] < 1.0


def test_samples_on_time_end_it_soon() -> None:
    assert after([0.6] * 100 + [0.0]).share < 0.5
    assert after([0.6] * 100 + [0.0] * 8).share == 0.0


def test_far_beyond_the_bound_nobody_new_is_let_in() -> None:
    assert after([2.5] * 5).is_shut
    assert not after([2.5] * 5 + [0.0]).is_shut
    assert not after([0.6] * 50).is_shut


def test_without_a_bound_lag_is_never_overload() -> None:
    assert after([100.0] * 50, bound=0.0).share == 0.0


def test_memory_counts_from_nine_tenths_of_its_limit() -> None:
    overload = Overload(0.5, 0.0)
    for used, share in ((0.0, 0.0), (0.9, 0.0), (0.95, 0.5), (1.0, 0.95), (3.0, 0.95), (0.5, 0.0)):
        overload.see_memory(used)
        assert round(overload.share, 6) == share
    overload.see_memory(0.95)
    overload.see_lag(0.1, 0.0)
    assert overload.share > 0.4, "the worse of the two counts"


@given(st.lists(st.one_of(st.floats(0, 10), st.none()), max_size=200))
def test_some_are_always_let_through_and_told_when_to_come_again(samples: list[float | None]) -> None:
    overload, now = Overload(0.5, 0.0), 0.0
    for lag in samples:
        if lag is None:
            overload.see_memory(now % 2)
        else:
            now += 0.1 + lag
            overload.see_lag(now, lag)
        assert 0.0 <= overload.share <= 0.95
        assert 1 <= overload.retry_after <= 4
