"""Policies by latency: seconds to the first byte, as `Endpoint.observe` averages them in this worker."""

from collections.abc import Sequence
from math import exp, inf, log
from random import Random
from typing import Final

from gateway.core.endpoint import TAU, Endpoint
from gateway.core.load import Loads
from gateway.core.pick.dice import Wheel, two
from gateway.core.pick.turns import Rotation

# Finagle's PeakEwma: an endpoint that was asked and has not answered yet ranks behind every one that has.
PENALTY: Final = float(2**63 >> 16)

# Seconds: a sample as young as this has aged by less than 10 %.
FRESH: Final = 1.0

# How much better than the best known an endpoint without a sample is taken to be (a millionth): asked at once.
OPTIMISM: Final = 1e-6


class LeastResponseTime:
    """Least of: average latency x (requests in flight + 1) / weight.

    The two measures of nginx plus's `least_time header` ("lowest average response time and least number of active
    connections"), combined as Traefik's `leasttime` does. An average that nobody has confirmed ages: it falls by e
    every TAU, down to the best average of all. So an endpoint r times as slow as the best is asked again after at most
    TAU x ln(r) (1000 times as slow: 69 s) and is never starved. One without any sample counts as good as the best, so
    it is explored at once. Neither is flooded: requests it has not answered weigh as they do for the best.
    Exact full scan: 130 ns an endpoint, twice that while one is explored.
    """

    __slots__ = ("_loads", "_rotation")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._loads = Loads(endpoints)
        self._rotation = Rotation()

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        if now >= self._loads.due:
            self._loads.refresh(now)
        # Ranks age by themselves, but without end: good enough unless the winner is one that is being explored.
        scores = [endpoint.rank + log((endpoint.pending + 1) / endpoint.weight) for endpoint in candidates]
        chosen = candidates[self._rotation.least(scores, rng)]
        if chosen.rank == -inf or (chosen.pending and now - chosen.latency_at > FRESH):
            chosen = self._explore(candidates, now, rng)
        return chosen

    def _explore(self, candidates: Sequence[Endpoint], now: float, rng: Random) -> Endpoint:
        unaged = [endpoint.rank - endpoint.latency_at / TAU for endpoint in candidates if endpoint.rank > -inf]
        best = min(unaged, default=0.0) + now / TAU
        scores = [
            (best - OPTIMISM if endpoint.rank == -inf else max(endpoint.rank, best))
            + log((endpoint.pending + 1) / endpoint.weight)
            for endpoint in candidates
        ]
        return candidates[self._rotation.least(scores, rng)]


class PeakEwma:
    """Of two endpoints drawn by dice, that of least cost: peak-sensitive latency x (requests in flight + 1) / weight.

    Finagle's p2cPeakEwma: the estimate jumps up at once to a slower answer and decays with TAU, also while nobody
    asks. An endpoint that never answered is free until it is asked, then costs PENALTY until it answers.
    """

    __slots__ = ("_loads", "_wheel")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._loads = Loads(endpoints)
        self._wheel = Wheel(endpoints)

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        if now >= self._loads.due:
            self._loads.refresh(now)
        if len(candidates) == 1:
            return candidates[0]
        first, second = two(candidates, self._wheel, rng)
        return first if cost(first, now) <= cost(second, now) else second


def cost(endpoint: Endpoint, now: float) -> float:
    """Seconds of waiting that one more request would meet at this endpoint, for its weight."""
    if endpoint.rank == -inf:
        return PENALTY + endpoint.pending if endpoint.pending else 0.0
    aged = endpoint.peak * exp(min(endpoint.latency_at - now, 0.0) / TAU)
    return aged * (endpoint.pending + 1) / endpoint.weight
