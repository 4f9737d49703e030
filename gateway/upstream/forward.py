"""The end of every route's chain: pick an endpoint, lease it, attempt (`call.py`), try another where that is safe."""

import asyncio
import logging
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Any

from starlette.types import Receive, Scope, Send

from gateway.config.settings import Timeouts
from gateway.core.endpoint import Endpoint
from gateway.errors import ClientLeft, GatewayError, NoEndpoint, StaleConnection
from gateway.model import Exchange
from gateway.upstream.call import Call, Means
from gateway.upstream.connections import Connections
from gateway.upstream.watch import Watch

_log = logging.getLogger("gateway.upstream")

_RETRY_AFTER = (b"retry-after", b"1")  # seconds; a health check or a restart is rarely faster
_STALE_BOUND = 3  # stale connections in a row before the endpoint itself is doubted

KeyOf = Callable[[Scope, Exchange], bytes]


class Forward:
    """Forwards to the pool that the layers above chose. One for each route."""

    def __init__(
        self,
        *,
        connections: Callable[[Endpoint], Connections],
        key_of: KeyOf | None,
        timeouts: Timeouts,
        attempts: int,
        is_host_kept: bool,
        rng: Random,
    ) -> None:
        """`key_of` reads from a request what the policy picks by; None where it needs nothing of the request."""
        self.means = Means(connections, timeouts, is_host_kept, asyncio.get_running_loop())
        self.key_of = key_of
        self.attempts = attempts
        self.rng = rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        pool = exchange.pool
        assert pool is not None, "split comes first"
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = message.get("body", b"")
        call = Call(self.means, scope, receive, send, body, is_whole=not message.get("more_body", False))
        key = self.key_of(scope, exchange) if self.key_of is not None else b""
        while True:
            endpoint = exchange.endpoint = self.pick(exchange, key, call.tried)
            exchange.attempts += 1
            try:
                with endpoint.lease():
                    if pool.watchers:
                        with Watch(pool.watchers, key, endpoint) as call.watch:
                            await call.attempt(endpoint)
                    else:
                        await call.attempt(endpoint)
                return
            except GatewayError as error:
                if not self._may_try_again(call, endpoint, error):
                    raise
                _log.info("request %s: %s: %s; trying again", exchange.request_id, endpoint.url, error)

    def pick(self, exchange: Exchange, key: Any, tried: list[Endpoint]) -> Endpoint:
        """The session's endpoint while it may be kept, else the policy's choice. Raises NoEndpoint."""
        preferred = exchange.preferred
        if preferred is not None and preferred not in tried and preferred.may_keep:
            return preferred
        pool = exchange.pool
        assert pool is not None, "split comes first"
        candidates = pool.candidates(tried)
        if not candidates:
            raise NoEndpoint(headers=[_RETRY_AFTER])
        return pool.policy.pick(candidates, key, monotonic(), self.rng)

    def _may_try_again(self, call: Call, endpoint: Endpoint, error: GatewayError) -> bool:
        """After a failed attempt. Nothing of the answer was sent, or the error would not be retryable."""
        exchange = call.exchange
        if not error.is_retryable or exchange.departed:
            return False
        if isinstance(error, StaleConnection):
            call.stale += 1
            call.is_fresh = call.stale >= _STALE_BOUND
            return True
        call.tried.append(endpoint)
        return len(call.tried) < self.attempts and bool(exchange.pool and exchange.pool.candidates(call.tried))
