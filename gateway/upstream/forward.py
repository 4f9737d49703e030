"""The end of every route's chain: pick an endpoint, lease it, attempt (`call.py`), try another where that is safe."""

import asyncio
import logging
from collections.abc import Callable
from math import ceil, inf
from random import Random
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from gateway.clock import monotonic
from gateway.core.body import Receiver
from gateway.core.ejection import Ejected
from gateway.core.endpoint import Endpoint, Lease
from gateway.core.retry import cause_of
from gateway.core.timeouts import GRPC, OURS, given
from gateway.errors import ClientLeft, GatewayError, NoEndpoint, StaleConnection, UpstreamUnwilling
from gateway.model import Exchange
from gateway.upstream.call import Call, Means
from gateway.upstream.gate import Gates, Hold
from gateway.upstream.hedger import Hedger, Hedging
from gateway.upstream.retrier import Retrier
from gateway.upstream.waiting import WaitingRoom
from gateway.upstream.watch import Watch

_SOON: Final = b"1"  # seconds; a health check or a restart is rarely faster
_STALE_BOUND: Final = 3  # stale connections in a row before the endpoint itself is doubted

_log = logging.getLogger("gateway.upstream")

KeyOf = Callable[[Scope, Exchange], Any]  # bytes or None for most policies, an `Inference` for those that read prompts


def log_ejection(ejected: Ejected) -> None:
    _log.warning("endpoint %s: left out for %g s: %s", ejected.endpoint.url, ejected.seconds, ejected.reason)


class Forward:
    """Forwards to the pool that the layers above chose. One for each route."""

    def __init__(
        self, *, means: Means, key_of: KeyOf | None, retrier: Retrier, gates: Gates | None = None, rng: Random
    ) -> None:
        """`key_of` reads from a request what the policy picks by; None where it needs nothing of the request. `gates`
        are for pools that take only so many requests at one time."""
        self.means = means  # its own
        means.refusals, means.grants = retrier.rules.statuses, retrier.grants
        self.key_of = key_of
        self.retrier = retrier
        self.budget = retrier.budget
        self.gates = gates
        self.hedger: Hedger | None = None
        self.waiting_room: WaitingRoom | None = None  # None: 503 at once where no endpoint is open
        self.rng = rng

    def hedge(self, hedging: Hedging, share: float) -> None:
        """Make a second attempt where the first takes longer than this `share` of them did."""
        self.hedger = Hedger(hedging, self.retrier.rules, share, self.gates, self.pick)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        pool = exchange.pool
        assert pool is not None, "split comes first"
        self.budget.requests += 1
        body = receive.take() if isinstance(receive, Receiver) else None
        is_whole = body is not None
        if body is None:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            body = message.get("body", b"")
            is_whole = not message.get("more_body", False)
        if not is_whole and self.retrier.rules.is_safe(scope["method"], exchange.fields):
            body, is_whole = await self._gather(receive, body)
        call = Call(self.means, scope, receive, send, body, is_whole=is_whole)
        if OURS in exchange.fields or GRPC in exchange.fields:
            call.hurry(given(exchange.fields))
        key = self.key_of(scope, exchange) if self.key_of is not None else b""
        if self.waiting_room is not None and not pool.candidates((), monotonic()):
            await self.waiting_room.wait(call, pool)
        while True:
            if self.gates is None:
                endpoint = self.pick(exchange, key, call.tried)
                hold: Lease | Hold = endpoint.lease()
            else:
                hold = await self.gates.enter(call, key, self.pick)
                endpoint = hold.endpoint
            exchange.endpoint = endpoint
            exchange.attempts += 1
            try:
                with hold:
                    if self.hedger is not None and self.hedger.may_hedge(call):
                        await self.hedger.attempt(call, pool, key, endpoint)
                    elif pool.watchers:
                        with Watch(pool.watchers, key, endpoint) as call.watch:
                            await call.attempt(endpoint)
                    else:
                        await call.attempt(endpoint)
                return
            except GatewayError as error:
                pool.fail(endpoint, error, monotonic())
                if not self._is_tried_again(call, endpoint, error):
                    raise
            if call.pause:  # nobody holds the endpoint, and a client that leaves cancels the task
                await asyncio.sleep(call.pause)

    def pick(self, exchange: Exchange, key: Any, tried: list[Endpoint]) -> Endpoint:
        """The session's endpoint while it may be kept, else the policy's choice. Raises NoEndpoint."""
        pool = exchange.pool
        assert pool is not None, "split comes first"
        now = monotonic()
        preferred = exchange.preferred
        if preferred is not None and preferred not in tried and pool.keep(preferred, now):
            return preferred
        endpoint = pool.pick(key, now, self.rng, tried)
        if endpoint is None:
            reopens = pool.reopens
            soon = b"%d" % ceil(max(reopens - now, 1.0)) if reopens < inf else _SOON
            raise NoEndpoint(headers=[(b"retry-after", soon)])
        return endpoint

    async def _gather(self, receive: Receive, body: bytes) -> tuple[bytes, bool]:
        """Read on, as long as what can be sent again is not larger than what is held for that; -> (body, is all)."""
        parts, size = [body], len(body)
        while size < self.retrier.buffer:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body", False):
                return b"".join(parts), True
        return b"".join(parts), False

    def _is_tried_again(self, call: Call, endpoint: Endpoint, error: GatewayError) -> bool:
        """After an attempt that failed: is there another one? Not if any of an answer went to the client."""
        if isinstance(error, UpstreamUnwilling):
            return call.is_granted  # before the answer was dropped
        if isinstance(error, StaleConnection):
            call.stale += 1
            call.pause = 0.0
            call.is_fresh = call.stale >= _STALE_BOUND
            return not call.exchange.departed
        return not call.exchange.answered and self.retrier.grants(call, endpoint, cause_of(error))
