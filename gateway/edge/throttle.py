"""Per-caller token buckets: 429 with Retry-After for who asks too often.

A request takes one token of every limit of its model, or of none. A store on this machine answers at once, so that
admission costs no await; only one elsewhere (`redis://`) is waited for, and while it is away each limit does as its
`on_store_error` says: `local` counts on this machine instead, `open` admits, `closed` answers 503.
"""

import time
from collections.abc import Callable, Sequence
from math import ceil
from random import Random
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import LimitSettings
from gateway.core.limiter import SECOND
from gateway.edge.quota import Fields, Quota
from gateway.errors import StoreUnavailable, TooManyRequests
from gateway.model import Exchange

_JITTER = 0.1  # of a wait, at most: callers that were refused together do not come back together


class Throttle:
    """`store` is a TokenBucketSupport or AsyncTokenBucketSupport; the latter has a `local` one to fall back to."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Sequence[LimitSettings],
        model: str,
        store: Any,
        clock: Callable[[], int] = time.monotonic_ns,
        rng: Random | None = None,
    ) -> None:
        self.app = app
        self.store = store
        self.clock = clock
        self.rng = rng or Random()
        tag = None if len({each.per for each in limits}) == 1 else model
        compiled = [Quota(each, model, store, tag) for each in limits]
        self.quotas = list({quota.key(""): quota for quota in compiled}.values())  # the same limit twice is one bucket
        self.prices = [quota.limit.price for quota in self.quotas]
        self.windows = [quota.limit.window for quota in self.quotas]
        self.fields = Fields(self.quotas)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        places = [quota.place(exchange, scope) for quota in self.quotas]
        exchange.limit_verdict = "admitted"
        if self.store.is_remote:
            try:
                debts = await self.store.take(places, self.prices, self.windows)
            except StoreUnavailable:
                debts = self._decide_without_store(exchange, scope)
        else:
            debts = self.store.take(places, self.prices, self.windows, self.clock())
        for debt, window in zip(debts, self.windows):  # noqa: B905  one of each per limit
            if debt > window:
                exchange.limit_verdict = "limited"
                raise self._refusal(debts)
        exchange.answer_headers += self.fields.admitted(debts)
        await self.app(scope, receive, send)

    def _decide_without_store(self, exchange: Exchange, scope: Scope) -> list[int]:
        """Debts as if the store had been asked. Raises StoreUnavailable if a limit fails closed."""
        exchange.limit_verdict = "store_down"
        if any(quota.on_store_error == "closed" for quota in self.quotas):
            raise StoreUnavailable
        local = self.store.local
        counted = [i for i, quota in enumerate(self.quotas) if quota.on_store_error == "local"]
        places = [local.place(self.quotas[i].key(self.quotas[i].who(exchange, scope))) for i in counted]
        debts = [0] * len(self.quotas)
        if counted:
            prices, windows = [self.prices[i] for i in counted], [self.windows[i] for i in counted]
            for i, debt in zip(counted, local.take(places, prices, windows, self.clock()), strict=True):
                debts[i] = debt
        return debts

    def _refusal(self, debts: Sequence[int]) -> TooManyRequests:
        """The 429, whose Retry-After is never shorter than the true wait. Nothing was taken from any bucket."""
        before, resets, wait, slowest = [], [], 0.0, self.quotas[0]
        for debt, price, quota in zip(debts, self.prices, self.quotas, strict=True):
            before.append(max(debt - price, 0))
            over = quota.limit.wait(debt)
            resets.append(over if over else before[-1] / SECOND)
            if over > wait:
                wait, slowest = over, quota
        retry_after = max(1, ceil(wait * (1 + _JITTER * self.rng.random())))
        told = [retry_after if over >= wait else ceil(over) for over in resets]
        return TooManyRequests(
            f"Too many requests: the limit is {slowest.item!r}. Try again in {retry_after} s.",
            headers=[(b"retry-after", b"%d" % retry_after), *self.fields.refused(before, told)],
        )

    def __repr__(self) -> str:
        return f"<Throttle {', '.join(map(repr, self.quotas))} in {self.store!r}>"
