"""Requests in flight, counted over all processes of one machine. A count dies with the worker that held it.

The region is blocks of 1 KiB: one for the table, then sets of 63 entries, laid out and locked as in `table.py` and
`shared.py`. An entry is what one worker holds for one caller:

    digest of the caller | epoch (31 bits) << 32 | worker (8 bits) << 24 | count (24 bits)

The first block has the table's secret and, in its upper half, the *epoch* of each worker. A worker that starts in a
slot (and the master that finds one dead) raises the slot's epoch, and every entry of an earlier one is void at once,
without looking for it. An entry whose count is 0, or that is void, is free. A worker that has been declared dead and is
not (a successor started in its slot while it drains) counts no more, and takes nothing from anybody when it releases.

When all 63 entries of a set are in use, a caller that has none there is refused, so that no limit is ever exceeded;
`size_of` plans 16 of them, which makes that a matter of 1e-17.
"""

import hashlib
import os
from fcntl import LOCK_EX, LOCK_UN, lockf
from typing import Final

from gateway.stores.table import Place

PAIRS: Final = 32_768  # of caller and worker, in flight at one time; 2 MiB of address space
_BLOCK: Final = 1024  # bytes
_WAYS: Final = 64  # from a digest to its entry
_LOAD: Final = 16
_WORKERS: Final = 64
_COUNT: Final = (1 << 24) - 1


def size_of(pairs: int = PAIRS) -> int:
    """Bytes for so many pairs of caller and worker in flight at one time."""
    return _BLOCK * (1 + -(-pairs // _LOAD))


class SharedLeases:
    """Leases in `buffer`, which starts at `offset` of the file `fd` that all processes have mapped.

    A worker gives its slot (below 64) and takes it over; the master and whoever only looks give None. Raises ValueError
    if the buffer is too small."""

    def __init__(self, buffer: memoryview, fd: int, offset: int, worker: int | None = None) -> None:
        self.sets = len(buffer) // _BLOCK - 1
        if self.sets < 1:
            raise ValueError(f"leases need at least {size_of(1)} bytes")
        region = buffer[: _BLOCK * (1 + self.sets)].cast("B")
        self.fd = fd
        self.offset = offset
        lockf(fd, LOCK_EX, 1, offset)
        try:
            if not any(region[:32]):
                region[:32] = os.urandom(32)
        finally:
            lockf(fd, LOCK_UN, 1, offset)
        self.secret = bytes(region[:32])
        self.cells = region.cast("q")
        self.mine = 0  # the upper bits of this worker's entries
        if worker is not None:
            self.forget(worker)
            self.mine = self.cells[_WAYS + worker] << 32 | worker << 24

    def forget(self, worker: int) -> None:
        """The worker in this slot is dead: what it held is free."""
        self.cells[_WAYS + worker] = (self.cells[_WAYS + worker] + 1) % 2**31

    def place(self, key: str) -> Place:
        """Where the entries of `key` are; worth remembering."""
        digest = hashlib.blake2b(key.encode(), digest_size=16, key=self.secret).digest()
        index = int.from_bytes(digest[8:], "little") % self.sets
        return Place(_BLOCK * (1 + index), int.from_bytes(digest[:8], "little", signed=True) or 1)

    def acquire(self, place: Place, limit: int) -> bool:
        """Hold one more, unless `limit` are held by all workers together."""
        byte = self.offset + place.byte
        lockf(self.fd, LOCK_EX, 1, byte)
        try:
            return self._acquire(place, limit)
        finally:
            lockf(self.fd, LOCK_UN, 1, byte)

    def release(self, place: Place) -> None:
        """Hold one less. Does nothing if this worker has been declared dead."""
        byte = self.offset + place.byte
        lockf(self.fd, LOCK_EX, 1, byte)
        try:
            home = place.cell
            if not self._is_own(home, place):
                home = next((each for each in self._entries(place) if self._is_own(each, place)), 0)
            if home:
                self.cells[home + _WAYS] -= 1
        finally:
            lockf(self.fd, LOCK_UN, 1, byte)

    def count(self, place: Place) -> int:
        """How many are held by all workers together."""
        return sum(self.cells[home + _WAYS] & _COUNT for home in self._entries(place))

    def _acquire(self, place: Place, limit: int) -> bool:
        cells = self.cells
        total, own = 0, 0
        for home in self._entries(place):
            entry = cells[home + _WAYS]
            total += entry & _COUNT
            if entry & ~_COUNT == self.mine:
                own = home
        if total >= limit:
            return False
        if own:
            cells[own + _WAYS] += 1
        else:
            own = self._free(place)
            if not own:
                return False
            cells[own] = place.digest
            cells[own + _WAYS] = self.mine | 1
        place.cell = own
        return True

    def _entries(self, place: Place) -> list[int]:
        """The cells of the caller's entries that count."""
        base = place.byte // 8
        digests, found, at = self.cells[base : base + _WAYS].tolist(), [], 0
        for _ in range(digests.count(place.digest)):
            at = digests.index(place.digest, at + 1)
            if self._is_live(base + at):
                found.append(base + at)
        return found

    def _is_live(self, home: int) -> bool:
        entry = self.cells[home + _WAYS]
        return bool(entry & _COUNT) and entry >> 32 == self.cells[_WAYS + (entry >> 24 & 0xFF)]

    def _is_own(self, home: int, place: Place) -> bool:
        entry = self.cells[home + _WAYS]
        return self.cells[home] == place.digest and entry & ~_COUNT == self.mine and self._is_live(home)

    def _free(self, place: Place) -> int:
        first = place.byte // 8 + 1
        return next((home for home in range(first, first + _WAYS - 1) if not self._is_live(home)), 0)

    def __repr__(self) -> str:
        return f"<SharedLeases sets={self.sets} worker={self.mine >> 24 & 0xFF} epoch={self.mine >> 32}>"
