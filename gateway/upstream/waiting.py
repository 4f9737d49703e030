"""Waiting for an endpoint where none is open: instead of 503 at once, for those routes that want it."""

import asyncio
from time import monotonic

from gateway.core.pool import Pool
from gateway.upstream.call import Call

POLL = 0.05  # seconds until somebody looks again


class WaitingRoom:
    """One for each route."""

    __slots__ = ("length", "timeout", "waiting")

    def __init__(self, length: int, timeout: float) -> None:
        self.length = length  # how many wait at most
        self.timeout = timeout
        self.waiting = 0

    async def wait(self, call: Call, pool: Pool) -> None:
        """Until an endpoint is open, the time is over or the client has left; at once where enough wait already. What
        follows finds out by itself."""
        exchange, now = call.exchange, monotonic()
        if exchange.preferred is not None and pool.keep(exchange.preferred, now):
            return
        end = min(now + self.timeout, call.total)
        if self.waiting >= self.length:
            return
        self.waiting += 1
        try:
            while now < end and not exchange.departed and not pool.candidates((), now):
                await asyncio.sleep(POLL)
                now = monotonic()
        finally:
            self.waiting -= 1

    def __repr__(self) -> str:
        return f"<WaitingRoom {self.waiting} of {self.length} wait>"
