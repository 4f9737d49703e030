"""Requests in flight over real processes: exact, and free again when their worker dies."""

import mmap
import os
import signal
import time
from collections.abc import Iterator

import pytest

from gateway.stores.leases import SharedLeases, size_of
from gateway.stores.table import Place
from tests.stores.forking import fork

OFFSET = 8192
ENTRIES = 63


class Region:
    def __init__(self, pairs: int = 1000) -> None:
        size = OFFSET + size_of(pairs)
        self.fd = os.memfd_create("test")
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)

    def leases(self, worker: int | None = None) -> SharedLeases:
        return SharedLeases(memoryview(self.map)[OFFSET:], self.fd, OFFSET, worker)


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    yield made
    os.close(made.fd)


def hold(leases: SharedLeases, key: str, limit: int = 100, times: int = 1) -> list[bool]:
    return [leases.acquire(leases.place(key), limit) for _ in range(times)]


def test_no_more_than_the_limit_are_held_and_what_is_released_is_free(region: Region) -> None:
    leases = region.leases(0)
    assert hold(leases, "a", limit=2, times=3) == [True, True, False]
    assert hold(leases, "b", limit=2) == [True]
    leases.release(leases.place("a"))
    assert hold(leases, "a", limit=2, times=2) == [True, False]


def test_all_workers_count_together(region: Region) -> None:
    first, second = region.leases(0), region.leases(1)
    assert hold(first, "a", limit=3, times=2) == [True, True]
    assert hold(second, "a", limit=3, times=2) == [True, False]
    assert first.count(first.place("a")) == second.count(second.place("a")) == 3
    second.release(second.place("a"))
    assert first.count(first.place("a")) == 2


def test_a_worker_releases_only_what_is_its_own(region: Region) -> None:
    first, second = region.leases(0), region.leases(1)
    hold(first, "a", times=2)
    second.release(second.place("a"))
    assert first.count(first.place("a")) == 2


def test_what_a_dead_worker_held_is_free_when_it_is_declared_dead(region: Region) -> None:
    master, worker, other = region.leases(), region.leases(0), region.leases(1)
    hold(worker, "a", times=5)
    hold(other, "a", times=1)
    master.forget(0)
    assert other.count(other.place("a")) == 1


def test_what_a_dead_worker_held_is_free_when_its_successor_starts(region: Region) -> None:
    predecessor = region.leases(0)
    hold(predecessor, "a", limit=2, times=2)
    successor = region.leases(0)
    assert hold(successor, "a", limit=2, times=3) == [True, True, False]


def test_a_predecessor_that_still_drains_takes_nothing_from_its_successor(region: Region) -> None:
    predecessor = region.leases(0)
    place = predecessor.place("a")
    predecessor.acquire(place, 5)
    successor = region.leases(0)
    hold(successor, "a", limit=5, times=3)
    predecessor.release(place)
    assert successor.count(successor.place("a")) == 3


def test_who_only_looks_declares_nobody_dead(region: Region) -> None:
    worker = region.leases(0)
    hold(worker, "a")
    onlooker = region.leases()
    assert onlooker.count(onlooker.place("a")) == 1


def test_entries_that_are_not_used_any_more_are_used_again() -> None:
    region = Region(pairs=1)
    leases = region.leases(0)
    for i in range(500):
        place = leases.place(f"key{i}")
        assert leases.acquire(place, 1)
        assert not leases.acquire(place, 1)
        leases.release(place)
    os.close(region.fd)


def test_a_set_without_a_free_entry_refuses_new_callers_and_serves_those_it_has() -> None:
    region = Region(pairs=1)
    leases = region.leases(0)
    assert all(hold(leases, f"key{i}")[0] for i in range(ENTRIES))
    assert hold(leases, "one more") == [False]
    assert hold(leases, "key5") == [True]
    leases.release(leases.place("key7"))
    assert hold(leases, "one more") == [True]
    successor = region.leases(0)
    assert all(hold(successor, f"new{i}")[0] for i in range(ENTRIES))
    os.close(region.fd)


def test_a_place_that_is_out_of_date_releases_the_right_entry() -> None:
    region = Region(pairs=1)
    leases = region.leases(0)
    old = leases.place("a")
    leases.acquire(old, 9)
    leases.release(old)
    hold(leases, "b", times=2)  # takes the entry that `a` had
    hold(leases, "a", times=3)  # has another one now
    leases.release(old)
    assert (leases.count(leases.place("a")), leases.count(leases.place("b"))) == (2, 2)
    os.close(region.fd)


def test_a_buffer_that_is_too_small_is_refused(region: Region) -> None:
    with pytest.raises(ValueError, match="at least 2048 bytes"):
        SharedLeases(memoryview(bytearray(1024)), region.fd, 0)


def test_releasing_more_than_was_acquired_changes_nothing(region: Region) -> None:
    leases = region.leases(0)
    place = leases.place("a")
    leases.acquire(place, 1)
    for _ in range(3):
        leases.release(place)
    assert leases.cells[place.cell + 64] == leases.mine
    assert hold(leases, "a", limit=1, times=2) == [True, False]


def test_a_process_waits_for_another_that_is_deciding(region: Region) -> None:
    inside, told = os.pipe()

    def slow() -> None:
        leases = region.leases(0)
        free = leases._free

        def slowly(place: Place) -> int:
            os.write(told, b"x")
            time.sleep(0.1)
            return free(place)

        leases._free = slowly  # type: ignore[method-assign]
        leases.acquire(leases.place("a"), 1)

    pid = fork(slow)
    os.read(inside, 1)
    assert hold(region.leases(1), "a", limit=1) == [False]
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("is_released", [False, True])
def test_no_lock_outlives_its_decision(region: Region, is_released: bool) -> None:
    leases = region.leases(0)
    place = leases.place("a")
    leases.acquire(place, 5)
    if is_released:
        leases.release(place)

    def other() -> None:
        signal.alarm(5)
        assert region.leases(1).acquire(place, 5)

    assert os.waitpid(fork(other), 0)[1] == 0


def test_processes_that_come_and_go_never_hold_more_than_the_limit(region: Region) -> None:
    """Each writes down, while it holds one, how many hold one: the lease itself is the lock of that count."""
    held = memoryview(region.map)[:64].cast("q")  # by process; and the greatest sum that was seen

    def work(process: int) -> None:
        leases = region.leases(process)
        place = leases.place("a")
        for _ in range(2000):
            if leases.acquire(place, 2):
                held[process] = 1
                held[4 + process] = max(held[4 + process], sum(held[:4]))
                held[process] = 0
                leases.release(place)

    pids = [fork(lambda process=process: work(process)) for process in range(4)]  # type: ignore[misc]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    onlooker = region.leases()
    assert onlooker.count(onlooker.place("a")) == 0
    assert 1 <= max(held[4:8]) <= 2


def test_a_worker_that_is_killed_holds_neither_leases_nor_locks(region: Region) -> None:
    ready, told = os.pipe()

    def work() -> None:
        leases = region.leases(3)
        for i in range(8):
            leases.acquire(leases.place(f"key{i % 2}"), 100)
        os.write(told, b"x")
        while True:
            place = leases.place("key0")
            leases.acquire(place, 100)
            leases.release(place)

    pid = fork(work)
    os.read(ready, 1)
    time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    master = region.leases()
    assert 4 <= master.count(master.place("key0")) <= 5
    master.forget(3)
    successor = region.leases(0)
    assert hold(successor, "key0", limit=2, times=3) == [True, True, False]
