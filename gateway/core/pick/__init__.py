"""Pick: choose an endpoint. One file per family of algorithm; `POLICIES` is all of them by their names in routes.yaml.

A policy is made once per snapshot and handed `now` (seconds, the event loop's clock) and `rng`. What it must not
forget over a reload lives in the endpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

from gateway.core.endpoint import Endpoint
from gateway.core.pick.connections import LeastConnections, TwoChoices, WeightedLeastConnections
from gateway.core.pick.dice import RandomChoice
from gateway.core.pick.hashing import consistent_hash
from gateway.core.pick.latency import LeastResponseTime, PeakEwma
from gateway.core.pick.llm import Llm
from gateway.core.pick.order import First, Priority
from gateway.core.pick.prefill import LeastPrefill, LMetric, StickyUntilSaturated
from gateway.core.pick.prefix import CacheAware, PrefixHash
from gateway.core.pick.prequal import Prequal
from gateway.core.pick.rendezvous import Rendezvous
from gateway.core.pick.turns import RoundRobin
from gateway.core.pick.weighted import weighted
from gateway.core.policy import Policy, PromptPolicy


class Balance(Protocol):
    """What `make` reads of a route's `balance:` (`config.settings.BalanceSettings`)."""

    @property
    def policy(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def bounded_load(self) -> float | None: ...
    @property
    def full(self) -> int: ...
    @property
    def within(self) -> str: ...
    @property
    def weights(self) -> str: ...


# What `priority` may apply to a tier.
Within = Literal[
    "least_connections",
    "weighted_least_connections",
    "round_robin",
    "random",
    "two_choices",
    "least_response_time",
    "peak_ewma",
    "prequal",
]

# Those that read prompts: `policy.PromptPolicy`.
PROMPTED: Mapping[str, Callable[[Sequence[Endpoint]], PromptPolicy]] = {
    "llm": Llm,
    "lpwl": LeastPrefill,
    "lmetric": LMetric,
    "cache_aware": CacheAware,
    "prefix_hash": PrefixHash,
    "sticky_until_saturated": StickyUntilSaturated,
}


def priority(endpoints: Sequence[Endpoint], within: str = "least_connections", full: int = 32) -> Policy:
    return Priority(endpoints, CLASSIC[within], full)


POLICIES: Mapping[str, Callable[..., Policy]] = {
    "round_robin": RoundRobin,
    "random": RandomChoice,
    "least_connections": LeastConnections,
    "weighted_least_connections": WeightedLeastConnections,
    "two_choices": TwoChoices,
    # The client's address is the key. nginx takes it modulo the number of servers, so that one more server moves nearly
    # every client; rendezvous moves only those that it must.
    "ip_hash": Rendezvous,
    "consistent_hash": consistent_hash,
    "least_response_time": LeastResponseTime,
    "peak_ewma": PeakEwma,
    "prequal": Prequal,
    "first": First,
    "weighted": weighted,
    **PROMPTED,
    "priority": priority,
}


CLASSIC: Mapping[str, Callable[[Sequence[Endpoint]], Policy]] = {name: POLICIES[name] for name in get_args(Within)}

KEYED = frozenset(("ip_hash", "consistent_hash"))  # bind keys to endpoints

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "consistent_hash": ("method", "bounded_load"),
    "first": ("full",),
    "priority": ("within", "full"),
    "weighted": ("weights",),
}


def make(settings: Balance, endpoints: Sequence[Endpoint]) -> Policy:
    """The policy that `settings` names, for the pool of `endpoints`. Raises KeyError for a name that is none."""
    options: dict[str, Any] = {name: getattr(settings, name) for name in OPTIONS.get(settings.policy, ())}
    return POLICIES[settings.policy](endpoints, **options)
