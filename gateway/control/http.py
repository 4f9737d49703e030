"""One question at a time over HTTP/1.1, for checks: a target's connection is kept for its next one.

A general client looks at every connection that it keeps for each request: with 200 endpoints a check took 6 ms, and
those that waited behind it were taken for dead.
"""

import asyncio
import ssl
from socket import SOCK_STREAM
from typing import Any, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.core.endpoint import Address

BODY: Final = 64 * 1024  # bytes of an answer that are read, for `contains`; with more its connection is not kept
_KEEP: Final = 75.0  # seconds of silence after which a kept connection is not tried again
_LENGTHS: Final = (b"content-length", b"transfer-encoding")

Answer = tuple[int, bytes]  # the status, and the beginning of the body


class NoAnswer(OSError):
    """What came was no answer in HTTP, or not all of one."""


class Line:
    """The way to one target."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None, server_name: str | None) -> None:
        self.address = address
        self.tls = tls
        self.server_name = (server_name or address.host) if tls else None
        self.kept: _Connection | None = None

    async def ask(self, request: bytes) -> Answer:
        """Raises OSError. That a kept connection ends as it is used again says nothing of whom it leads to."""
        kept, self.kept = self.kept, None
        if kept is not None:
            try:
                return await self._ask(kept, request)
            except OSError:
                pass
        return await self._ask(await self._connect(), request)

    async def _ask(self, connection: "_Connection", request: bytes) -> Answer:
        may_keep = False
        try:
            answer = await connection.ask(request)
            may_keep = connection.is_reusable
        finally:  # also at its deadline
            if may_keep:
                self.kept = connection
            else:
                connection.transport.abort()
        return answer

    async def _connect(self) -> "_Connection":
        """To the first address of the name that lets us."""
        loop = asyncio.get_running_loop()
        host, port = self.address.host, self.address.port
        # The loop looks a name up once at a time; inside a connect it would be looked up by each.
        found = await loop.getaddrinfo(host, port, type=SOCK_STREAM)
        addresses = [str(address[0]) for *_, address in found]
        for address in addresses[:-1]:
            try:
                return await self._connect_to(address)
            except ssl.SSLError:  # it is there, and not whom it should be
                raise
            except OSError:
                continue
        return await self._connect_to(addresses[-1])

    async def _connect_to(self, address: str) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _Connection, address, self.address.port, ssl=self.tls, server_hostname=self.server_name
        )
        return connection

    def close(self) -> None:
        if self.kept is not None:
            self.kept.transport.abort()
            self.kept = None


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.parser: Any = None  # an HttpResponseParser
        self.waiting: asyncio.Future[Answer] | None = None
        self.body = bytearray()
        self.size = 0  # bytes of this answer
        self.status = 0  # once its head is complete
        self.is_measured = False  # it says where it ends
        self.is_closed = False
        self.is_reusable = False
        self.answered_at = 0.0

    async def ask(self, request: bytes) -> Answer:
        if self.is_closed or (self.is_reusable and self.loop.time() - self.answered_at > _KEEP):
            raise NoAnswer("the connection is gone")
        self.parser = HttpResponseParser(self)
        self.body.clear()
        self.size = self.status = 0
        self.is_measured = self.is_reusable = False
        self.waiting = self.loop.create_future()
        self.transport.write(request)
        return await self.waiting

    # --- what the transport says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.waiting is None or self.waiting.done():  # more than was asked for
            self.transport.abort()
            self.is_closed = True
            return
        self.size += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            self.is_reusable = False
            self._answer()
        except HttpParserError as error:
            self.is_reusable = False
            self._fail(f"no answer in HTTP: {error}")
        if self.size > BODY:
            if self.status:
                self._answer()
            else:
                self._fail(f"no end of its head within {BODY} bytes")

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        if self.status and not self.is_measured and error is None:
            self._answer()
        self._fail(f"the connection ended {'within' if self.size else 'before'} an answer")
        self.parser = None  # it holds this protocol: the collector of garbage comes by rarely

    # --- what the parser says ---

    def on_message_begin(self) -> None:
        if self.waiting is not None and self.waiting.done():  # behind the answer, in the same read
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in _LENGTHS:
            self.is_measured = True

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 200 or status == 101:
            self.status = status

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        if self.waiting is None or self.waiting.done():
            return
        if self.status:
            self.is_reusable = self.parser.should_keep_alive()
            self.answered_at = self.loop.time()
            self._answer()
        else:  # it was 100, or the like
            self.is_measured = False

    def _answer(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result((self.status, bytes(self.body)))

    def _fail(self, why: str) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(NoAnswer(why))
