"""Rendezvous hashing: every endpoint draws a number from the key, the best number wins.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6 (1), 1998 (highest random
weight). Weights by the logarithmic method of Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA
2005. An endpoint that closes or leaves moves its own keys only, one that comes takes its share only; nothing is built
or kept.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import log
from random import Random

from gateway.core.endpoint import Endpoint


def digest(key: bytes) -> int:
    """64 even bits, the same in every process and on every machine."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


class Rendezvous:
    """Exact full scan: 75 ns an endpoint, 100 more if weights differ; for large pools see `ring` and `maglev`."""

    __slots__ = ("_is_even",)

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._is_even = len({endpoint.weight for endpoint in endpoints}) <= 1

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        draws = self._draw(candidates, key)
        return candidates[draws.index(min(draws))]

    def order(self, candidates: Sequence[Endpoint], key: bytes) -> Iterator[Endpoint]:
        """All candidates, best first."""
        draws = self._draw(candidates, key)
        return (candidates[i] for i in sorted(range(len(draws)), key=draws.__getitem__))

    def _draw(self, candidates: Sequence[Endpoint], key: bytes) -> list[float]:
        """One number an endpoint, of which the least wins.

        Hashing the key anew for every endpoint would cost 500 ns each. Instead the key is hashed once, to a point x of
        [0, 1), and each endpoint draws the fraction of x times its own multiplier (multiplicative hashing: Knuth, TAOCP
        3, 6.4). The multipliers are random reals in [2^24, 2^25), so that as x runs through [0, 1) the draws are dealt
        anew 16 million times, with 28 bits each.
        """
        x = (digest(key) >> 11) * 2.0**-53
        if self._is_even:
            return [x * endpoint.multiplier % 1.0 for endpoint in candidates]
        # -ln(u)/weight is exponential with rate `weight`: the first of such alarms is that of i with probability
        # weight[i] / sum(weights). 1 - u, as log(0) is nothing; increasing in u, as above.
        return [-log(1.0 - x * endpoint.multiplier % 1.0) / endpoint.weight for endpoint in candidates]
