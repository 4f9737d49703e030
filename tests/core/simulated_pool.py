"""Pools of endpoints over plain lists, and a model of traffic: what the tests of policies share."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from heapq import heappop, heappush
from math import sqrt
from random import Random

from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.policy import Policy


def make_pool(size: int, weights: Sequence[float] = (), health: Health = Health.UP, first: int = 0) -> list[Endpoint]:
    """Endpoints `http://server-N`, N from `first`; weights repeat."""
    row = Row([health] * size, [0] * size)
    weights = weights or (1.0,)
    return [Endpoint(f"http://server-{first + i}", i, row, weights[i % len(weights)]) for i in range(size)]


def key_of(number: int) -> bytes:
    """Keys as they are in life: addresses that differ in little."""
    return b"10.%d.%d.%d" % (number >> 16 & 255, number >> 8 & 255, number & 255)


def serve(
    policy: Policy,
    candidates: Sequence[Endpoint],
    requests: int,
    *,
    together: int = 16,
    seconds: Callable[[Endpoint], float] = lambda endpoint: 1.0,
    seed: int = 1,
    start: float = 1000.0,
) -> Counter[str]:
    """How many of `requests` each URL got, while `together` of them are always under way."""
    rng = Random(seed)
    now = start
    running: list[tuple[float, int, float, Endpoint, ExitStack]] = []
    served: Counter[str] = Counter()

    def finish() -> float:
        end, _, taken, endpoint, lease = heappop(running)
        lease.close()
        endpoint.observe(taken, end)
        return end

    for number in range(requests):
        if len(running) >= together:
            now = finish()
        endpoint = policy.pick(candidates, key_of(number), now, rng)
        served[endpoint.url] += 1
        lease = ExitStack()
        lease.enter_context(endpoint.lease())
        taken = seconds(endpoint) * rng.uniform(0.9, 1.1)
        heappush(running, (now + taken, number, taken, endpoint, lease))
    while running:
        finish()
    return served


def five_sigma(requests: int, share: float) -> float:
    """How far fair dice stray from `share` of `requests`: further than this once in 1.7 million."""
    return 5 * sqrt(requests * share * (1 - share))
