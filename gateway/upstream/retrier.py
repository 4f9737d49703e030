"""A route's retries: the rules and the budget of `core/retry.py`, asked about a call."""

import logging
from random import Random
from time import monotonic

from gateway.core.endpoint import Endpoint
from gateway.core.retry import UNSENT, Budget, RetryRules
from gateway.upstream.call import Call

_log = logging.getLogger("gateway.upstream")


class Retrier:
    """One for each route; its budget outlives snapshots."""

    __slots__ = ("budget", "buffer", "rng", "rules")

    def __init__(self, rules: RetryRules, budget: Budget, buffer: int, rng: Random) -> None:
        """`buffer`: bytes of a body that are held so that it can be sent again."""
        self.buffer = buffer
        self.rules = rules
        self.budget = budget
        self.rng = rng

    def grants(self, call: Call, endpoint: Endpoint, cause: str, asked: float = 0.0) -> bool:
        """May `call` be attempted again, after `endpoint` failed it by `cause` and asked for `asked` seconds? Then it
        is paid for, and `call.pause` says how long to wait. Nothing of an answer may have been sent."""
        rules, exchange = self.rules, call.exchange
        if cause not in rules.causes or exchange.departed or not self._is_safe(call, cause):
            return False
        pool = exchange.pool
        call.tried.append(endpoint)
        call.failures += 1
        is_other = pool is not None and bool(pool.candidates(call.tried, monotonic()))
        pause = rules.pause(call.failures, is_other, asked, self.rng)
        now = monotonic()
        if pause is None or now + pause >= call.total:
            return False
        if not self.budget.take(now):
            exchange.note().retries_denied += 1
            return False
        if not is_other:
            call.tried.clear()
        call.pause = pause
        _log.info("request %s: %s: %s; trying again", exchange.request_id, endpoint.url, cause)
        return True

    def _is_safe(self, call: Call, cause: str) -> bool:
        if cause == UNSENT:
            return True
        return call.is_whole and self.rules.is_safe(call.scope["method"], call.exchange.fields)

    def __repr__(self) -> str:
        return f"<Retrier {self.rules!r} {self.budget!r}>"
