"""Prequal: latency among those that are not hot.

Wydrowski, Kleinberg, Rumble, Archer, "Load is not what you should balance: introducing Prequal", NSDI 2024. There,
clients keep a pool of 16 probes; a server whose requests in flight are above a high quantile of those seen is hot. The
coldest wins only if all are hot, otherwise the one of least latency among the cold. A gateway knows both numbers
without a probe, to the moment; what is kept of the probe pool is that only a few endpoints, drawn anew each time, are
compared.
"""

from collections.abc import Sequence
from math import inf, log
from random import Random
from typing import Final

from gateway.core.endpoint import Endpoint
from gateway.core.load import Loads

PROBES: Final = 8  # endpoints compared; 16 in the paper, where they age between one use and the next
QUANTILE: Final = 0.84  # 2^-0.25, the paper's Q_RIF
ALIKE: Final = log(1.25)  # latencies within a quarter of each other are one: an average of few samples says no more


class Prequal:
    """An endpoint without a sample counts as the fastest, and averages age while nobody confirms them, so all are asked
    again (`LeastResponseTime` has the arithmetic). 2 µs however large the pool."""

    __slots__ = ("_loads",)

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._loads = Loads(endpoints)

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        if now >= self._loads.due:
            self._loads.refresh(now)
        size = len(candidates)
        start = int(rng.random() * size)
        drawn = candidates[start : start + PROBES]
        if len(drawn) < min(size, PROBES):  # round the end; neighbours are no more alike than others
            drawn = [*drawn, *candidates[: min(size, PROBES) - len(drawn)]]
        loads = [endpoint.pending / endpoint.weight for endpoint in drawn]
        limit = sorted(loads)[int(QUANTILE * (len(loads) - 1))]
        # With few in the pool the quantile is the least of them: then load alone decides among unlike loads.
        cold = [endpoint for endpoint, load in zip(drawn, loads, strict=True) if load <= limit]
        fastest = min([endpoint.rank for endpoint in cold])
        if fastest == -inf:
            cold = [endpoint for endpoint in cold if endpoint.rank == -inf]
        else:
            cold = [endpoint for endpoint in cold if endpoint.rank <= fastest + ALIKE]
        best, least = cold[0], inf
        for endpoint in cold:
            load = endpoint.pending / endpoint.weight
            if load < least:
                best, least = endpoint, load
        return best
