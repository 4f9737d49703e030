"""The client as the one that takes what is written: one that is slow to, and one that does not close when it has all.

Rules of this module:
- Time counts only while bytes wait for the client, all pauses of a period together: time in which a model server was
  slow is none of them.
- When they have waited for `write_idle`, a client that took nothing meanwhile, or less than `write_rate` asks, is cut
  off; with one that took enough another period begins.
- Once our side is closed (lingering), who has taken all and does not close is cut off, too.
"""

import asyncio
from typing import Final

from gateway.clock import monotonic
from gateway.core.deadlines import NEVER
from gateway.server.bounds import Bounds
from gateway.server.taken import has_taken_all, taken_of

LINGER: Final = 2.0  # seconds in which a client is to close too; a reset at once would take the answer with it


class Taker:
    """The client of one connection. What returns a number returns the connection's next deadline."""

    __slots__ = ("is_lingering", "is_paused", "limits", "since", "taken", "waited", "waiters")

    def __init__(self, limits: Bounds) -> None:
        self.limits = limits
        self.is_paused = False  # the transport's write buffer is full
        self.is_lingering = False  # our side is closed, and the client's is yet to be
        self.waiters: list[asyncio.Future[None]] = []
        self.waited = 0.0  # seconds of this period in which bytes waited, in pauses that are over
        self.since = 0.0  # when they began to in this one
        self.taken: int | None = 0  # bytes that the client had taken when the period began; None: it is yet to

    def pause(self, transport: asyncio.Transport) -> float:
        """Bytes wait for the client from now on."""
        self.is_paused = True
        return self._wait(transport, monotonic())

    def resume(self) -> None:
        """None do any more."""
        if self.is_paused:
            self.is_paused = False
            self.waited += monotonic() - self.since
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self.is_paused:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiters.append(waiter)
            await waiter

    def linger(self, seconds: float) -> float:
        """Nearly every client has closed by then: only of one that has not is it of interest what it takes."""
        self.is_lingering = True
        if not self.is_paused and not self.waited:
            self.taken = None
        self.since = monotonic()
        return self.since + seconds

    def judge(self, transport: asyncio.Transport, now: float) -> float:
        """The deadline has come. Who is cut off needs no other."""
        if self.is_lingering and has_taken_all(transport):
            transport.abort()
            return NEVER
        waited = self.waited + now - self.since
        if self.taken is None:
            self.taken = taken_of(transport)
            self.since = now
        elif waited >= self.limits.write_idle:
            taken = taken_of(transport) - self.taken
            if taken <= 0 or taken < self.limits.write_rate * waited:
                transport.abort()
                return NEVER
            self.waited = 0.0
            self._wait(transport, now)
        return now + LINGER if self.is_lingering else self._due()

    def _wait(self, transport: asyncio.Transport, now: float) -> float:
        if not self.waited:
            self.taken = taken_of(transport)
        self.since = now
        return self._due()

    def _due(self) -> float:
        return self.since + self.limits.write_idle - self.waited
