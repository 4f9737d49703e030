"""Who offers bad credentials again and again is answered 429 instead of 401 for a while.

Only what has failed is judged: a good credential from the same address is never looked at here, so that nobody can lock
out those with whom he shares an address (a proxy, a NAT, an office).
"""

import logging
import time
from math import ceil, inf
from typing import Any

from starlette.types import Scope

from gateway.config.settings import FailureSettings, LimitSettings
from gateway.edge.authenticate import Rejected
from gateway.edge.quota import Clock, Quota
from gateway.errors import GatewayError, TooManyRequests
from gateway.model import Exchange

_log = logging.getLogger("gateway.edge")

_MOST_BANS = 10_000  # at a time, in each worker; beyond it the oldest ends early
_SECOND = 10**9


class Failures:
    """Counts failed attempts by address, an IPv6 /64 as one. One for a worker; the buckets are the machine's."""

    def __init__(self, settings: FailureSettings, store: Any, *, clock: Clock = time.monotonic_ns) -> None:
        """`store` is that of the limits; where it is elsewhere, its `local` one is used. `clock` says nanoseconds."""
        self.settings = settings
        self._store = store.local if store.is_remote else store
        self._clock = clock
        self._quota = Quota(LimitSettings(rate=settings.rate, per="ip"), "failed authentication", self._store, None)
        self._banned: dict[str, float] = {}  # until when, oldest first

    def judge(self, error: GatewayError, exchange: Exchange, scope: Scope) -> GatewayError:
        """What to answer instead of `error`; itself unless it is a failed attempt too many. One at a hidden model
        counts and changes nothing: its answer may not tell that the model exists."""
        if not isinstance(error, Rejected) and not isinstance(error.__cause__, Rejected):
            return error
        now, quota = self._clock(), self._quota
        who = quota.place.name(quota.place.who(exchange, scope))
        until = self._banned.get(who, -inf)
        if now >= until:
            (debt,) = self._store.take([quota.place(exchange, scope)], [quota.limit.price], [quota.limit.window], now)
            if debt <= quota.limit.window:
                return error
            until = self._ban(who, now)
        if not isinstance(error, Rejected):
            return error
        left = max(1, ceil((until - now) / _SECOND))
        refusal = TooManyRequests(
            f"Too many failed attempts from this address. Try again in {left} s.",
            headers=[(b"retry-after", b"%d" % left)],
        )
        refusal.__cause__ = error
        return refusal

    def _ban(self, who: str, now: int) -> float:
        self._banned.pop(who, None)
        if len(self._banned) >= _MOST_BANS:
            self._banned.pop(next(iter(self._banned)))
        until = self._banned[who] = now + self.settings.ban * _SECOND
        _log.warning("too many failed attempts from %s: 429 for %g s", who, self.settings.ban)
        return until

    def __repr__(self) -> str:
        return f"<Failures {self._quota!r} {len(self._banned)} banned>"
