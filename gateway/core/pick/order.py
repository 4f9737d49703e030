"""Policies by order: some endpoints come before others, until they are full."""

from collections.abc import Callable, Sequence
from random import Random

from gateway.core.endpoint import Endpoint
from gateway.core.load import Loads
from gateway.core.pick.turns import Rotation
from gateway.core.policy import Policy

# Envoy's overprovisioning factor: a tier is taken to carry its whole load until fewer than 1/1.4 (71 %) of its
# endpoints are open; what is missing then goes to the next one.
SPARE = 1.4


class First:
    """The first endpoint in the order of routes.yaml that is not full: the last ones stay idle, and may be off.

    HAProxy's `first`. When all are full, that with the fewest requests for its weight. A scan to the first that has
    room: 40 ns an endpoint.
    """

    __slots__ = ("_full", "_loads", "_rotation")

    def __init__(self, endpoints: Sequence[Endpoint], full: int = 32) -> None:
        """`full`: requests in flight that one of weight 1 holds."""
        self._loads = Loads(endpoints)
        self._full = full
        self._rotation = Rotation()

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        if now >= self._loads.due:
            self._loads.refresh(now)
        full = self._full
        for endpoint in candidates:
            if endpoint.pending < full * endpoint.weight:
                return endpoint
        return candidates[self._rotation.least([e.pending / e.weight for e in candidates], rng)]


class Priority:
    """The tier of the lowest number, by a policy of its own; the next one as far as that is down or full.

    As many of its endpoints as are open, times SPARE, are the share that a tier takes; the rest spills over, and all
    does while each of its open endpoints is full. Several tiers that are all full share like one. Costs its policy's
    pick and 60 ns an endpoint; with one tier only the policy's.
    """

    __slots__ = ("_full", "_loads", "_on", "_open", "_policies", "_sizes", "_tiers", "_within")

    def __init__(
        self, endpoints: Sequence[Endpoint], within: Callable[[Sequence[Endpoint]], Policy], full: int = 32
    ) -> None:
        self._loads = Loads(endpoints)
        self._full = full
        self._tiers = sorted({endpoint.tier for endpoint in endpoints})
        members = {tier: [endpoint for endpoint in endpoints if endpoint.tier == tier] for tier in self._tiers}
        self._sizes = {tier: len(found) for tier, found in members.items()}
        self._policies = {tier: within(found) for tier, found in members.items()}
        self._within = within(endpoints)  # for all of them at once
        self._on: tuple[Endpoint, ...] = ()
        self._open: list[tuple[int, tuple[Endpoint, ...], float]] = []

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        if len(self._tiers) <= 1:
            return self._within.pick(candidates, key, now, rng)
        if now >= self._loads.due:
            self._loads.refresh(now)
        if candidates is not self._on and tuple(candidates) != self._on:
            self._sort(candidates)
        drawn = rng.random()
        for tier, found, share in self._open:
            drawn -= share
            if drawn < 0.0:
                if any(endpoint.pending < self._full * endpoint.weight for endpoint in found):
                    return self._policies[tier].pick(found, key, now, rng)
                drawn = -1.0  # full: all of it to the next
        return self._within.pick(candidates, key, now, rng)

    def _sort(self, candidates: Sequence[Endpoint]) -> None:
        """By tier, with the share of all requests that each takes; together they take all."""
        self._on = tuple(candidates)
        open_, left = [], 1.0
        for tier in self._tiers:
            found = tuple([endpoint for endpoint in candidates if endpoint.tier == tier])
            if found:
                share = min(left, SPARE * len(found) / self._sizes[tier])
                left -= share
                open_.append((tier, found, share))
        taken = 1.0 - left
        self._open = [(tier, found, share / taken) for tier, found, share in open_]
