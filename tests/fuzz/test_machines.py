"""Connections as long stories: whatever a client does, in any order, each request it completed has its own answer."""

import asyncio
import re
from collections.abc import Awaitable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.deadlines import Deadlines
from gateway.errors import ClientLeft
from gateway.upstream.connection import Connection
from tests.server.client_side import Client, Transport, settle

BODIES = st.binary(max_size=40)


class ClientSide(RuleBasedStateMachine):
    """The server's protocol class: requests whole and in pieces, pipelined, a client that does not read, deadlines."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.errors: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(repr(context)))
        self.client: Client = self.run(self._made())
        self.sent: list[bytes] = []  # bodies of complete requests
        self.rest = b""  # of a request under way
        self.body = b""

    async def _made(self) -> Client:
        return Client(app=echo)

    def run(self, work: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(work)

    def feed(self, data: bytes) -> None:
        self.run(self.client.send(data))
        self.run(settle(40))  # a turn or two for each of those that are pipelined

    @rule(body=BODIES, is_chunked=st.booleans(), cut=st.integers(0, 200))
    def request(self, body: bytes, is_chunked: bool, cut: int) -> None:
        if self.rest:
            return
        head = b"POST /x HTTP/1.1\r\nHost: a\r\n"
        if is_chunked:
            raw = head + b"Transfer-Encoding: chunked\r\n\r\n"
            raw += (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            raw = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        self.body, self.rest = body, raw[cut:]
        self.feed(raw[:cut] if cut < len(raw) else raw)
        if not self.rest:
            self.sent.append(body)

    @rule(cut=st.integers(1, 50))
    def more(self, cut: int) -> None:
        if not self.rest:
            return
        piece, self.rest = self.rest[:cut], self.rest[cut:]
        self.feed(piece)
        if not self.rest:
            self.sent.append(self.body)

    @rule(bodies=st.lists(BODIES, min_size=2, max_size=12))
    def pipelined(self, bodies: list[bytes]) -> None:
        if self.rest:
            return
        self.feed(b"".join(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in bodies))
        self.sent += bodies

    @rule()
    def stop_and_go(self) -> None:
        """The client does not read for a while."""
        self.client.protocol.pause_writing()
        self.run(settle())
        self.client.protocol.resume_writing()
        self.run(settle())

    @rule()
    def sweep(self) -> None:
        """Nothing is overdue yet."""
        self.client.deadlines.sweep(0.0)

    @invariant()
    def each_has_its_answer(self) -> None:
        written = bytes(self.client.transport.written)
        answers = re.findall(rb"HTTP/1\.1 200 OK\r\ncontent-length: (\d+)\r\n\r\n", written)
        expected = b"".join(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(b), b) for b in self.sent)
        assert written == expected, (answers, self.sent)
        assert not self.client.transport.is_closed
        assert not self.errors

    def teardown(self) -> None:
        self.run(self.client.finish())
        assert not self.errors
        assert self.client.protocol.answer is None or self.client.protocol.closing
        self.loop.close()


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        await send({"type": "http.response.body", "body": body})
    except ClientLeft:
        return


class UpstreamSide(RuleBasedStateMachine):
    """The upstream's connection: good answers in any framing and cut, and after each the next request's own."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.transport = Transport()
        self.connection = Connection(self.loop, Deadlines())
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.is_over = False

    @rule(body=BODIES, framing=st.sampled_from(["length", "chunked", "head"]), size=st.integers(1, 60))
    def exchange(self, body: bytes, framing: str, size: int) -> None:
        if self.is_over:
            return
        is_head = framing == "head"
        if framing == "chunked":
            raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            raw += (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + (b"" if is_head else body)
        self.connection.begin(b"", is_head=is_head)
        for at in range(0, len(raw), size):
            self.connection.data_received(raw[at : at + size])
        got = self.loop.run_until_complete(self._read())
        assert got == (b"" if is_head else body)
        assert self.connection.end(is_sent=True), "it is clean"

    async def _read(self) -> bytes:
        far = float("inf")
        reply = await self.connection.head(far)
        body = b""
        while not (reply.is_complete and not reply.chunks):
            body += await self.connection.read(1.0, far)
        return body

    @rule(surplus=st.binary(min_size=1, max_size=20))
    def unasked(self, surplus: bytes) -> None:
        """Whatever it says while nobody asked ends it: it must not be the next answer."""
        if not self.is_over:
            self.connection.data_received(surplus)
            self.is_over = True
            assert self.connection.is_closed

    @invariant()
    def it_is_idle_or_closed(self) -> None:
        assert self.connection.is_closed == self.is_over
        assert self.is_over or self.connection.is_idle

    def teardown(self) -> None:
        self.loop.close()


TestClientSide = ClientSide.TestCase
TestClientSide.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestUpstreamSide = UpstreamSide.TestCase
TestUpstreamSide.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
