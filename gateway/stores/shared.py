"""`shared://`: token buckets in memory that all processes of one machine share. Exact over all of them, no server.

The region is a piece of the zone (a memfd mapped before the fork), and `locked.py` guards it.
"""

import os
from collections.abc import Sequence
from fcntl import LOCK_EX, LOCK_UN, lockf

from limits.storage import Storage

from gateway.core.limiter import LONGEST
from gateway.stores.buckets import TokenBucketSupport
from gateway.stores.locked import LockedTable
from gateway.stores.table import BucketTable, Place, size_of

__all__ = ["SharedBuckets", "size_of"]


class SharedBuckets(Storage, TokenBucketSupport):
    """Buckets in `buffer`, which starts at `offset` of the file `fd` that all processes have mapped."""

    STORAGE_SCHEME = ["shared"]  # noqa: RUF012  a scheme of our own: it replaces none of the package's

    def __init__(self, buffer: memoryview, fd: int, offset: int, uri: str = "shared://") -> None:
        super().__init__(uri)
        self.fd = fd
        self.offset = offset
        lockf(fd, LOCK_EX, 1, offset)
        try:
            self.table = BucketTable(buffer)
        finally:
            lockf(fd, LOCK_UN, 1, offset)
        self.locked = LockedTable(self.table, fd, offset)

    def place(self, key: str, tag: str = "") -> Place:
        return self.table.place(key)

    def take(self, places: Sequence[Place], prices: Sequence[int], windows: Sequence[int], now: int) -> list[int]:
        return self.locked.take(places, prices, windows, now)

    def settle(self, place: Place, correction: int, now: int) -> None:
        self.locked.settle(place, correction, now)

    def debt(self, place: Place, now: int) -> int:
        return self.table.debt(place, now)  # one cell is read: nothing to tear

    def used(self, now: int) -> int:
        """Buckets that are not full, in memory that was ever written: counting does not make it any more."""
        at, end, total = self.offset, self.offset + len(self.table.cells) * 8, 0
        while at < end:
            try:
                first = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing was written behind `at`
                break
            at = os.lseek(self.fd, first, os.SEEK_HOLE)
            total += self.table.count_live(first - self.offset, min(at, end) - self.offset, now)
        return total

    @property
    def capacity(self) -> int:
        """For how many of them the region is meant."""
        return self.table.capacity

    def clear(self, key: str) -> None:
        """Fill the bucket of `key`."""
        self.settle(self.table.place(key), -LONGEST, 0)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        raise NotImplementedError("buckets in use by other processes are not dropped; restart the gateway")

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError("shared:// holds token buckets, not windows")

    def get(self, key: str) -> int:
        return self.incr(key, 0)

    def get_expiry(self, key: str) -> float:
        return self.incr(key, 0)

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def __repr__(self) -> str:
        return f"<SharedBuckets {self.table!r} at {self.offset}>"
