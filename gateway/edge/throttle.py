"""Token buckets for each caller: 429 with Retry-After for who asks too often.

A request takes from every limit of its model, or from none. A store on this machine answers at once, so that admission
costs no await; only one elsewhere (`redis://`) is waited for, and while it is away each limit does as its
`on_store_error` says: `local` counts on this machine instead, `open` admits, `closed` answers 503.

A limit in tokens reserves an estimate at admission and is settled when the answer has ended (`usage.py`).
"""

import time
from collections.abc import Awaitable, Sequence
from random import Random
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import LimitSettings
from gateway.edge.quota import Bundle, Clock, Quota, Taken
from gateway.edge.usage import Usage, ask_plainly, estimate
from gateway.model import Exchange
from gateway.stores.locked import LockedTable


class Throttle:
    """`limits` are those that have a `rate`. `store` is a TokenBucketSupport or an AsyncTokenBucketSupport; the latter
    has a `local` one to fall back to. `clock` says nanoseconds.

    `Exchange.limit_verdict` becomes admitted, limited, would_limit (a dry run) or store_down (admitted without it)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Sequence[LimitSettings],
        model: str,
        store: Any,
        clock: Clock = time.monotonic_ns,
        rng: Random | None = None,
    ) -> None:
        self.app = app
        self.store = store
        # Of `shared://`, where most requests' buckets are: compiled, unlike the storage in front of it.
        self.table: LockedTable | None = getattr(store, "locked", None)
        self.clock = clock
        self.rng = rng or Random()
        tag = None if len({each.per for each in limits}) == 1 else model
        compiled = [Quota(each, model, store, tag) for each in limits]
        quotas = list({quota.key(""): quota for quota in compiled}.values())  # the same limit twice is one bucket
        enforced = [quota for quota in quotas if not quota.settings.dry_run]
        self.bundles = [Bundle(enforced, clock)] if enforced else []
        self.bundles += [Bundle([quota], clock, is_trial=True) for quota in quotas if quota.settings.dry_run]
        self.is_metered = any(quota.unit == "tokens" for quota in quotas)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        exchange.limit_verdict = exchange.limit_verdict or "admitted"  # a dry run of `InFlight` has said more
        if self.is_metered:
            return self._meter(scope, receive, send)
        if self.table is None and self.store.is_remote:
            return self._wait_for_store(scope, receive, send)
        for bundle in self.bundles:
            places = [quota.place(exchange, scope) for quota in bundle.quotas]
            if self.table is not None:
                debts: Sequence[int] = self.table.take(places, bundle.prices, bundle.windows, self.clock())
            else:
                debts = self.store.take(places, bundle.prices, bundle.windows, self.clock())
            self._judge(bundle, debts, bundle.prices, exchange)
        return self.app(scope, receive, send)

    async def _wait_for_store(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        for bundle in self.bundles:
            places = [quota.place(exchange, scope) for quota in bundle.quotas]
            taken = await self._ask(bundle, places, bundle.prices, scope)
            self._judge(bundle, taken.debts, bundle.prices, exchange)
        await self.app(scope, receive, send)

    def _judge(self, bundle: Bundle, debts: Sequence[int], prices: Sequence[int], exchange: Exchange) -> bool:
        """True if the bundle admits. Raises TooManyRequests if it refuses, unless it is a trial."""
        for debt, window in zip(debts, bundle.windows):  # noqa: B905  one of each per limit
            if debt > window:
                if bundle.trial is not None:
                    bundle.trial.note(exchange)
                    return False
                exchange.limit_verdict = "limited"
                raise bundle.refusal(debts, prices, self.rng)
        if bundle.trial is None:
            exchange.answer_headers += bundle.fields.admitted(debts)
        return True

    async def _ask(self, bundle: Bundle, places: Sequence[Any], prices: Sequence[int], scope: Scope) -> Taken:
        exchange: Exchange = scope["exchange"]
        taken = await bundle.ask(self.store, places, prices, lambda: bundle.callers(exchange, scope))
        if taken.store is not self.store:
            exchange.limit_verdict = "store_down"
        return taken

    async def _meter(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same for limits in tokens: what an answer took is known when it has ended."""
        exchange: Exchange = scope["exchange"]
        expected = estimate(exchange, scope)
        reserved: list[tuple[Bundle, Taken, list[int]]] = []
        for bundle in self.bundles:
            costs = bundle.costs(expected.tokens)
            prices = bundle.priced(costs)
            places = [quota.place(exchange, scope) for quota in bundle.quotas]
            if self.store.is_remote:
                taken = await self._ask(bundle, places, prices, scope)
            else:
                taken = Taken(self.store, places, self.store.take(places, prices, bundle.windows, self.clock()))
            if self._judge(bundle, taken.debts, prices, exchange):
                reserved.append((bundle, taken, costs))
        ask_plainly(scope)
        usage = Usage(send)
        try:
            await self.app(scope, receive, usage)
        finally:
            used = usage.tokens(expected, has_left=exchange.departed)
            for bundle, taken, costs in reserved:
                bundle.settle(taken, [used - cost for cost in costs])

    def __repr__(self) -> str:
        quotas = [repr(quota) for bundle in self.bundles for quota in bundle.quotas]
        return f"<Throttle {', '.join(quotas)} in {self.store!r}>"
