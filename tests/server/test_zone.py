"""The memory that processes share: who writes what, what a death leaves behind, what a successor takes over."""

import fcntl
import math
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from gateway.core.endpoint import Endpoint, Health
from gateway.core.snapshot import ENDPOINTS
from gateway.server.columns import Columns
from gateway.server.zone import BEFORE_COUNT, BEFORE_FIRST, HEALTH_CHANGES, LAYOUT, PID, WORKERS, Zone, rows_of
from gateway.stores.leases import SharedLeases
from gateway.stores.table import size_of
from tests.e2e.harness import until


@pytest.fixture
def zone() -> Zone:
    return Zone.create(size_of(1024))


def in_child(do: Callable[[], None]) -> int:
    """Fork, `do` it there, end; -> the pid, which the caller waits for."""
    pid = os.fork()
    if pid == 0:
        try:
            do()
        finally:
            os._exit(0)
    return pid


def test_the_arrays_are_apart_from_one_another(zone: Zone) -> None:
    """Every array, filled with a byte of its own, keeps it while all others are filled with theirs."""
    arrays = [zone.header, *zone.workers, zone.health, zone.owners, zone.drains, zone.since, *zone.standing]
    arrays += [*zone.in_flight, *zone.latency, *zone.pending, *zone.running, *zone.context, *zone.prefilled]
    arrays += [zone.engine_at, zone.engine_waiting, zone.engine_running, zone.engine_usage, zone.engine_cache]
    arrays += [*zone.rings]
    arrays += [zone.leases, zone.buckets]
    flat = [array.cast("B") for array in arrays]
    for number, array in enumerate(flat):
        array[:] = bytes([number % 251 + 1]) * len(array)
    for number, array in enumerate(flat):
        assert array[0] == array[-1] == number % 251 + 1
    assert sum(map(len, flat)) == zone.size


def test_what_a_child_writes_its_parent_reads(zone: Zone) -> None:
    os.waitpid(in_child(lambda: zone.in_flight[3].__setitem__(7, 5)), 0)
    assert zone.in_flight[3][7] == 5


def test_a_dead_worker_holds_nothing_any_more_and_others_keep_theirs(zone: Zone) -> None:
    slots = range(2)
    mine, other = (Endpoint("http://a:1", 0, zone.row(worker, slots)) for worker in slots)
    mine.lease().__enter__()
    other.lease().__enter__()
    leases = [SharedLeases(zone.leases, zone.fd, zone.leases_at, worker) for worker in slots]
    place = leases[0].place("alice")
    assert leases[0].acquire(place, 2)
    assert leases[1].acquire(leases[1].place("alice"), 2)
    zone.workers[0][PID] = 1234
    assert other.load == 2
    zone.reclaim(0)
    assert (other.load, leases[1].count(place), zone.workers[0][PID]) == (1, 1, 0)


def test_a_successors_workers_know_what_their_predecessors_heard_and_a_third_what_both_did(zone: Zone) -> None:
    halves = [rows_of(0, 1), rows_of(WORKERS // 2, 1)]
    for turn in range(3):
        first = halves[turn % 2]
        standing = Endpoint("http://a:1", 0, zone.row(first[0], first)).standing
        standing.read(100.0 * turn + 50.0)
        assert (standing.is_out, standing.times_out) == (turn > 0, turn)
        standing.eject(100.0 * turn + 50.0, 30.0, 300.0)
        assert standing.out_times == turn, "as read before: once more in a row each time"
        zone.header[BEFORE_FIRST], zone.header[BEFORE_COUNT] = first.start, len(first)


@pytest.mark.parametrize("region", ["leases", "buckets"])
def test_a_lock_ends_with_its_holder(zone: Zone, region: str) -> None:
    offset: int = getattr(zone, f"{region}_at")
    read, write = os.pipe()

    def hold() -> None:
        fcntl.lockf(zone.fd, fcntl.LOCK_EX, 1, offset)
        os.write(write, b".")
        time.sleep(60)

    pid = in_child(hold)
    os.read(read, 1)
    with pytest.raises(BlockingIOError):
        fcntl.lockf(zone.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    fcntl.lockf(zone.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    fcntl.lockf(zone.fd, fcntl.LOCK_UN, 1, offset)


def test_a_successor_finds_what_its_predecessor_left_and_keeps_it_to_itself(zone: Zone) -> None:
    zone.health[5] = Health.UP
    heir = Zone.adopt(os.dup(zone.fd))
    assert heir.health[5] == Health.UP
    assert not os.get_inheritable(heir.fd)


def test_a_zone_of_another_layout_is_refused(zone: Zone) -> None:
    zone.header[LAYOUT] += 1
    with pytest.raises(ValueError, match="layout"):
        Zone.adopt(zone.fd)


@pytest.mark.parametrize("size", [0, mmap.PAGESIZE])
def test_a_file_that_is_too_small_is_refused(size: int) -> None:
    fd = os.memfd_create("small")
    os.ftruncate(fd, size)
    with pytest.raises(ValueError, match="layout"):
        Zone.adopt(fd)
    os.close(fd)


def test_pages_nobody_used_cost_nothing() -> None:
    zone = Zone.create(size_of())
    zone.health[0] = 1
    assert os.fstat(zone.fd).st_blocks * 512 < 1 << 20 < zone.size


def test_a_process_ends_with_its_parent() -> None:
    """Even if the parent cannot say anything any more."""
    code = """
import os, signal, time
from gateway.server.children import end_with_parent
me = os.getpid()
pid = os.fork()
if pid == 0:
    end_with_parent(me, signal.SIGTERM)
    print(os.getpid(), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not alive(child), "the child's end", 5)


def test_a_process_whose_parent_has_gone_already_does_not_begin() -> None:
    code = "from gateway.server.children import end_with_parent; end_with_parent(1 << 22, 15); print('began')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# --- columns ----------------------------------------------------------------------------------------------------------


def columns_of(zone: Zone, now: float = 100.0, **slots: int) -> Columns:
    columns = Columns(zone, clock=lambda: now)
    columns.assign({f"http://{name}": slot for name, slot in slots.items()})
    return columns


def test_health_outlives_the_process_that_wrote_it(zone: Zone) -> None:
    columns_of(zone, a=0).tell("http://a", Health.DOWN)
    columns_of(zone, a=0).tell("http://a", Health.CHECKING)
    assert zone.health[0] == Health.DOWN


def test_a_column_that_becomes_another_endpoints_says_nothing_of_the_old_one(zone: Zone) -> None:
    first = columns_of(zone, a=0)
    first.tell("http://a", Health.UP)
    first.drain(["http://a"])
    changes = zone.header[HEALTH_CHANGES]
    second = columns_of(zone, b=0)
    assert (zone.health[0], second.drained) == (Health.CHECKING, {})
    assert zone.header[HEALTH_CHANGES] > changes


def test_a_drain_outlives_the_process_that_was_told_and_ends_when_told(zone: Zone) -> None:
    columns_of(zone, a=0, b=1).drain(["http://a"])
    later = columns_of(zone, a=0, b=1)
    assert later.drained == {"http://a": math.inf}
    later.undrain(["http://a"])
    assert later.drained == {}


def test_an_endpoint_that_is_undrained_is_checked_anew(zone: Zone) -> None:
    columns = columns_of(zone, a=0)
    columns.tell("http://a", Health.DRAINING)
    columns.tell("http://a", Health.CHECKING)
    assert zone.health[0] == Health.CHECKING


def test_sessions_stay_until_the_deadline_and_no_successor_revives_them(zone: Zone) -> None:
    before = columns_of(zone, 99.9, a=0)
    before.drain(["http://a"], 100.0)
    before.tell("http://a", Health.DRAINING)
    before.end_sessions()
    assert zone.health[0] == Health.DRAINING
    after = columns_of(zone, 100.0, a=0)
    after.end_sessions()
    assert zone.health[0] == Health.DOWN
    after.tell("http://a", Health.DRAINING)
    assert zone.health[0] == Health.DOWN


def test_news_of_an_endpoint_that_is_gone_are_ignored(zone: Zone) -> None:
    columns_of(zone, a=0).tell("http://gone", Health.UP)
    assert bytes(zone.health) == bytes(ENDPOINTS)


def test_as_many_workers_as_the_zone_has_rows_count_apart(zone: Zone) -> None:
    endpoints = [Endpoint("http://a:1", 0, zone.row(worker, range(WORKERS))) for worker in range(WORKERS)]
    for endpoint in endpoints:
        endpoint.lease().__enter__()
    assert {endpoint.load for endpoint in endpoints} == {WORKERS}
