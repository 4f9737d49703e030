"""Maglev hashing: a table in which every endpoint owns nearly equally many entries; a key's hash is an index.

Eisenbud et al., "Maglev: a fast and reliable software network load balancer", NSDI 2016, 3.4. One lookup however large
the pool, and the most even of the hashes; in return, when endpoints join or leave by configuration, a few keys of the
others move too (when one closes, none do: see `order`).
"""

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from random import Random

from gateway.core.endpoint import Endpoint
from gateway.core.pick.rendezvous import Rendezvous, digest

SIZE = 16_381  # prime; Cilium's default. 100 entries an endpoint up to 163 of them, hence shares within 1 %


@lru_cache(maxsize=64)  # a pool that a reload did not change is not built again
def build(members: tuple[tuple[str, float], ...]) -> Sequence[int]:
    """The table for `members`, each a URL and a weight: which of them owns each entry.

    They take turns at claiming the next free entry of their own permutation; a lighter one takes as many turns less.
    """
    table = array("i", [-1]) * SIZE
    heaviest = max((weight for _, weight in members), default=1.0)
    # Sorted by name, or the order of addresses in routes.yaml would matter.
    claims = [(index, weight / heaviest, _permutation(url)) for url, weight, index in _sorted(members)]
    earned = [0.0] * len(members)
    free = SIZE if members else 0
    while True:
        for index, income, entries in claims:
            earned[index] += income
            if earned[index] < 1.0:
                continue
            earned[index] -= 1.0
            if not free:
                return table
            entry = next(entries)
            while table[entry] >= 0:
                entry = next(entries)
            table[entry] = index
            free -= 1
        if not free:
            return table


def _sorted(members: tuple[tuple[str, float], ...]) -> list[tuple[str, float, int]]:
    return sorted((url, weight, index) for index, (url, weight) in enumerate(members))


def _permutation(url: str) -> Iterator[int]:
    """All entries in an order of `url`'s own: as the size is prime, any skip reaches each of them once."""
    hashed = blake2b(url.encode(), digest_size=16).digest()
    entry = int.from_bytes(hashed[:8], "big") % SIZE
    skip = int.from_bytes(hashed[8:], "big") % (SIZE - 1) + 1
    while True:
        yield entry
        entry = (entry + skip) % SIZE


class Maglev:
    __slots__ = ("_endpoints", "_on", "_open", "_spare", "_table")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        self._table = build(tuple((endpoint.url, endpoint.weight) for endpoint in endpoints))
        self._spare = Rendezvous(endpoints)
        self._on: tuple[Endpoint, ...] = ()
        self._open: frozenset[Endpoint] = frozenset()

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        return next(self.order(candidates, key))

    def order(self, candidates: Sequence[Endpoint], key: bytes) -> Iterator[Endpoint]:
        """The owner in the table; after it, and while it is closed, rendezvous: only its own keys move, and evenly."""
        if candidates is not self._on and tuple(candidates) != self._on:
            self._on = tuple(candidates)
            self._open = frozenset(candidates)
        owner = self._endpoints[self._table[digest(key) % SIZE]]
        if owner in self._open:
            yield owner
        for endpoint in self._spare.order(candidates, key):
            if endpoint is not owner:
                yield endpoint
