"""Workers are replaced one by one; whoever dies in the middle leaves neither one too many nor one too few."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.server.children import Children
from gateway.server.roll import Roll
from gateway.server.zone import PID, STALE, Zone, rows_of


class Place:
    """One worker, a real process that sleeps, in row 0; successors are told to serve by the test."""

    def __init__(self) -> None:
        self.zone = Zone.create(2**16)
        self.children = Children(self.zone, lambda slot: signal.pause())  # type: ignore[arg-type, return-value]
        self.started: list[int] = []
        self.old = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        self.children.slots[self.old.pid] = 0
        self.children.start = self._start  # type: ignore[method-assign]
        self.zone.workers[0][PID], self.zone.workers[0][STALE] = self.old.pid, 1
        self.roll = Roll(self.children, self.zone, rows_of(0, 1), {0: 0})

    def _start(self, slot: int) -> None:
        self.started.append(slot)
        self.children.slots[-slot] = slot


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    yield place
    place.old.kill()
    place.old.wait()


def test_a_predecessor_is_told_to_end_when_its_successor_serves_and_is_not_replaced(place: Place) -> None:
    place.roll.begin()
    place.roll.step()
    assert (place.started, place.roll.listener_of[1], place.old.poll()) == ([1], 0, None)
    place.zone.workers[1][PID] = os.getpid()
    place.roll.step()
    assert place.old.wait(10) == -signal.SIGTERM
    assert place.roll.forgets(place.old.pid)
    del place.children.slots[place.old.pid]
    place.roll.step()
    assert not place.roll.is_under_way
    assert place.started == [1]


def test_a_predecessor_that_dies_meanwhile_has_its_successor_already(place: Place) -> None:
    place.roll.begin()
    place.roll.step()
    del place.children.slots[place.old.pid]
    assert place.roll.forgets(place.old.pid)
    place.zone.workers[1][PID] = os.getpid()
    place.roll.step()
    assert (place.roll.slot, place.roll.ending) == (None, set())


def test_a_successor_that_fails_is_not_missed_unless_its_predecessor_is_gone(place: Place) -> None:
    place.roll.begin()
    place.roll.step()
    assert place.roll.has_lost(1)
    assert not place.roll.is_under_way
    place.children.slots.pop(-1)
    place.roll.begin()
    place.roll.step()
    assert place.roll.forgets(place.old.pid)
    assert not place.roll.has_lost(1), "it is to be started again"
