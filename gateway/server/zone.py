"""The memory that the processes of one machine share: fixed arrays in one memfd, mapped before the fork.

Every cell has one writer (named beside it) and readers add up, so nothing here needs a lock; aligned cells of up to
eight bytes are written by one store. The doorbell (HEALTH_CHANGES) is the exception: whoever changed what decides which
endpoints are open writes a number there that nobody ever wrote before; readers only compare it with the one they saw.
The token buckets behind the arrays take byte-range locks on the file descriptor (`stores/shared.py`), which the kernel
releases if the holder dies.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import Final, cast

from gateway.core.endpoint import Row
from gateway.core.ledger import RING
from gateway.core.snapshot import ENDPOINTS
from gateway.core.standing import WORDS
from gateway.core.standing import Cells as Words
from gateway.core.work import Cells
from gateway.stores.leases import SharedLeases, size_of

NAME: Final = "gateway-zone"  # of the memory, in /proc
WORKERS: Final = 64  # rows; more workers than cores of today's largest machines need

# Words of the header, 8 bytes each, and who writes them.
LAYOUT, MASTER, CONTROLLER, GENERATION, HEALTH_CHANGES, DRAINING, WORKER_COUNT, FIRST_WORKER, DRAINED = range(9)
BEFORE_FIRST, BEFORE_COUNT = 9, 10  # the rows of the master that this one took over from
# All but the controller's own (CONTROLLER, GENERATION, DRAINED) and the doorbell are the master's.
_HEADER_WORDS: Final = 64
# Words of a worker's row.
# WANTED: a bit for each issuer whose keys are missed; STALE: code that it has imported has changed; ENDING: it drains;
# TAKEN: places that its connections have, from the moment they are accepted (`room.py`).
PID, LOADED, FLUSHED, CONNECTIONS, STARTED, WANTED, STALE, ENDING, TAKEN = range(9)
_WORKER_WORDS: Final = 16

_HEADER = 8 * _HEADER_WORDS
_ROWS = 8 * _WORKER_WORDS * WORKERS
_HEALTH = ENDPOINTS
_OWNERS = 8 * ENDPOINTS
_DRAINS = 8 * ENDPOINTS
_SINCE = 8 * ENDPOINTS
_IN_FLIGHT = 4 * WORKERS * ENDPOINTS
_LATENCY = 4 * WORKERS * ENDPOINTS
_PENDING = 8 * WORKERS * ENDPOINTS
_RUNNING = 4 * WORKERS * ENDPOINTS
_CONTEXT = 8 * WORKERS * ENDPOINTS
_PREFILLED = 8 * WORKERS * ENDPOINTS
_STANDING = 8 * WORDS * WORKERS * ENDPOINTS
_ENGINES = 24 * ENDPOINTS
_RINGS = 8 * (1 + RING) * WORKERS
_WORK = _PENDING + _RUNNING + _CONTEXT + _PREFILLED + _ENGINES + _RINGS
_FIXED = _HEADER + _ROWS + _HEALTH + _OWNERS + _DRAINS + _SINCE + _IN_FLIGHT + _LATENCY + _WORK + _STANDING
_LEASES = size_of()
_LAYOUT: Final = 9  # raised with every change of where things are
CONTROLLERS_BELL: Final = WORKERS  # comes after those of the workers
_BELLS: Final = 2 * WORKERS  # the lowest bits of what is written at the doorbell say who wrote it


def rows_of(first: int, count: int) -> range:
    """The rows of one master with so many workers: from `first` on, those that its workers start in, and others for
    successors of workers that still drain. A master and the one that takes over from it have half of all rows each."""
    return range(first, first + min(WORKERS // 2, 2 * count + 2))


def wanted_bit(index: int) -> int:
    """The bit of WANTED for the issuer of this index. There are 63 in a signed word; issuers that share one are asked
    together, which costs a request more."""
    return 1 << index % 63


class Zone:
    """The arrays, as memoryviews."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.map = mmap.mmap(fd, size)
        view = memoryview(self.map)
        at = 0

        def cut(length: int) -> memoryview:
            nonlocal at
            at += length
            return view[at - length : at]

        self.header = cut(_HEADER).cast("q")
        rows = cut(_ROWS).cast("q")
        self.workers = [rows[i * _WORKER_WORDS : (i + 1) * _WORKER_WORDS] for i in range(WORKERS)]
        self.health = cut(_HEALTH)  # controller, as the three below; see `columns.py`
        self.owners = cut(_OWNERS).cast("q")  # whose column it is
        self.drains = cut(_DRAINS).cast("d")  # 0.0, or until when its sessions may stay: monotonic seconds
        self.since = cut(_SINCE).cast("d")  # when it last came up: monotonic seconds
        counts = cut(_IN_FLIGHT).cast("i")
        self.in_flight = [counts[i * ENDPOINTS : (i + 1) * ENDPOINTS] for i in range(WORKERS)]  # that worker
        latencies = cut(_LATENCY).cast("f")
        self.latency = [latencies[i * ENDPOINTS : (i + 1) * ENDPOINTS] for i in range(WORKERS)]  # that worker, seconds
        tokens = cut(_PENDING).cast("q")
        self.pending = [tokens[i * ENDPOINTS : (i + 1) * ENDPOINTS] for i in range(WORKERS)]  # that worker
        streams = cut(_RUNNING).cast("i")
        self.running = [streams[i * ENDPOINTS : (i + 1) * ENDPOINTS] for i in range(WORKERS)]  # that worker
        contexts = cut(_CONTEXT).cast("q")
        self.context = [contexts[i * ENDPOINTS : (i + 1) * ENDPOINTS] for i in range(WORKERS)]  # that worker, tokens
        totals = cut(_PREFILLED).cast("q")
        self.prefilled = [totals[i * ENDPOINTS : (i + 1) * ENDPOINTS] for i in range(WORKERS)]  # that worker, tokens
        words = cut(_STANDING).cast("d")  # that worker, see `core/standing.py`; outlive it: they are the endpoint's
        size_of_row = WORDS * ENDPOINTS
        self.standing = [words[i * size_of_row : (i + 1) * size_of_row] for i in range(WORKERS)]
        # What engines say of themselves; controller. When it was heard (monotonic seconds; 0.0: never), requests that
        # wait and run, the share of the cache that is in use, the tokens that it holds (0: not told).
        self.engine_at = cut(8 * ENDPOINTS).cast("d")
        self.engine_waiting = cut(4 * ENDPOINTS).cast("i")
        self.engine_running = cut(4 * ENDPOINTS).cast("i")
        self.engine_usage = cut(4 * ENDPOINTS).cast("f")
        self.engine_cache = cut(4 * ENDPOINTS).cast("i")
        told = cut(_RINGS).cast("q")  # that worker, see `core/ledger.py`
        self.rings = [told[i * (1 + RING) : (i + 1) * (1 + RING)] for i in range(WORKERS)]
        self.leases_at = _FIXED
        self.leases = view[_FIXED : _FIXED + _LEASES]
        self.buckets_at = _FIXED + _LEASES
        self.buckets = view[_FIXED + _LEASES :]

    @classmethod
    def create(cls, bucket_bytes: int) -> "Zone":
        """A fresh zone. Pages are touched when they are used, so that size costs address space only."""
        fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
        size = _FIXED + _LEASES + bucket_bytes
        os.ftruncate(fd, size)
        zone = cls(fd, size)
        zone.header[LAYOUT] = _LAYOUT
        return zone

    @classmethod
    def adopt(cls, fd: int) -> "Zone":
        """The zone of a predecessor, inherited over exec. Raises ValueError if it is laid out in another way."""
        size = os.fstat(fd).st_size
        zone = cls(fd, size) if size > _FIXED + _LEASES else None
        if zone is None or zone.header[LAYOUT] != _LAYOUT:
            raise ValueError("the predecessor's zone has another layout")
        os.set_inheritable(fd, False)
        return zone

    def row(self, worker: int, slots: Iterable[int]) -> Row:
        """The cells of one of the workers in `slots`."""
        others = [i for i in slots if i != worker]
        changes = self.header[HEALTH_CHANGES : HEALTH_CHANGES + 1]
        work = Cells(
            self.pending[worker],
            self.running[worker],
            self.context[worker],
            self.prefilled[worker],
            [self.pending[i] for i in others],
            [self.running[i] for i in others],
            [self.context[i] for i in others],
            [self.prefilled[i] for i in others],
        )
        counts = [self.in_flight[i] for i in others]
        # What traffic said of an endpoint outlives who heard it: also those that a successor took over from.
        heard = [i for i in dict.fromkeys([*others, *self.before()]) if i != worker]
        words = Words(self._words(worker), [self._words(i) for i in heard], self.doorbell(worker))
        since = cast(Sequence[float], self.since)
        return Row(self.health, self.in_flight[worker], counts, changes, work, since, words)

    def before(self) -> range:
        """The rows of the workers of the master that this one took over from; they may still finish what runs."""
        first = self.header[BEFORE_FIRST]
        return range(first, first + self.header[BEFORE_COUNT])

    def doorbell(self, writer: int) -> Callable[[], None]:
        """What `writer` (a worker, or CONTROLLERS_BELL) calls to have all workers look again who may be picked."""
        header, last = self.header, 0

        def ring() -> None:
            nonlocal last
            last = max(time.monotonic_ns() & -_BELLS, last + _BELLS)
            header[HEALTH_CHANGES] = last | writer

        return ring

    def _words(self, worker: int) -> MutableSequence[float]:
        return cast(MutableSequence[float], self.standing[worker])

    def reclaim(self, worker: int) -> None:
        """A worker died: what it held is free. Called by the master before it starts a successor."""
        self.in_flight[worker].cast("B")[:] = bytes(4 * ENDPOINTS)
        self.latency[worker].cast("B")[:] = bytes(4 * ENDPOINTS)
        self.pending[worker].cast("B")[:] = bytes(8 * ENDPOINTS)
        self.running[worker].cast("B")[:] = bytes(4 * ENDPOINTS)
        self.context[worker].cast("B")[:] = bytes(8 * ENDPOINTS)
        SharedLeases(self.leases, self.fd, self.leases_at).forget(worker)
        row = self.workers[worker]
        row[PID] = row[STALE] = row[ENDING] = row[TAKEN] = 0

    def __repr__(self) -> str:
        header = self.header
        return f"<Zone generation={header[GENERATION]} workers={header[WORKER_COUNT]} draining={header[DRAINING]}>"
