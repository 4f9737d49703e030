"""`memory://`: token buckets of one process. For a single worker, and for tests."""

import mmap
from collections.abc import Sequence

from limits.storage import MemoryStorage

from gateway.core.limiter import LONGEST
from gateway.stores.buckets import TokenBucketSupport
from gateway.stores.table import KEYS, BucketTable, Place, size_of


class MemoryBuckets(MemoryStorage, TokenBucketSupport):
    """The package's storage in memory, with token buckets beside its windows: the table of `shared://` in private
    memory, so bounded in the same way. It names no scheme of its own, so the package's `memory://` stays what it is."""

    def __init__(self, keys: int = KEYS, uri: str = "memory://") -> None:
        super().__init__(uri)
        # Private: a child after a fork has its own copy, instead of one shared without locks.
        pages = mmap.mmap(-1, size_of(keys), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.table = BucketTable(memoryview(pages))

    def place(self, key: str, tag: str = "") -> Place:
        return self.table.place(key)

    def take(self, places: Sequence[Place], prices: Sequence[int], windows: Sequence[int], now: int) -> list[int]:
        if len(places) == 1:
            return [self.table.take_one(places[0], prices[0], windows[0], now)]
        return self.table.take(places, prices, windows, now)

    def settle(self, place: Place, correction: int, now: int) -> None:
        self.table.settle(place, correction, now)

    def debt(self, place: Place, now: int) -> int:
        return self.table.debt(place, now)

    def clear(self, key: str) -> None:
        """Fill the bucket of `key`, and forget its windows."""
        super().clear(key)
        self.table.settle(self.table.place(key), -LONGEST, 0)

    def __repr__(self) -> str:
        return f"<MemoryBuckets {self.table!r}>"
