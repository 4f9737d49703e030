"""Laws of the token bucket, over any pattern of arrivals."""

from fractions import Fraction
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.limiter import LONGEST, SECOND, Limit, debt_after, settled

limits = st.builds(
    Limit,
    amount=st.integers(1, 10_000),
    period=st.sampled_from([1, 7, 60, 3600, 86_400]),
    burst=st.integers(1, 200),
)
gaps = st.lists(st.integers(0, 20 * SECOND), min_size=1, max_size=120)
costs = st.integers(1, 5)


class Decision(NamedTuple):
    """What a bucket says to one request, as a table and a refusal say it together (`BucketTable.take`, `Bundle`)."""

    allowed: bool
    full_at: int  # the bucket afterwards; unchanged if refused
    remaining: int  # whole tokens left
    retry_after: float  # seconds until the same request would be allowed; 0.0 if it was, inf if it never will be
    reset: float  # seconds until the bucket is full


def decide(limit: Limit, full_at: int, now: int, cost: int = 1) -> Decision:
    """Take `cost` tokens, all or none."""
    debt = debt_after(full_at, now, cost * limit.price)
    if debt <= limit.window:
        return Decision(True, now + debt, limit.remaining(debt), 0.0, debt / SECOND)
    before = debt - cost * limit.price
    wait = limit.wait(debt) if cost <= limit.burst else inf
    return Decision(False, full_at, limit.remaining(before), wait, before / SECOND)


def run(limit: Limit, arrivals: list[tuple[int, int]], full_at: int = 0) -> tuple[int, int]:
    """Tokens admitted, and the bucket afterwards, over (instant, cost)."""
    admitted = 0
    for now, cost in arrivals:
        decision = decide(limit, full_at, now, cost)
        full_at = decision.full_at
        admitted += cost * decision.allowed
    return admitted, full_at


@given(limits, gaps, st.data())
def test_no_pattern_of_arrivals_gets_more_than_burst_plus_rate_times_time(
    limit: Limit, gaps: list[int], data: st.DataObject
) -> None:
    start = now = data.draw(st.integers(0, 10**18))
    arrivals = []
    for gap in gaps:
        now += gap
        arrivals.append((now, data.draw(costs)))
    admitted, _ = run(limit, arrivals)
    assert admitted <= limit.burst + Fraction(limit.amount * (now - start), limit.period * SECOND)


@given(limits, st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 10**18))
def test_while_demand_lasts_no_less_than_that_minus_one_is_granted(limit: Limit, gaps: list[float], start: int) -> None:
    """Demand lasts: everything is taken at each visit, and no gap lets the bucket run full."""
    now, admitted, full_at = start, *run(limit, [(start, 1)] * (limit.burst + 1))
    for gap in gaps:
        now += int(gap * (full_at - now))
        more, full_at = run(limit, [(now, 1)] * (limit.burst + 1), full_at)
        admitted += more
    due = limit.burst + Fraction(limit.amount * (now - start), limit.period * SECOND)
    rounding = Fraction(admitted * limit.amount, limit.period * SECOND)  # each token is up to 1 ns dearer than exact
    assert admitted >= due - rounding - 1


@given(limits, gaps, st.integers(1, 10**12))
def test_a_clock_that_goes_backwards_grants_nothing_extra(limit: Limit, gaps: list[int], jump: int) -> None:
    now = 10**15
    arrivals = []
    for gap in gaps:
        now += gap
        arrivals += [(now, 1), (now - jump, 1), (now, 1)]
    elapsed = now - (10**15 - jump)
    admitted, _ = run(limit, arrivals)
    assert admitted <= limit.burst + Fraction(limit.amount * elapsed, limit.period * SECOND)
    frozen, _ = run(limit, [(10**15, 1)] * 300 + [(10**15 - jump, 1)] * 300)
    assert frozen == min(limit.burst, 300)


@given(limits, st.integers(0, 10**15), st.integers(0, 10**15), st.integers(0, 10_000))
def test_a_refund_never_makes_a_bucket_hold_more_than_its_burst(
    limit: Limit, full_at: int, now: int, back: int
) -> None:
    after = settled(full_at, now, -back * limit.price)
    assert limit.remaining(after - now) <= limit.burst
    assert after >= now


@given(limits, st.integers(0, 10**15), st.integers(0, 10**9), costs)
def test_a_cancelled_reservation_leaves_the_bucket_as_if_it_had_never_been(
    limit: Limit, now: int, debt: int, cost: int
) -> None:
    before = now + min(debt, limit.window)
    taken = decide(limit, before, now, cost)
    if taken.allowed:
        assert settled(taken.full_at, now, -cost * limit.price) == before


@given(limits, st.integers(0, 10**15), st.integers(0, 10**18), costs)
def test_whoever_waits_the_time_that_was_named_is_admitted_and_not_a_nanosecond_earlier(
    limit: Limit, now: int, debt: int, cost: int
) -> None:
    full_at = now + debt % (limit.window + 1)
    decision = decide(limit, full_at, now, cost)
    if decision.allowed:
        return
    if cost > limit.burst:
        assert decision.retry_after == inf
        return
    wait = full_at + cost * limit.price - limit.window - now
    assert decision.retry_after == pytest.approx(wait / SECOND)
    assert decide(limit, full_at, now + wait, cost).allowed
    assert not decide(limit, full_at, now + wait - 1, cost).allowed


def test_a_refusal_takes_nothing() -> None:
    limit = Limit(amount=60, period=60, burst=3)
    decision = decide(limit, 5 * SECOND, 3 * SECOND, cost=2)
    assert decision == (False, 5 * SECOND, 1, 1.0, 2.0)


def test_remaining_and_reset_are_told() -> None:
    limit = Limit(amount=100, period=60, burst=20)
    decision = decide(limit, 0, 10 * SECOND, cost=5)
    assert decision == (True, 13 * SECOND, 15, 0.0, 3.0)


def test_a_charge_may_overdraw_a_bucket_and_the_next_request_waits_until_it_is_paid_off() -> None:
    limit = Limit(amount=10, period=1, burst=10)
    full_at = settled(0, 9 * SECOND, 25 * limit.price)
    decision = decide(limit, full_at, 9 * SECOND)
    assert (decision.allowed, decision.remaining) == (False, 0)
    assert decision.retry_after == pytest.approx(1.6)


def test_no_charge_leaves_the_range_of_a_cell() -> None:
    full_at = 10**18
    for _ in range(5):
        full_at = settled(full_at, 10**18, LONGEST)
    assert full_at == 10**18 + LONGEST < 2**63


@pytest.mark.parametrize(("amount", "period", "burst"), [(0, 60, 1), (1, 0, 1), (1, 60, 0), (1, 31_104_000, 100)])
def test_what_cannot_be_counted_is_refused_at_once(amount: int, period: int, burst: int) -> None:
    with pytest.raises(ValueError):
        Limit(amount, period, burst)


@given(limits, st.integers(1, 1000))
def test_tokens_taken_the_nanosecond_they_fall_due_are_within_the_rate_too(limit: Limit, taken: int) -> None:
    """The price of a token is no whole number of nanoseconds; rounding it down would give some away."""
    due = [(k * limit.price, 1) for k in range(taken)]
    admitted, _ = run(limit, [(0, 1)] * limit.burst + due)
    assert admitted <= limit.burst + Fraction(limit.amount * due[-1][0], limit.period * SECOND)


def test_three_per_second_is_three_at_once_although_a_third_of_a_second_is_no_whole_nanosecond() -> None:
    admitted, _ = run(Limit(amount=3, period=1, burst=3), [(0, 1)] * 10)
    assert admitted == 3
