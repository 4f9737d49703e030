"""Answers as they are framed: large ones go out as the client takes them, errors as what they are."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from gateway.core.body import Receiver
from tests.server.client_side import Client, settle

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
KIB = 1024
BODY = bytes(range(256)) * 4 * 1000  # 1,000 KiB, of which no 64 KiB lie at a boundary


def client(fields: Sequence[tuple[bytes, bytes]] = (), *parts: bytes) -> Client:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(fields)})
        for part in parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": parts[-1]})

    return Client(app=app)


def test_of_a_client_that_takes_nothing_no_more_than_128_kib_are_written() -> None:
    async def scenario() -> None:
        it = client((), BODY)
        write = it.transport.write

        def full(data: bytes) -> None:
            write(data)
            if not it.protocol.taker.is_paused:
                it.protocol.pause_writing()

        it.transport.write = full  # type: ignore[method-assign]
        await it.send(REQUEST)
        await settle()
        assert len(it.transport.written) <= 128 * KIB
        for _ in range(40):
            it.protocol.resume_writing()
            await settle(2)
        outcome = await it.finish()
        head, _, body = outcome.written.partition(b"\r\n\r\n")
        assert b"\r\ncontent-length: 1024000" in head
        assert body == BODY

    asyncio.run(scenario())


@pytest.mark.parametrize("declared", [True, False])
def test_the_framing_is_that_of_the_whole_body(declared: bool) -> None:
    async def scenario() -> None:
        fields = [(b"content-length", b"%d" % (len(BODY) + 5))] if declared else []
        outcome = await exchange(client(fields, BODY, b"small"))
        head, _, body = outcome.partition(b"\r\n\r\n")
        assert (b"content-length: 1024005" if declared else b"transfer-encoding: chunked") in head
        assert (body if declared else joined(body)) == BODY + b"small"

    asyncio.run(scenario())


def test_a_client_that_leaves_in_the_middle_ends_it() -> None:
    async def scenario() -> None:
        it = client((), BODY)
        it.protocol.pause_writing()
        await it.send(REQUEST)
        written = len(it.transport.written)
        it.protocol.connection_lost(None)
        await settle()
        assert len(it.transport.written) == written < len(BODY)

    asyncio.run(scenario())


async def exchange(it: Client) -> bytes:
    await it.send(REQUEST)
    await asyncio.sleep(0)
    return (await it.finish()).written


def joined(chunks: bytes) -> bytes:
    body = b""
    while True:
        size, _, chunks = chunks.partition(b"\r\n")
        if not int(size, 16):
            assert chunks == b"\r\n"
            return body
        body += chunks[: int(size, 16)]
        assert chunks[int(size, 16) :][:2] == b"\r\n"
        chunks = chunks[int(size, 16) + 2 :]


@pytest.mark.parametrize("field", [(b"x-a\r\nx-b", b"1"), (b"x-a", b"1\r\nx-b: 2")])
def test_an_error_in_place_of_a_head_that_cannot_be_is_framed_as_what_it_is(field: tuple[bytes, bytes]) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [field]})
        with pytest.raises((RuntimeError, ValueError), match="control character"):
            await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"sorry"})

    async def scenario() -> bytes:
        return await exchange(Client(app=app))

    head, _, body = asyncio.run(scenario()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 ")
    assert b"content-length: 5" in head
    assert b"x-b" not in head
    assert body == b"sorry"


def test_a_task_can_be_made_of_what_send_returns_as_of_any_coroutine() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asyncio.create_task(send({"type": "http.response.start", "status": 200, "headers": []}))
        part = {"type": "http.response.body", "body": b"a", "more_body": True}
        await asyncio.wait_for(asyncio.gather(send(part), send(part)), 1)
        last = send({"type": "http.response.body", "body": b"b"})
        assert isinstance(last, Coroutine)
        with pytest.raises(StopIteration):
            last.send(None)
        with pytest.raises(KeyError):
            last.throw(KeyError("given"))
        last.close()

    async def scenario() -> bytes:
        return await exchange(Client(app=app))

    head, _, body = asyncio.run(scenario()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert joined(body) == b"aab"


@pytest.mark.parametrize(("pieces", "expected"), [(1, b"four"), (2, None)])
def test_only_a_body_that_is_all_here_can_be_taken_without_waiting_and_once(
    pieces: int, expected: bytes | None
) -> None:
    taken: list[Any] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert isinstance(receive, Receiver)
        taken.append(receive.take())
        if expected is None:
            body = (await receive())["body"]
            taken.append(body + (await receive())["body"])
        taken.append(receive.take())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def scenario() -> None:
        it = Client(app=app)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
        await it.send(*([head + b"four"] if pieces == 1 else [head + b"fo", b"ur"]))
        assert (await it.finish()).statuses == [204]

    asyncio.run(scenario())
    assert taken == ([b"four", None] if expected else [None, b"four", None])
