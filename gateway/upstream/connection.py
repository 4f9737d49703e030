"""One connection to an endpoint: an asyncio protocol on httptools, one exchange at a time, one future per wait.

What a general client gets wrong and this does not: surplus bytes never reach the next request (a connection with any
is closed), a stale kept-alive connection is told apart from a failure, and a wait ends the moment the client leaves.
"""

import asyncio
import contextlib
import os
import select
from typing import Any, Final, cast

from gateway.clock import monotonic
from gateway.core.deadlines import NEVER, Deadlines
from gateway.errors import (
    ClientLeft,
    GatewayError,
    StaleConnection,
    UpstreamClosed,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamTruncated,
)
from gateway.upstream.faults import why_unwanted
from gateway.upstream.reply import Reply

_READ_BOUND: Final = 256 * 1024  # bytes of an answer held before reading pauses: one read of the transport
_EMPTY_READS: Final = 64  # in a row that bring frames or trailers and no byte of a body; only an attacker sends so many
_STALE_WINDOW: Final = 0.25  # seconds; a server closing an idle connection and our request cross within one round trip


class Connection(asyncio.Protocol):
    """A connection; `is_idle` while no exchange uses it."""

    __slots__ = (
        "barren_reads", "deadline", "deadlines", "error", "idle_since", "is_closed", "is_ended", "is_idle",
        "is_reading", "is_reused", "is_writable", "loop", "received", "reply", "sent_at", "transport", "waiter",
        "write_waiter",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        self.loop = loop
        self.deadlines = deadlines
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.reply: Reply = Reply(is_head=False)
        self.waiter: asyncio.Future[None] | None = None
        self.write_waiter: asyncio.Future[None] | None = None
        self.error: GatewayError | None = None
        self.deadline = NEVER
        self.idle_since = 0.0
        self.sent_at = 0.0
        self.received = False  # any byte of the current answer
        self.is_closed = False
        self.is_ended = False  # by the server, and not cut
        self.is_idle = True
        self.is_reused = False
        self.is_reading = True
        self.is_writable = True
        self.barren_reads = 0

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.is_idle:  # nobody asked: whatever this is, it must not answer the next request
            self.abort()
            return
        self.received = True
        reply = self.reply
        try:
            reply.feed(data)
        except GatewayError as error:
            self.fail(error)
            return
        if reply.size > _READ_BOUND and self.is_reading:
            self.is_reading = False
            self.transport.pause_reading()
        waiter = self.waiter
        if waiter is not None and reply.is_head_done and not waiter.done():
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if exc is not None and not self.is_idle and self.error is None and not self.reply.is_complete:
            self._read_rest()
        # Without a length, only a clean end is one: no reset, no TLS without its close_notify (RFC 9112, 9.8).
        is_whole = self.reply.is_complete or (self.is_ended and self.reply.feed_eof())
        if not self.is_idle and self.error is None and not is_whole:
            self.error = self._why_lost(exc)
        self.reply.parser = cast(Any, None)  # the parser holds the reply, and that what nobody has taken
        self._wake()

    def eof_received(self) -> None:
        """A server that closes its side is done: the transport closes, `connection_lost` decides what it means."""
        self.is_ended = True

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        if self.write_waiter is not None and not self.write_waiter.done():
            self.write_waiter.set_result(None)

    def on_deadline(self, now: float) -> None:
        self.fail(UpstreamTimeout())

    # --- for the forwarder ---

    def begin(self, data: bytes, *, is_head: bool) -> None:
        """Start an exchange: write the request's head, and its body where that is at hand."""
        if self.is_reused:
            if self.reply.is_head or is_head:  # llhttp was never told that no body follows
                self.reply = Reply(is_head=is_head)
            else:
                self.reply.begin(is_head=False)
        elif is_head:
            self.reply.is_head = True
        self.is_idle = False
        self.received = False
        self.sent_at = monotonic()
        self.deadlines.watched.add(self)
        self.transport.write(data)

    async def write(self, data: bytes, idle: float) -> None:
        """Send more of the request's body; returns when the transport wants more, within `idle` seconds. Raises
        nothing: a server that broke off, answered early or stopped reading shows in the answer."""
        if self.is_reading and self._has_word():
            await asyncio.sleep(0)  # the loop reads it
        if self.is_closed:
            return
        self.transport.write(data)
        if not self.is_writable:
            whole = self.deadline
            own = self.deadline = min(whole, monotonic() + idle)
            self.write_waiter = self.loop.create_future()
            await self.write_waiter
            if self.deadline == own:  # else the answer has begun, and set its own
                self.deadline = whole

    async def head(self, deadline: float) -> Reply:
        """Wait for the answer's header section until `deadline` (monotonic). Raises UpstreamError, ClientLeft."""
        answer = self.expect(deadline)
        if answer is not None:
            await answer
        return self.arrived()

    def expect(self, deadline: float) -> asyncio.Future[None] | None:
        """`head` without a coroutine: what to wait for, or None, and then `arrived`."""
        self.deadline = deadline
        return None if self.reply.is_head_done or self.is_closed else self._news()

    def arrived(self) -> Reply:
        self._check()
        if not self.reply.is_head_done:
            raise self.error or UpstreamClosed()
        return self.reply

    async def read(self, idle: float, total: float) -> bytes:
        """The next part of the body, as it arrived; see `reply.is_complete` for the end. `idle`: seconds it may take,
        `total`: when all must be over (monotonic). Raises UpstreamTruncated, UpstreamTimeout, ClientLeft."""
        while not self.reply.chunks and not self.reply.is_complete:
            await self.more(idle, total)
        return self.take(total)

    def more(self, idle: float, total: float) -> asyncio.Future[None]:
        """`read` without a coroutine: what to wait for while nothing is here, and then `take`."""
        if self.error is not None or self.is_closed:
            raise self.error or UpstreamTruncated()
        self.barren_reads += 1
        if self.barren_reads > _EMPTY_READS:
            raise UpstreamInvalid
        self.deadline = min(monotonic() + idle, total)
        return self._news()

    def take(self, total: float) -> bytes:
        """What is here of the body."""
        self.barren_reads = 0
        self.deadline = total  # a client that is slow to take this is not the server's silence
        body = self.reply.take()
        if not self.is_reading and not self.is_closed:
            self.is_reading = True
            self.transport.resume_reading()
        return body

    def end(self, *, is_sent: bool) -> bool:
        """The exchange is over; `is_sent`: all of the request went out. True if the connection may serve another."""
        self.deadlines.watched.discard(self)
        self.deadline = NEVER
        reply = self.reply
        is_usable = (
            reply.is_complete and reply.is_kept and not reply.is_surplus and self.error is None and not self.is_closed
        )
        # One that is not read any more holds a large answer that nobody took: something else was tried instead.
        if is_usable and is_sent and self.is_writable and self.is_reading:
            self.is_idle = True
            self.is_reused = True
            return True
        self.abort()
        return False

    def cancel(self) -> None:
        """The client left: end the exchange now, so that the upstream stops working for it."""
        self.fail(ClientLeft())

    def fail(self, error: GatewayError) -> None:
        if self.error is None:
            self.error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        self.is_closed = True
        if not self.transport.is_closing():
            self.transport.abort()

    # --- inside ---

    def _news(self) -> asyncio.Future[None]:
        """Done when more of the answer is here, or there will be no more."""
        waiter = self.waiter = self.loop.create_future()
        return waiter

    def _check(self) -> None:
        if self.error is not None and isinstance(self.error, ClientLeft | UpstreamTimeout):
            raise self.error

    def _read_rest(self) -> None:
        """What came ahead of a reset that a write was the first to meet: a server that answers before it has all of
        our body, and closes, has said why. The kernel still has it; inside TLS nobody could read it."""
        if self.transport.get_extra_info("ssl_object") is not None:
            return
        self.is_reading = False  # not by the transport any more: it could not be paused either
        reply = self.reply
        with contextlib.suppress(OSError):
            descriptor: int = self.transport.get_extra_info("socket").fileno()
            while self.error is None and not reply.is_complete and reply.size <= _READ_BOUND:
                data = os.read(descriptor, _READ_BOUND)
                if not data:
                    return
                self.data_received(data)

    def _has_word(self) -> bool:
        """The server said something inside TLS, or left, and we have not read it. If it refused a body and closed, then
        behind a write that meets the reset nobody could read why. (What comes while we encrypt is still lost.)"""
        if self.transport.get_extra_info("ssl_object") is None:
            return False  # `_read_rest` can
        look = select.poll()
        look.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(look.poll(0))

    def _why_lost(self, exc: Exception | None) -> GatewayError:
        if self.reply.is_head_done:
            return UpstreamTruncated()
        if not self.received:
            unwanted = why_unwanted(exc)
            if unwanted is not None:
                return UpstreamClosed(unwanted)  # of a body that streams in, parts are gone: no `UpstreamUntrusted`
            if self.is_reused and monotonic() - self.sent_at < _STALE_WINDOW:
                return StaleConnection()
        return UpstreamClosed()

    def _wake(self) -> None:
        for waiter in (self.waiter, self.write_waiter):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "idle" if self.is_idle else "busy"
        return f"<Connection {state} reused={self.is_reused} {self.reply!r} error={self.error!r}>"
