"""Which attempts are safe, how long they wait, and the law of their number."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.retry import MEMORY, STATUSES, Budget, RetryRules, asked_pause, cause_of
from gateway.errors import (
    BadRequest,
    ClientLeft,
    ConnectFailed,
    ConnectTimeout,
    GatewayError,
    NoEndpoint,
    StaleConnection,
    UpstreamClosed,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUntrusted,
)


def rules(**over: object) -> RetryRules:
    usual: dict[str, object] = {
        "attempts": 3, "causes": frozenset(("unsent", "broken")), "statuses": frozenset(STATUSES),
        "methods": frozenset(), "may_repeat": False, "base": 0.1, "longest": 1.0,
    }  # fmt: skip
    return RetryRules(**(usual | over))  # type: ignore[arg-type]


# --- the budget ---

Events = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 200), st.integers(0, 80)), max_size=60)


def drive(budget: Budget, events: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """(seconds passed, requests that came, retries wished) -> (now, requests, retries granted), summed up."""
    now, came, granted, seen = 0.0, 0, 0, []
    for passed, requests, wished in events:
        now += passed
        budget.requests += requests
        came += requests
        granted += sum(budget.take(now) for _ in range(wished))
        seen.append((now, came, granted))
    return seen


@settings(deadline=None)
@given(Events, st.floats(0, 1), st.floats(0, 50))
def test_retries_are_at_most_their_share_of_the_requests_and_their_rate(
    events: list[tuple[float, int, int]], share: float, rate: float
) -> None:
    budget = Budget(share, rate, 0.0)
    first = budget.most
    for now, came, granted in drive(budget, events):
        assert granted <= share * came + rate * now + first + 1e-6


@settings(deadline=None)
@given(Events, st.floats(0, 1), st.floats(0, 50))
def test_no_window_grants_more_than_it_earned_and_what_was_saved_up(
    events: list[tuple[float, int, int]], share: float, rate: float
) -> None:
    budget = Budget(share, rate, 0.0)
    seen = [(0.0, 0, 0), *drive(budget, events)]
    for i, (since, came_before, granted_before) in enumerate(seen):
        saved = budget.most + share * came_before
        for now, came, granted in seen[i:]:
            most = share * (came - came_before) + rate * (now - since) + saved
            assert granted - granted_before <= most + 1e-6


@settings(deadline=None)
@given(st.integers(1, 16), st.floats(0.02, 1), st.floats(0, 50))
def test_workers_that_divide_a_budget_keep_to_it_together(workers: int, share: float, rate: float) -> None:
    budgets = [Budget(share, rate / workers, 0.0) for _ in range(workers)]
    came = granted = 0
    for second in range(1, 6):
        for index, budget in enumerate(budgets):
            budget.requests += index * 10
            came += index * 10
            granted += sum(budget.take(float(second)) for _ in range(50))
    assert granted <= share * came + rate * 5 + sum(budget.most for budget in budgets) + 1e-6


def test_when_all_fails_the_endpoints_see_a_fifth_more_than_the_load_and_ten_a_second() -> None:
    """1,000 requests a second, each of which wants two retries, for a minute."""
    budget, granted = Budget(0.2, 10, 0.0), 0
    for tick in range(60_000):
        budget.requests += 1
        granted += sum(budget.take(tick / 1000) for _ in range(2))
    assert 0.2 * 60_000 <= granted <= 0.2 * 60_000 + 10 * 60 + 10


def test_what_was_earned_long_ago_is_no_reason_to_retry_now() -> None:
    budget = Budget(0.2, 0, 0.0)
    for second in range(3600):
        budget.requests += 1000
        budget.take(second)  # settles, and takes one
    assert sum(budget.take(3600.0) for _ in range(100_000)) <= 0.2 * 1000 * MEMORY * 1.06
    budget.requests += 1_000_000
    assert sum(budget.take(3600.0 + 1e6) for _ in range(100_000)) < 10, "a million in eleven days are few each second"


def test_a_quiet_route_may_retry_and_one_without_a_budget_may_not() -> None:
    quiet, none = Budget(0.2, 10, 0.0), Budget(0, 0, 0.0)
    assert [quiet.take(0.0) for _ in range(11)] == [True] * 10 + [False]
    assert quiet.take(0.1)
    none.requests += 1000
    assert not none.take(100.0)


def test_a_small_part_of_a_rate_still_makes_whole_retries() -> None:
    budget = Budget(0, 0.1, 0.0)
    assert [budget.take(now) for now in (0.0, 1.0, 9.0, 10.1, 11.0)] == [True, False, False, True, False]


def test_a_clock_that_stands_or_steps_back_grants_nothing() -> None:
    budget = Budget(0, 1, 100.0)
    assert budget.take(100.0)
    assert not any(budget.take(now) for now in (100.0, 50.0, 100.0, 100.9))
    assert budget.take(101.01)


# --- what is safe ---


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_idempotent_methods_may_be_sent_twice(method: str) -> None:
    assert rules().is_safe(method, ())


@pytest.mark.parametrize("method", ["POST", "PATCH", "get", "CONNECT", "X"])
def test_others_need_a_key_or_the_routes_word(method: str) -> None:
    assert not rules().is_safe(method, {b"content-type"})
    assert rules().is_safe(method, {b"idempotency-key"})
    assert rules(methods=frozenset([method])).is_safe(method, ())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ConnectFailed(), "unsent"),
        (ConnectTimeout(), "unsent"),
        (UpstreamUntrusted(), "unsent"),
        (StaleConnection(), "unsent"),
        (UpstreamClosed(), "broken"),
        (UpstreamInvalid(), "broken"),
        (UpstreamTimeout(), "timeout"),
        (ClientLeft(), ""),
        (BadRequest(), ""),
        (GatewayError(), ""),
    ],
)
def test_each_failure_has_a_name(error: GatewayError, cause: str) -> None:
    assert cause_of(error) == cause
    assert cause_of(NoEndpoint()) == "broken"


# --- pauses ---


def test_pauses_are_drawn_between_nothing_and_a_bound_that_doubles() -> None:
    dice = Random(1)
    several = rules(attempts=10)
    for made, bound in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (9, 1.0)):
        drawn = [several.pause(made, True, 0.0, dice) or 0.0 for _ in range(500)]
        assert 0 <= min(drawn) < bound * 0.05
        assert bound * 0.95 < max(drawn) <= bound


def test_the_last_attempt_is_the_last() -> None:
    assert rules().pause(2, True, 0.0, Random(1)) is not None
    assert rules().pause(3, True, 0.0, Random(1)) is None


def test_another_endpoint_does_not_wait_for_what_one_asked_of_itself() -> None:
    assert (rules().pause(1, True, 30.0, Random(1)) or 0.0) <= 0.1


def test_the_same_endpoint_is_asked_again_only_where_it_may_and_after_what_it_asked() -> None:
    assert rules().pause(1, False, 0.0, Random(1)) is None
    again = rules(may_repeat=True)
    assert 0.5 <= (again.pause(1, False, 0.5, Random(1)) or 0.0) <= 0.6
    assert again.pause(1, False, 1.5, Random(1)) is None, "longer than the longest pause"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0), (b"", 0.0), (b"7", 7.0), (b"-7", 0.0), (b"soon", 0.0), (b"1.5", 0.0), (b"9" * 400, 999999999.0),
        (b"Thu, 01 Jan 1970 00:01:40 GMT", 40.0), (b"Thu, 01 Jan 1970 00:00:10 GMT", 0.0), (b"\xff", 0.0),
        (b"Thu, 99 Jan 1970 00:01:40 GMT", 0.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value: bytes | None, seconds: float) -> None:
    assert asked_pause(value, 60.0) == seconds
