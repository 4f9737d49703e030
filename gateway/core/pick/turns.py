"""Policies by turns: no metric, only whose turn it is."""

from collections.abc import Sequence
from random import Random

from gateway.core.endpoint import Endpoint


def smooth(candidates: Sequence[Endpoint]) -> Endpoint:
    """nginx's smooth weighted round robin: weights 5, 1, 1 give a a b a c a a.

    (nginx commit 52327e0627f4, "Upstream: smooth weighted round-robin balancing", 2012.) Everyone earns its weight,
    the richest is chosen and pays what was earned together; so the credits always sum to zero. The credit lives in the
    endpoint: one that leaves keeps it, one that is new owes and is owed nothing. Exact full scan: 65 ns an endpoint.
    """
    earned = 0.0
    best = candidates[0]
    richest = float("-inf")
    for endpoint in candidates:
        weight = endpoint.weight
        earned += weight
        credit = endpoint.credit = endpoint.credit + weight
        if credit > richest:
            best, richest = endpoint, credit
    best.credit = richest - earned
    return best


class Rotation:
    """Finds the least of some values; equals take turns, as the search begins after the last one found."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = -1  # not begun: dice decide, or the first endpoint would be first in every worker

    def least(self, values: Sequence[float], rng: Random) -> int:
        """Index of the least of `values`, which are not empty."""
        value = min(values)
        found = values.index(value)
        start = self._start(len(values), rng)
        if found < start and values.count(value) > 1:
            try:
                found = values.index(value, start)
            except ValueError:
                pass  # none further on: round again
        self._next = found + 1
        return found

    def idlest(self, candidates: Sequence[Endpoint], rng: Random) -> Endpoint:
        """The one with the fewest requests in flight: `least` of `pending`, in one pass."""
        start = self._start(len(candidates), rng)
        best = candidates[0]
        least = best.pending
        found = 0
        for index, endpoint in enumerate(candidates):
            pending = endpoint.pending
            # In front of the start the first of equals is found, from it on the next: two searches in one.
            if pending < least or (found < start <= index and pending == least):
                best, least, found = endpoint, pending, index
        self._next = found + 1
        return best

    def _start(self, count: int, rng: Random) -> int:
        """Where the search among so many begins."""
        if self._next < 0:
            self._next = int(rng.random() * count)
        return self._next


class RoundRobin:
    """In turn, by weight. Equal weights need no scan: the next open endpoint in the pool's order."""

    __slots__ = ("_index", "_is_even", "_last", "_size")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._size = len(endpoints)
        self._is_even = len({endpoint.weight for endpoint in endpoints}) <= 1
        self._index = {endpoint: index for index, endpoint in enumerate(endpoints)}
        # After a reload it goes on where the snapshot before this one stood.
        known = [endpoint for endpoint in endpoints if endpoint.picked_at > float("-inf")]
        self._last = self._index[max(known, key=lambda endpoint: endpoint.picked_at)] if known else self._size - 1

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        if not self._is_even:
            return smooth(candidates)
        chosen = self._next(candidates)
        chosen.picked_at = now
        return chosen

    def _next(self, candidates: Sequence[Endpoint]) -> Endpoint:
        size = len(candidates)
        if size == self._size:
            self._last = last = (self._last + 1) % size
            return candidates[last]
        low, high, last, index = 0, size, self._last, self._index
        while low < high:  # the first candidate after the last one chosen
            middle = (low + high) // 2
            if index[candidates[middle]] <= last:
                low = middle + 1
            else:
                high = middle
        chosen = candidates[low % size]
        self._last = index[chosen]
        return chosen
