"""How many requests a caller may have at one time: 429 for one more. Held to the last byte of the answer.

Comes before `Throttle`: a request that a bucket refuses gives its lease back, so that it is charged to no limit.
Exact over all workers of one machine; several machines count each for themselves.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import LimitSettings
from gateway.edge.caller import Places
from gateway.edge.trial import Trial
from gateway.errors import TooManyRequests
from gateway.model import Exchange
from gateway.stores.leases import SharedLeases
from gateway.stores.table import Place

_RETRY_AFTER: Final = (b"retry-after", b"1")  # seconds; when a request ends, nobody knows


class _Rule:
    """One limit. The number is no part of the key, so that a reload that changes it keeps the count; a dry run counts
    for itself."""

    def __init__(self, settings: LimitSettings, model: str, leases: SharedLeases, clock: Callable[[], int]) -> None:
        self.limit = settings.in_flight or 0
        self.per = settings.per
        kind = "dry run" if settings.dry_run else "limit"
        self.place = Places(settings.per, lambda who: leases.place(f"{model}/{kind}/{settings.per}/{who}"))
        self.trial = Trial(repr(self), clock) if settings.dry_run else None

    def refuse(self, exchange: Exchange) -> None:
        """Raises TooManyRequests, unless this is a dry run."""
        if self.trial is not None:
            self.trial.note(exchange)
            return
        exchange.limit_verdict = "limited"
        raise TooManyRequests(f"Too many requests at one time: the limit is {self.limit}.", headers=[_RETRY_AFTER])

    def __repr__(self) -> str:
        return f"<{self.limit} in flight per {self.per}>"


class InFlight:
    """`limits` are those that have `in_flight`; two of one `per` are the smaller one of them."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Sequence[LimitSettings],
        model: str,
        leases: SharedLeases,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.app = app
        self.leases = leases
        ordered = sorted(limits, key=lambda limit: limit.in_flight or 0, reverse=True)
        distinct = {(limit.per, limit.dry_run): limit for limit in ordered}  # the last one stays
        self.rules = [_Rule(limit, model, leases, clock) for limit in distinct.values()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        exchange.limit_verdict = "admitted"
        held: list[Place] = []
        try:
            for rule in self.rules:
                place: Place = rule.place(exchange, scope)
                if self.leases.acquire(place, rule.limit):
                    held.append(place)
                else:
                    rule.refuse(exchange)
            await self.app(scope, receive, send)
        finally:
            for place in held:
                self.leases.release(place)

    def __repr__(self) -> str:
        return f"<InFlight {self.rules} in {self.leases!r}>"
