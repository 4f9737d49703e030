"""Consistent hashing: the same key reaches the same endpoint, and few keys move when endpoints come and go."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Protocol

from gateway.core.endpoint import Endpoint
from gateway.core.load import Loads
from gateway.core.pick.maglev import Maglev
from gateway.core.pick.rendezvous import Rendezvous
from gateway.core.pick.ring import Ring
from gateway.core.policy import Policy


class Method(Policy, Protocol):
    def order(self, candidates: Sequence[Endpoint], key: bytes) -> Iterator[Endpoint]:
        """Every candidate once: first where the key belongs, then where it goes if that one is closed, and so on."""
        ...


METHODS: Mapping[str, Callable[[Sequence[Endpoint]], Method]] = {
    "rendezvous": Rendezvous,
    "ring": Ring,
    "maglev": Maglev,
}


def consistent_hash(
    endpoints: Sequence[Endpoint], method: str = "rendezvous", bounded_load: float | None = None
) -> Policy:
    """`method` is one of METHODS; `bounded_load` the most load an endpoint may have, in averages, None for any."""
    chosen = METHODS[method](endpoints)
    return chosen if bounded_load is None else BoundedLoad(endpoints, chosen, bounded_load)


class BoundedLoad:
    """A key leaves its endpoint while that has more than its share of the load; it goes to the next one in its order.

    Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018: no endpoint holds more than
    ceil(c x average) requests, the one to come included; c = 1.25 is what Google and Vimeo reported good. By weight,
    the average is that of the endpoint's share. Scans all loads unless the endpoint is idle.
    """

    __slots__ = ("_factor", "_loads", "_method")

    def __init__(self, endpoints: Sequence[Endpoint], method: Method, factor: float) -> None:
        if factor < 1:
            raise ValueError(f"bounded_load {factor} is less than 1: the endpoints could not hold all requests")
        self._loads = Loads(endpoints)
        self._method = method
        self._factor = factor

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        if now >= self._loads.due:
            self._loads.refresh(now)
        home = self._method.pick(candidates, key, now, rng)
        if home.pending == 0:
            return home
        total = sum([endpoint.pending for endpoint in candidates]) + 1
        share = self._factor * total / sum([endpoint.weight for endpoint in candidates])
        if home.pending < share * home.weight:  # for whole loads the same as < ceil(...)
            return home
        for endpoint in self._method.order(candidates, key):
            if endpoint.pending < share * endpoint.weight:
                return endpoint
        return home  # rounding, at c = 1 only: the limits add up to at least the loads and the one to come
