"""Token buckets of a route, compiled: whose bucket a request takes from, what that costs, what a refusal says."""

from collections.abc import Callable, Sequence
from math import ceil
from random import Random
from typing import Any, Final, NamedTuple

import limits
from starlette.types import Scope

from gateway.config.settings import LimitSettings
from gateway.core.limiter import SECOND
from gateway.edge.caller import Places
from gateway.edge.fields import Fields
from gateway.edge.trial import Trial
from gateway.errors import StoreUnavailable, TooManyRequests
from gateway.model import Exchange
from gateway.stores.buckets import limit_of

_JITTER: Final = 0.1  # of a wait, at most: callers that were refused together do not come back together

Clock = Callable[[], int]


class Quota:
    """One limit. `key` names a caller's bucket: it changes with everything that changes the bucket's meaning, so that a
    reload keeps the buckets of limits that stay as they are."""

    def __init__(self, settings: LimitSettings, model: str, store: Any, tag: str | None) -> None:
        """`tag` as for the store's places; None: each caller is a tag of its own."""
        self.item = limits.parse(settings.rate or "")
        self.limit = limit_of(self.item, settings.burst)
        self.unit = settings.unit
        self.settings = settings
        self.model = model
        # The bucket's name, in the form that the `limits` package gives to its keys: but for the caller, made once.
        self._before, _, self._after = self.item.key_for(
            model, settings.per, self.unit, "\0", self.limit.burst
        ).partition("\0")
        self.place = Places(settings.per, lambda who: store.place(self.key(who), tag or self.key(who)))

    def key(self, who: str) -> str:
        """The name of a caller's bucket."""
        return f"{self._before}{who}{self._after}"

    def __repr__(self) -> str:
        return (
            f"<Quota {self.item!r} of {self.unit}, burst {self.limit.burst}, per {self.settings.per} of {self.model}>"
        )


class Taken(NamedTuple):
    """What a bundle has taken, and where: a store, its places (None: not counted), what each would owe."""

    store: Any
    places: Sequence[Any]
    debts: Sequence[int]


class Bundle:
    """Limits that are taken together or not at all; for a dry run, one limit that refuses nobody."""

    def __init__(self, quotas: Sequence[Quota], clock: Clock, *, is_trial: bool = False) -> None:
        self.quotas = quotas
        self.clock = clock
        self.prices = [quota.limit.price for quota in quotas]
        self.windows = [quota.limit.window for quota in quotas]
        self.fields = Fields([(quota.limit, quota.unit) for quota in quotas])
        self.trial = Trial(repr(quotas[0]), clock) if is_trial else None

    def costs(self, tokens: int) -> list[int]:
        """What a request of about so many tokens reserves: never more than a full bucket has, or it could never be
        admitted; what it really took is settled afterwards."""
        return [min(tokens, quota.limit.burst) if quota.unit == "tokens" else 1 for quota in self.quotas]

    def priced(self, costs: Sequence[int]) -> list[int]:
        return [cost * price for cost, price in zip(costs, self.prices, strict=True)]

    async def ask(
        self, store: Any, places: Sequence[Any], prices: Sequence[int], callers: Callable[[], list[str]]
    ) -> Taken:
        """Take from a store that must be awaited; while it is away, do as each limit's `on_store_error` says.
        Raises StoreUnavailable if one fails closed."""
        try:
            return Taken(store, places, await store.take(places, prices, self.windows))
        except StoreUnavailable:
            modes = [quota.settings.on_store_error for quota in self.quotas]
            if "closed" in modes and self.trial is None:
                raise
            return self._take_locally(store.local, prices, callers(), modes)

    def _take_locally(self, local: Any, prices: Sequence[int], callers: Sequence[str], modes: Sequence[str]) -> Taken:
        places: list[Any] = [None] * len(modes)
        debts = [0] * len(modes)
        counted = [i for i, mode in enumerate(modes) if mode == "local"]
        for i in counted:
            places[i] = local.place(self.quotas[i].key(callers[i]))
        if counted:
            mine = [places[i] for i in counted], [prices[i] for i in counted], [self.windows[i] for i in counted]
            for i, debt in zip(counted, local.take(*mine, self.clock()), strict=True):
                debts[i] = debt
        return Taken(local, places, debts)

    def settle(self, taken: Taken, corrections: Sequence[int]) -> None:
        """Charge (or give back, if negative) tokens that were not (or too many) reserved."""
        now = () if taken.store.is_remote else (self.clock(),)
        for quota, place, correction in zip(self.quotas, taken.places, corrections, strict=True):
            if quota.unit == "tokens" and place is not None and correction:
                taken.store.settle(place, correction * quota.limit.price, *now)

    def callers(self, exchange: Exchange, scope: Scope) -> list[str]:
        """The name of each limit's caller."""
        return [quota.place.name(quota.place.who(exchange, scope)) for quota in self.quotas]

    def refusal(self, debts: Sequence[int], prices: Sequence[int], rng: Random) -> TooManyRequests:
        """The 429, whose Retry-After is never shorter than the true wait. Nothing was taken from any bucket."""
        before, resets, wait, slowest = [], [], 0.0, self.quotas[0]
        for debt, price, quota in zip(debts, prices, self.quotas, strict=True):
            before.append(max(debt - price, 0))
            over = quota.limit.wait(debt)
            resets.append(over if over else before[-1] / SECOND)
            if over > wait:
                wait, slowest = over, quota
        retry_after = max(1, ceil(wait * (1 + _JITTER * rng.random())))
        told = [retry_after if over >= wait else ceil(over) for over in resets]
        unit = "" if slowest.unit == "requests" else f" {slowest.unit}"
        rate = repr(slowest.item).replace(" per ", f"{unit} per ", 1)
        return TooManyRequests(
            f"Too many requests: the limit is {rate}. Try again in {retry_after} s.",
            headers=[(b"retry-after", b"%d" % retry_after), *self.fields.refused(before, told)],
        )
