"""Requests that a client sends without waiting for answers: all are answered, and few of them wait here."""

import asyncio
from typing import Any

import pytest

from tests.server.client_side import STATUS, Client, answer, settle

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n" + b"x" * 40
CHUNKED = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
LARGE = b"POST /d HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000
COUNT = 3000
MOST = 180  # one piece of a read, full of the smallest requests


@pytest.mark.parametrize("sent", [GET, POST, CHUNKED, LARGE + GET * 20], ids=["GET", "POST", "chunked", "large"])
@pytest.mark.parametrize("size", [1_000, 262_144])
def test_thousands_of_requests_in_a_few_reads_are_all_answered_and_few_wait(sent: bytes, size: int) -> None:
    raw = (sent * (COUNT // sent.count(b"HTTP/1.1")))[: len(sent) * COUNT]
    count = raw.count(b"HTTP/1.1")
    may_answer = asyncio.Event()
    answered: list[bytes] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await may_answer.wait()
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        answered.append(scope["raw_path"])
        await answer(send, 200)

    async def play() -> None:
        client = Client(app=app)
        protocol, at = client.protocol, 0
        while client.transport.is_reading and at < len(raw):
            await client.send(raw[at : at + size])
            at += size
        assert 8 <= len(protocol.pipeline) < MOST
        await client.send(raw[at : at + size])  # some was on its way when reading paused
        at += size
        assert len(protocol.pipeline) < MOST
        may_answer.set()
        while len(answered) < count:
            await settle(1)
            assert len(protocol.pipeline) < MOST
            if client.transport.is_reading and at < len(raw):
                await client.send(raw[at : at + size])
                at += size
        outcome = await client.finish()
        assert not outcome.is_closed
        assert len(STATUS.findall(outcome.written)) == count

    asyncio.run(asyncio.wait_for(play(), 60))


def test_a_client_that_leaves_while_some_wait_leaves_nothing_behind() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def play() -> None:
        client = Client(app=app)
        await client.send(GET * COUNT)
        assert client.protocol.held
        await client.finish()
        assert not client.protocol.held
        assert not client.protocol.pipeline

    asyncio.run(play())
