"""A hash table of token buckets in flat memory: what `shared://` and `memory://` have in common.

The region is blocks of 1 KiB: one with the table's secret, then the sets. A set is 128 signed 64-bit cells:

    0        (zero)                64        the floor
    1 .. 63  digests of keys       65 .. 127 their buckets (`full_at`, see core/limiter.py), each 64 after its digest

A key's digest (blake2b, keyed with the secret, so that nobody outside can aim at a set) names its set and its cell in
it. That two of a million keys share both has a probability of 1e-12.

**Idle keys need no cleaning up**: a bucket whose `full_at` has passed is full, which is what a key without a bucket
has, so its cell is free for the next key. Only buckets that are not full count: `size_of` plans 32 of them for the 63
cells of a set, and with a million the probability that any set overflows is 1.3 % (Poisson: 31,250 sets x 4.1e-7).

**When a set is full nobody is granted more than its rate.** The bucket nearest to full goes, and the new key *inherits*
it, debt and all. Proof that the key that went (V, evicted at `full_at` = v) loses nothing of its debt: v was the least
of its set, and a cell's `full_at` only ever grows (taking adds, inheriting keeps; giving back stops at the floor, the
largest v so far). So whichever cell of the set V gets when it returns, its `full_at` is at least v. The price is paid
by the new key alone: it starts no fuller than V was, and waits longer than its own limit asks if V's window was longer.
`crowded` counts how often that happened; the cure is more keys.

A process may die between any two of the writes here: every cell is written by one store, and each prefix of the
stores leaves every key with at least the debt it should have (the request that was about to pay was not admitted).

Synchronous, single-threaded and without locks: whoever shares a region brings them (`shared.py`).
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Final

from gateway.core.limiter import debt_after, settled

KEYS: Final = 1_000_000  # by default; 30.5 MiB of address space, of which only the pages in use are memory
_BLOCK: Final = 1024  # bytes
_CELLS: Final = _BLOCK // 8
_WAYS: Final = _CELLS // 2  # from a digest to its bucket
_LOAD: Final = 32  # keys for which a set of 63 is meant
_ABSENT: Final = -1
_NEVER: Final = 2**63


def size_of(keys: int = KEYS) -> int:
    """Bytes of a table for `keys` buckets that are not full at one time."""
    return _BLOCK * (1 + -(-keys // _LOAD))


class Place:
    """Where a key's bucket is, once worked out. `byte` is its set's offset in the region: what a lock guards."""

    __slots__ = ("byte", "cell", "digest")

    def __init__(self, byte: int, digest: int) -> None:
        self.byte = byte
        self.digest = digest
        self.cell = byte // 8 + 1  # a guess, put right when it is first looked at

    def __repr__(self) -> str:
        return f"<Place set={self.byte // _BLOCK - 1} cell={self.cell % _CELLS}>"


class BucketTable:
    """Buckets over `buffer`: writable, zero when fresh, `size_of(keys)` bytes. Raises ValueError if it is too small."""

    def __init__(self, buffer: memoryview) -> None:
        self.sets = len(buffer) // _BLOCK - 1
        if self.sets < 1:
            raise ValueError(f"a table of buckets needs at least {size_of(1)} bytes")
        region = buffer[: _BLOCK * (1 + self.sets)].cast("B")
        if not any(region[:32]):
            region[:32] = os.urandom(32)  # the first to come; those after it, in whichever process, read it
        self.secret = bytes(region[:32])
        self.cells = region.cast("q")
        self.crowded = 0  # live buckets evicted by this process

    def place(self, key: str) -> Place:
        """Where the bucket of `key` is; worth remembering."""
        digest = hashlib.blake2b(key.encode(), digest_size=16, key=self.secret).digest()
        index = int.from_bytes(digest[8:], "little") % self.sets
        return Place(_BLOCK * (1 + index), int.from_bytes(digest[:8], "little", signed=True) or 1)

    def take(self, places: Sequence[Place], prices: Sequence[int], windows: Sequence[int], now: int) -> list[int]:
        """Take from all of these (distinct) buckets or, if one of them refuses, from none.

        Returns the debt each would have: admitted if and only if every debt is within its window.
        """
        cells = self.cells
        homes = [p.cell if cells[p.cell] == p.digest else self._find(p) for p in places]
        if _ABSENT in homes:
            self._choose(places, homes)
        debts = []
        is_admitted = True
        for home, price, window in zip(homes, prices, windows):  # noqa: B905  one of each per bucket
            debt = cells[home + _WAYS] - now
            debt = debt + price if debt > 0 else price
            debts.append(debt)
            is_admitted &= debt <= window
        if is_admitted:
            for place, home, debt in zip(places, homes, debts):  # noqa: B905
                if cells[home] == place.digest:
                    cells[home + _WAYS] = now + debt
                else:
                    self._move_in(place, home, now + debt, now)
        return debts

    def take_one(self, place: Place, price: int, window: int, now: int) -> int:
        """`take` for one bucket, which is what nearly every request needs."""
        cells = self.cells
        home = place.cell
        if cells[home] != place.digest:
            homes = [self._find(place)]
            if homes[0] == _ABSENT:
                self._choose([place], homes)
            home = homes[0]
        debt = cells[home + _WAYS] - now
        debt = debt + price if debt > 0 else price
        if debt <= window:
            if cells[home] == place.digest:
                cells[home + _WAYS] = now + debt
            else:
                self._move_in(place, home, now + debt, now)
        return debt

    def debt(self, place: Place, now: int) -> int:
        """Nanoseconds until the bucket is full; changes nothing."""
        homes = [self._find(place)]
        if homes[0] == _ABSENT:
            self._choose([place], homes)
        return debt_after(self.cells[homes[0] + _WAYS], now, 0)

    def settle(self, place: Place, correction: int, now: int) -> None:
        """Correct a reservation by nanoseconds, negative to give back.

        Giving back is left out where the bucket has gone since; a charge then goes to the bucket the key would inherit.
        """
        cells = self.cells
        homes = [self._find(place)]
        if homes[0] == _ABSENT:
            if correction <= 0:
                return
            self._choose([place], homes)
        home = homes[0]
        before = cells[home + _WAYS]
        after = settled(before, now, correction)
        if correction <= 0:
            floor = cells[place.byte // 8 + _WAYS]
            after = max(after, min(before, floor))
        if cells[home] == place.digest:
            cells[home + _WAYS] = after
        else:
            self._move_in(place, home, after, now)

    @property
    def capacity(self) -> int:
        return self.sets * _LOAD

    def count_live(self, first: int, end: int, now: int) -> int:
        """Buckets that are not full in the sets that begin between these bytes, or reach into them."""
        total = 0
        for base in range(max(first // _BLOCK, 1) * _CELLS, -(-end // 8), _CELLS):
            total += sum(map(now.__lt__, self.cells[base + _WAYS + 1 : base + _CELLS].tolist()))
        return total

    def _find(self, place: Place) -> int:
        """The cell of the key's digest, or _ABSENT."""
        base = place.byte // 8
        try:
            place.cell = base + self.cells[base : base + _WAYS].tolist().index(place.digest)
        except ValueError:
            return _ABSENT
        return place.cell

    def _choose(self, places: Sequence[Place], homes: list[int]) -> None:
        """For each key that has none, the cell nearest to full (or full) that no other key of this request has."""
        for i, place in enumerate(places):
            if homes[i] != _ABSENT:
                continue
            first = place.byte // 8 + 1
            full_ats = self.cells[first + _WAYS : first + 2 * _WAYS - 1].tolist()
            for home in homes:
                if first <= home < first + _WAYS - 1:
                    full_ats[home - first] = _NEVER
            homes[i] = first + full_ats.index(min(full_ats))

    def _move_in(self, place: Place, home: int, full_at: int, now: int) -> None:
        cells = self.cells
        if cells[home + _WAYS] > now:
            floor = place.byte // 8 + _WAYS
            cells[floor] = max(cells[floor], cells[home + _WAYS])
            self.crowded += 1
        cells[home + _WAYS] = full_at
        cells[home] = place.digest
        place.cell = home

    def __repr__(self) -> str:
        return f"<BucketTable keys={self.capacity} crowded={self.crowded}>"
