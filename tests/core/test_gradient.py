"""A limit that is found out: it settles near what a server can do, whatever it began with."""

from random import Random

import pytest

from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.gradient import Gradient, Gradients
from gateway.core.outcome import Outcome
from gateway.errors import ClientLeft, UpstreamTimeout


def settle(gradient: Gradient, capacity: int, service: float, rounds: int = 2000) -> None:
    """A server that does `capacity` requests at one time in `service` seconds each, always offered more than it may
    have; what is above its capacity queues in it."""
    dice = Random(7)
    for _ in range(rounds):
        in_flight = int(gradient.limit)
        queued = max(in_flight - capacity, 0)
        gradient.sample(service * (1 + queued / capacity) * dice.uniform(0.95, 1.05), in_flight)


@pytest.mark.parametrize("capacity", [8, 32, 100])
@pytest.mark.parametrize("start", [4, 20, 190])
def test_it_settles_where_the_server_is_busy_and_its_queue_is_short(capacity: int, start: int) -> None:
    gradient = Gradient(1, 200, start)
    for _ in range(20):  # the server is known at rest before it is overrun: that is what "usual" means
        gradient.sample(0.1, 1)
    settle(gradient, capacity, 0.1)
    assert capacity * 0.9 <= gradient.limit <= min(capacity * 2.2 + 12, 200)


def test_a_limit_that_is_not_used_learns_nothing() -> None:
    gradient = Gradient(1, 200, 20)
    for _ in range(100):
        gradient.sample(0.1, 3)
    assert gradient.limit == 20


def test_it_falls_when_answers_become_slow_and_rises_when_they_are_quick_again() -> None:
    gradient = Gradient(1, 200, 20)
    for _ in range(50):
        gradient.sample(0.1, int(gradient.limit))
    calm = gradient.limit
    assert calm > 20
    for _ in range(10):
        gradient.sample(1.0, int(gradient.limit))
    slow = gradient.limit
    assert slow < calm / 2
    for _ in range(30):
        gradient.sample(0.1, int(gradient.limit))
    assert gradient.limit > slow * 1.5


def test_it_stays_within_its_bounds_and_failures_lower_it() -> None:
    gradient = Gradient(3, 10, 500)
    assert gradient.limit == 10
    gradient.fail()
    assert gradient.limit == pytest.approx(9.0)
    for _ in range(100):
        gradient.fail()
    assert gradient.limit == 3
    for _ in range(100):
        gradient.sample(0.1, 10)
        gradient.sample(0.0, 10)
    assert gradient.limit == 10


def test_each_endpoint_of_a_pool_has_its_own() -> None:
    row = Row([Health.UP] * 2, [0] * 2)
    slow, quick = (Endpoint(f"http://10.0.0.{i}:80", i, row) for i in range(2))
    gradients = Gradients(1, 100, 2)
    gradients.ended(b"", slow, Outcome(0, UpstreamTimeout(), 1.0), 0.0)
    gradients.ended(b"", slow, Outcome(429, None, 1.0, 0.5), 0.0)
    gradients.ended(b"", quick, Outcome(0, ClientLeft(), 1.0), 0.0)
    assert gradients.of(slow).limit == pytest.approx(1.62)
    assert gradients.of(quick).limit == 2
    with slow.lease(), quick.lease():
        assert not gradients.has_room(slow)
        assert gradients.has_room(quick)
        gradients.began(b"", quick, 0.0)
        gradients.first_byte(b"", quick, 0.1, 0.0)
        assert gradients.of(quick).limit > 2
