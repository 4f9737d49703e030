"""`shared://` over real processes: one exact limit, and none is lost when a process is killed."""

import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator

import pytest

from gateway.core.limiter import Limit
from gateway.stores.shared import SharedBuckets, size_of
from tests.stores.forking import fork

COUNTS = 4096  # a page of counters before the buckets


class Region:
    """A piece of memory like the zone's."""

    def __init__(self, keys: int) -> None:
        size = COUNTS + size_of(keys)
        self.fd = os.memfd_create("test")
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.counts = memoryview(self.map)[:COUNTS].cast("q")
        self.buckets = SharedBuckets(memoryview(self.map)[COUNTS:], self.fd, COUNTS)


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region(keys=1)
    yield made
    os.close(made.fd)


def wait(pids: list[int]) -> None:
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


def test_four_processes_have_one_exact_limit(region: Region) -> None:
    limit, now = Limit(1000, 60, 1000), time.monotonic_ns()

    def work(process: int) -> None:
        place = region.buckets.place("key")
        for _ in range(500):
            debts = region.buckets.take([place], [limit.price], [limit.window], now)
            region.counts[process] += debts[0] <= limit.window

    wait([fork(lambda process=process: work(process)) for process in range(4)])  # type: ignore[misc]
    assert sum(region.counts[:4]) == 1000


def test_processes_that_take_the_same_limits_in_different_order_do_not_deadlock(region: Region) -> None:
    wide = Region(keys=1000)
    limit, now = Limit(1, 1, 1_000_000), time.monotonic_ns()
    keys = ["a", "b", "c"]

    def work(process: int) -> None:
        places = [wide.buckets.place(keys[(process + i) % 3]) for i in range(3)]
        for _ in range(2000):
            wide.buckets.take(places, [limit.price] * 3, [limit.window] * 3, now)

    wait([fork(lambda process=process: work(process)) for process in range(3)])  # type: ignore[misc]
    taken = [wide.buckets.debt(wide.buckets.place(key), now) for key in keys]
    os.close(wide.fd)
    assert taken == [6000 * limit.price] * 3


def test_a_process_that_is_killed_holds_nothing_up_and_gives_nothing_away(region: Region) -> None:
    """Eight times a process is killed in its loop over 70 keys of one set; the bound holds over all of them."""
    limit, start = Limit(100, 1, 20), time.monotonic_ns()
    attempts = 100  # the counter's index

    def work() -> None:
        places = [region.buckets.place(f"key{i}") for i in range(70)]
        while True:
            for i, place in enumerate(places):
                debts = region.buckets.take([place], [limit.price], [limit.window], time.monotonic_ns())
                region.counts[i] += debts[0] <= limit.window
                region.counts[attempts] += 1

    for killed in range(1, 9):
        pid = fork(work)
        while region.counts[attempts] < 3000 * killed:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        region.buckets.take([region.buckets.place("key0")], [limit.price], [limit.window], time.monotonic_ns())
    elapsed = time.monotonic_ns() - start
    admitted = region.counts[:70].tolist()
    assert sum(admitted) >= 63 * limit.burst
    assert max(admitted) <= limit.burst + limit.amount * elapsed / 1e9


def test_a_lock_held_by_a_process_that_dies_is_released(region: Region) -> None:
    ready, told = os.pipe()

    def hold() -> None:
        region.buckets.table.take_one = lambda *_: (os.write(told, b"x"), time.sleep(60))  # type: ignore
        region.buckets.take([region.buckets.place("key")], [1], [1], 0)

    pid = fork(hold)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    began = time.monotonic()
    assert region.buckets.take([region.buckets.place("key")], [1], [1], 0) == [1]
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(("method", "keys"), [("take_one", ["a"]), ("take", ["a", "b", "c"])])
def test_a_process_waits_for_another_that_is_inside_the_same_set(method: str, keys: list[str]) -> None:
    region = Region(keys=1000)
    inside, go = os.pipe()
    limit = Limit(1, 3600, 1)

    def take(*keys: str) -> bool:
        places = [region.buckets.place(key) for key in keys]
        debts = region.buckets.take(places, [limit.price] * len(keys), [limit.window] * len(keys), 1)
        return max(debts) <= limit.window

    def slow() -> None:
        original = getattr(region.buckets.table, method)

        def slowly(*arguments: object) -> object:
            os.write(go, b"x")
            time.sleep(0.1)
            return original(*arguments)

        setattr(region.buckets.table, method, slowly)
        take(*keys)

    pid = fork(slow)
    os.read(inside, 1)
    admitted = [take(key) for key in keys]
    wait([pid])
    os.close(region.fd)
    assert admitted == [False] * len(keys)


@pytest.mark.parametrize("keys", [["a"], ["a", "b", "c"]])
def test_no_lock_outlives_the_decision_it_was_taken_for(keys: list[str]) -> None:
    region = Region(keys=1000)
    places = [region.buckets.place(key) for key in keys]
    region.buckets.take(places, [1] * len(keys), [10] * len(keys), 0)
    region.buckets.settle(places[0], -1, 0)

    def again() -> None:
        signal.alarm(5)
        for place in places:
            region.buckets.take([place], [1], [10], 0)

    wait([fork(again)])
    assert [region.buckets.debt(place, 0) for place in places] == [1] + [2] * (len(keys) - 1)
    os.close(region.fd)


def test_the_region_may_lie_anywhere_in_the_file(region: Region) -> None:
    before = region.counts.tolist()
    region.buckets.take([region.buckets.place("key")], [5], [5], 0)
    assert region.counts.tolist() == before
    assert struct.unpack_from("4q", region.map, COUNTS) != (0, 0, 0, 0)


def test_buckets_in_use_are_counted_without_touching_the_rest() -> None:
    region = Region(keys=1_000_000)
    limit = Limit(1, 60, 5)
    before = os.fstat(region.fd).st_blocks
    assert region.buckets.used(0) == 0
    for i in range(300):
        place = region.buckets.place(f"key{i}")
        region.buckets.take([place], [limit.price * (1 + i % 2)], [limit.window], 1)
    assert region.buckets.used(2) == 300
    assert region.buckets.used(1 + 61 * 10**9) == 150
    assert region.buckets.used(1 + 121 * 10**9) == 0
    assert os.fstat(region.fd).st_blocks - before <= 301 * 8  # a page each
    assert region.buckets.capacity == 1_000_000
    os.close(region.fd)


def test_a_crowded_set_has_as_many_buckets_as_cells(region: Region) -> None:
    for i in range(70):
        region.buckets.take([region.buckets.place(f"key{i}")], [10], [1000], 0)
    assert region.buckets.used(5) == 63


def test_every_set_is_counted_once() -> None:
    wide = Region(keys=3000)
    for i in range(2000):
        wide.buckets.take([wide.buckets.place(f"key{i}")], [10], [10], 0)
    assert wide.buckets.used(5) == 2000
    os.close(wide.fd)
