"""A ring of points: a key belongs to the endpoint of the next point clockwise.

Karger et al., "Consistent hashing and random trees", STOC 1997, with points as in ketama (Jones, last.fm, 2007): 160
for each endpoint; here for the heaviest, and for the others by weight. A pick costs a binary search however large the
pool; shares spread by about 8 % (1/sqrt(160)).
"""

from array import array
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from random import Random
from struct import Struct

from gateway.core.endpoint import Endpoint
from gateway.core.pick.rendezvous import Rendezvous, digest

POINTS = 160
_POINTS = Struct("<8Q")  # in the 64 bytes of one digest
_OWNER = 0xFFFF  # a point's lowest bits name its owner, so that one sorted array is the whole ring


@lru_cache(maxsize=64)  # a pool that a reload did not change is not built again
def build(members: tuple[tuple[str, float], ...]) -> Sequence[int]:
    """The sorted points of `members`, each a URL and a weight; the lowest 16 bits of a point are the member's index."""
    heaviest = max((weight for _, weight in members), default=1.0)
    points: list[int] = []
    for index, (url, weight) in enumerate(members):
        count = max(1, round(POINTS * weight / heaviest))
        for start in range(0, count, 8):
            hashed = _POINTS.unpack(blake2b(f"{url}#{start}".encode()).digest())
            points.extend([point & ~_OWNER | index for point in hashed[: count - start]])
    points.sort()
    return array("Q", points)


class Ring:
    __slots__ = ("_endpoints", "_on", "_open", "_points", "_spare")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        if len(endpoints) > _OWNER:
            raise ValueError(f"a ring has at most {_OWNER} endpoints")
        self._endpoints = tuple(endpoints)
        self._points = build(tuple((endpoint.url, endpoint.weight) for endpoint in endpoints))
        self._spare = Rendezvous(endpoints)
        self._on: tuple[Endpoint, ...] = ()
        self._open: frozenset[Endpoint] = frozenset()

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        return next(self.order(candidates, key))

    def order(self, candidates: Sequence[Endpoint], key: bytes) -> Iterator[Endpoint]:
        """The candidates as one meets them, walking clockwise from the key, once round; strangers to the ring last."""
        if candidates is not self._on and tuple(candidates) != self._on:
            self._on = tuple(candidates)
            self._open = frozenset(candidates)
        points, endpoints, waiting = self._points, self._endpoints, self._open
        at = bisect(points, digest(key))
        for point in range(at, at + len(points)):
            if not waiting:
                return
            endpoint = endpoints[points[point % len(points)] & _OWNER]
            if endpoint in waiting:
                yield endpoint
                waiting = waiting - {endpoint}
        if waiting:  # not on this ring: endpoints that only a later snapshot knows
            yield from self._spare.order([endpoint for endpoint in candidates if endpoint in waiting], key)
