"""A table of buckets that all processes of a machine have mapped, taken from under locks.

A POSIX byte-range lock on the first byte of a set guards it; a request with several limits locks their sets in
ascending order, which cannot deadlock, and unlocks them by one call. The kernel releases a lock when its holder dies,
and a half-done write leaves a bucket too empty at worst (`table.py`).

POSIX locks belong to a process: they keep out other processes, not other threads of the same, and closing *any*
descriptor of the file in a process releases all it holds. So one thread per process decides, which is the event
loop's, and nothing is closed while it does.
"""

import fcntl
from collections.abc import Sequence
from typing import Final

from gateway.stores.table import BucketTable, Place

# To compiled code these are variables of C; imported names would be looked up each time.
_lockf: Final = fcntl.lockf
_LOCK: Final[int] = fcntl.LOCK_EX
_UNLOCK: Final[int] = fcntl.LOCK_UN


class LockedTable:
    """`table` lies at `offset` of the file `fd`. Blocks only for as long as another process is inside the same set
    (about a microsecond)."""

    __slots__ = ("fd", "offset", "table")

    def __init__(self, table: BucketTable, fd: int, offset: int) -> None:
        self.table = table
        self.fd = fd
        self.offset = offset

    def take(self, places: Sequence[Place], prices: Sequence[int], windows: Sequence[int], now: int) -> list[int]:
        fd, offset = self.fd, self.offset
        if len(places) == 1:
            place = places[0]
            byte = offset + place.byte
            _lockf(fd, _LOCK, 1, byte)
            try:
                return [self.table.take_one(place, prices[0], windows[0], now)]
            finally:
                _lockf(fd, _UNLOCK, 1, byte)
        held = sorted({place.byte for place in places})
        try:
            for byte in held:
                _lockf(fd, _LOCK, 1, offset + byte)
            return self.table.take(places, prices, windows, now)
        finally:
            _lockf(fd, _UNLOCK, held[-1] - held[0] + 1, offset + held[0])

    def settle(self, place: Place, correction: int, now: int) -> None:
        byte = self.offset + place.byte
        _lockf(self.fd, _LOCK, 1, byte)
        try:
            self.table.settle(place, correction, now)
        finally:
            _lockf(self.fd, _UNLOCK, 1, byte)
