"""A pool under traffic, in virtual time: several workers that share a zone of plain lists, and endpoints that answer,
fail or are slow as a test says."""

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from gateway.core.ejection import Ejected, Rules
from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.pick import POLICIES
from gateway.core.pool import Pool
from gateway.core.standing import WORDS, Cells
from gateway.errors import ConnectFailed


class Answer(NamedTuple):
    seconds: float
    status: int = 200  # 0: none, the connection was refused
    retry_after: float = 0.0


STRICT = Rules()  # all of them, with their defaults
Behaviour = Callable[[int, float, Random], Answer]  # of endpoint `slot` at `now`


class Zone:
    """What `server.zone.Zone` is, for `workers` and `size` endpoints."""

    def __init__(self, workers: int, size: int, health: Health = Health.UP) -> None:
        self.health = [int(health)] * size
        self.since = [0.0] * size
        self.changes = [0]
        self.in_flight = [[0] * size for _ in range(workers)]
        self.words = [[0.0] * WORDS * size for _ in range(workers)]

    def ring(self) -> None:
        self.changes[0] += 1

    def row(self, worker: int) -> Row:
        others = [index for index in range(len(self.words)) if index != worker]
        words = Cells(self.words[worker], [self.words[index] for index in others], self.ring)
        counts = [self.in_flight[index] for index in others]
        return Row(self.health, self.in_flight[worker], counts, self.changes, None, self.since, words)


class Result(NamedTuple):
    statuses: Counter[int]  # as clients saw them; 503 also where no endpoint was open
    served: Counter[int]  # attempts by slot
    failures: Counter[int]  # of attempts, by slot
    ejected: list[Ejected]

    @property
    def success(self) -> float:
        return sum(n for status, n in self.statuses.items() if status < 500) / self.statuses.total()


class Traffic:
    """Requests at `rate` a second, at random, each to one of `workers`."""

    def __init__(
        self,
        policy: str = "least_connections",
        *,
        size: int = 8,
        workers: int = 1,
        rules: Rules | None = STRICT,
        seed: int = 1,
    ) -> None:
        self.zone = Zone(workers, size)
        self.rng = Random(seed)
        self.ejected: list[Ejected] = []
        self.pools = [self._pool(policy, size, worker, rules) for worker in range(workers)]
        self.now = 1000.0

    def _pool(self, policy: str, size: int, worker: int, rules: Rules | None) -> Pool:
        row = self.zone.row(worker)
        endpoints = [Endpoint(f"http://server-{slot}", slot, row) for slot in range(size)]
        return Pool(
            "m", "v", endpoints, POLICIES[policy](endpoints), ("m", None), rules=rules, on_eject=self.ejected.append
        )

    def run(self, seconds: float, rate: float, behave: Behaviour, *, attempts: int = 1) -> Result:
        result = Result(Counter(), Counter(), Counter(), [])
        queue: list[tuple[float, int, Callable[[float], None]]] = []
        number = 0

        def at(moment: float, act: Callable[[float], None]) -> None:
            nonlocal number
            number += 1
            heappush(queue, (moment, number, act))

        def send(pool: Pool, tried: list[Endpoint], now: float) -> None:
            endpoint = pool.pick(b"key%d" % self.rng.randrange(10**6), now, self.rng, tried)
            if endpoint is None:
                result.statuses[503] += 1
                return
            result.served[endpoint.slot] += 1
            lease = endpoint.lease()
            lease.__enter__()
            answer = behave(endpoint.slot, now, self.rng)

            def finish(now: float) -> None:
                lease.__exit__(None, None, None)
                if answer.status == 0:
                    pool.fail(endpoint, ConnectFailed(), now)
                elif answer.status < 429 or pool.judge(endpoint, answer.status, answer.retry_after, now):
                    endpoint.observe(answer.seconds, now)
                    endpoint.standing.succeed(now)
                if answer.status == 0 or answer.status >= 500:
                    result.failures[endpoint.slot] += 1
                    tried.append(endpoint)
                    if len(tried) < attempts:
                        return send(pool, tried, now)
                result.statuses[answer.status or 502] += 1

            at(now + answer.seconds, finish)

        moment, end = self.now, self.now + seconds
        while (moment := moment + self.rng.expovariate(rate)) < end:
            at(moment, lambda now: send(self.rng.choice(self.pools), [], now))
        while queue:
            self.now, _, act = heappop(queue)
            act(self.now)
            result.ejected.extend(self.ejected)
            self.ejected.clear()
        self.now = max(self.now, end)
        return result
