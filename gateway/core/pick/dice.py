"""Policies by dice."""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from gateway.core.endpoint import Endpoint


class Wheel:
    """A roulette wheel on which every endpoint has a sector as wide as its weight."""

    __slots__ = ("_edges", "_is_even", "_on")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._is_even = len({endpoint.weight for endpoint in endpoints}) <= 1
        self._on: tuple[Endpoint, ...] = ()
        self._edges: list[float] = []

    def spin(self, candidates: Sequence[Endpoint], rng: Random) -> int:
        """Index of one of `candidates`."""
        if self._is_even:
            return int(rng.random() * len(candidates))
        if candidates is not self._on and tuple(candidates) != self._on:
            self._on = tuple(candidates)
            self._edges = list(accumulate(endpoint.weight for endpoint in candidates))
        edges = self._edges
        return bisect(edges, rng.random() * edges[-1], 0, len(edges) - 1)


class RandomChoice:
    """Weighted random: no state, hence no herd among workers or gateways."""

    __slots__ = ("_wheel",)

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._wheel = Wheel(endpoints)

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        return candidates[self._wheel.spin(candidates, rng)]


def two(candidates: Sequence[Endpoint], wheel: Wheel, rng: Random) -> tuple[Endpoint, Endpoint]:
    """Two different endpoints of at least two candidates: the first by weight, the second any other.

    The first wins ties, so idle endpoints are chosen by weight too.
    """
    first = wheel.spin(candidates, rng)
    step = 1 + int(rng.random() * (len(candidates) - 1))
    second = first + step
    size = len(candidates)
    return candidates[first], candidates[second if second < size else second - size]
