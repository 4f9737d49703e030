"""Failed attempts: limited by address, with a ban, and never at the cost of a good credential."""

from typing import Any

import pytest

from gateway.config.settings import FailureSettings
from gateway.edge import failures
from gateway.edge.authenticate import Rejected
from gateway.edge.failures import Failures
from gateway.errors import Forbidden, GatewayError, ModelNotFound, TooManyRequests, Unauthenticated
from gateway.model import Exchange
from gateway.stores.memory import MemoryBuckets

SECOND = 10**9


class Gate:
    """Failed attempts at times that the test chooses."""

    def __init__(self, rate: str = "3/minute", ban: str = "10s") -> None:
        self.now = 1000 * SECOND
        settings = FailureSettings.model_validate({"rate": rate, "ban": ban})
        self.failures = Failures(settings, MemoryBuckets(), clock=lambda: self.now)

    def fail(self, address: str = "192.0.2.1", error: GatewayError | None = None) -> GatewayError:
        scope: dict[str, Any] = {"headers": []}
        return self.failures.judge(error or Rejected(), Exchange("r", 0.0, address), scope)

    def statuses(self, count: int, address: str = "192.0.2.1") -> list[int]:
        return [self.fail(address).status for _ in range(count)]


def test_too_many_failed_attempts_are_banned_for_a_while_and_the_answer_says_how_long() -> None:
    gate = Gate()
    assert gate.statuses(5) == [401, 401, 401, 429, 429]
    gate.now += 4 * SECOND
    error = gate.fail()
    assert isinstance(error, TooManyRequests)
    assert error.headers == [(b"retry-after", b"6")]


def test_failing_on_does_not_lengthen_a_ban() -> None:
    gate = Gate(rate="1/second")
    assert gate.statuses(2) == [401, 429]
    gate.now += 10 * SECOND - 1
    assert gate.statuses(3) == [429] * 3
    gate.now += 1
    assert gate.statuses(1) == [401]


def test_one_address_is_not_another_but_an_ipv6_network_is_one() -> None:
    gate = Gate()
    assert gate.statuses(4)[-1] == 429
    assert gate.statuses(1, "192.0.2.2") == [401]
    addresses = [f"2001:db8::{n}" for n in range(1, 5)]
    assert [gate.fail(each).status for each in addresses] == [401, 401, 401, 429]
    assert gate.statuses(1, "2001:db8:0:1::1") == [401]


@pytest.mark.parametrize("error", [Unauthenticated(), Forbidden(), ModelNotFound(), GatewayError()])
def test_what_is_no_failed_attempt_is_neither_counted_nor_changed(error: GatewayError) -> None:
    gate = Gate()
    assert [gate.fail(error=error) for _ in range(9)] == [error] * 9
    assert gate.statuses(3) == [401] * 3


def test_attempts_at_a_hidden_model_count_and_its_answer_stays_the_same() -> None:
    gate = Gate()
    unknown = ModelNotFound()
    unknown.__cause__ = Rejected()
    assert [gate.fail(error=unknown) for _ in range(9)] == [unknown] * 9
    assert gate.statuses(1) == [429]


def test_the_number_of_bans_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_MOST_BANS", 100)
    gate = Gate(rate="1/hour")
    for number in range(150):
        assert gate.statuses(2, f"10.0.0.{number}") == [401, 429]
    assert len(gate.failures._banned) == 100
    assert gate.statuses(1, "10.0.0.149") == [429]
