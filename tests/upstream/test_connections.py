"""Connections to a real server on loopback, and the clock handed in where time matters."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import uvloop

from gateway.core.deadlines import NEVER, Deadlines
from gateway.core.endpoint import Address
from gateway.errors import (
    ClientLeft,
    ConnectFailed,
    GatewayError,
    StaleConnection,
    UpstreamClosed,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamTruncated,
)
from gateway.upstream.connection import Connection
from gateway.upstream.connections import Connections
from tests.tls.makers import make, trust

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(HELLO)


def saying(data: bytes, *, then_close: bool = False) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()
        else:
            await reader.read()

    return peer


def with_server(peer: Peer, test: Callable[[Connections], Awaitable[None]]) -> None:
    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(quiet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connections = Connections(Address.parse(f"http://127.0.0.1:{port}"), Deadlines())
        try:
            await test(connections)
        finally:
            connections.close()
            server.close()

    asyncio.run(asyncio.wait_for(main(), 10))


async def exchange(connection: Connection, *, is_head: bool = False) -> bytes:
    connection.begin(GET, is_head=is_head)
    reply = await connection.head(NEVER)
    body = b""
    while not (reply.is_complete and not reply.chunks):
        body += await connection.read(60.0, NEVER)
    return body


async def expect(connection: Connection, kind: type[GatewayError]) -> None:
    with pytest.raises(kind) as caught:
        await exchange(connection)
    assert type(caught.value) is kind
    assert connection.end(is_sent=True) is False
    assert connection.is_closed


def test_a_connection_is_kept_and_used_again_the_warmest_first() -> None:
    async def test(connections: Connections) -> None:
        one, two = await connections.open(5.0), await connections.open(5.0)
        for connection in (one, two):
            assert await exchange(connection) == b"hello"
            connections.give_back(connection, is_sent=True)
        assert connections.take() is two
        assert connections.take() is one
        assert connections.take() is None
        assert await exchange(one) == b"hello"
        assert one.is_reused

    with_server(good, test)


def test_one_whose_request_was_not_all_sent_is_not_kept() -> None:
    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        await exchange(connection)
        connections.give_back(connection, is_sent=False)
        assert connections.take() is None
        assert connection.is_closed

    with_server(good, test)


@pytest.mark.parametrize(
    "data",
    [HELLO + b"x", HELLO + HELLO, b"HTTP/1.1 204 X\r\n\r\nx", HELLO.replace(b"OK", b"OK\r\nconnection: close")],
)
def test_one_that_sent_too_much_or_says_close_is_not_kept(data: bytes) -> None:
    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        await exchange(connection)
        connections.give_back(connection, is_sent=True)
        assert connections.take() is None

    with_server(saying(data), test)


@pytest.mark.parametrize(("run", "scheme"), [(asyncio.run, "http"), (uvloop.run, "http"), (uvloop.run, "https")])
def test_an_answer_ahead_of_a_reset_is_read_when_a_write_meets_the_reset_first(
    run: Callable[[Any], None], scheme: str, tmp_path: Path
) -> None:
    """Of a server that answers before it has all of a body, and closes. The loop hears of nothing between its answer
    and our write, as when the client's next piece is at hand in the same turn."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = Address.parse(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
            ours, theirs = contexts(tmp_path) if scheme == "https" else (None, None)
            accepted = asyncio.create_task(asyncio.to_thread(accept, listener, theirs))
            connection = await Connections(address, Deadlines(), ours).open(5.0)
            server = await accepted
            connection.begin(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345", is_head=False)
            await asyncio.sleep(0.05)
            server.sendall(b"HTTP/1.1 413 X\r\nconnection: close\r\ncontent-length: 5\r\n\r\nlarge")
            server.close()
            await connection.write(b"67890", 5.0)
            reply = await connection.head(NEVER)
            assert (reply.status, await connection.read(5.0, NEVER)) == (413, b"large")
            assert connection.end(is_sent=False) is False

    run(asyncio.wait_for(main(), 10))


def accept(listener: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    server, _ = listener.accept()
    return context.wrap_socket(server, server_side=True) if context is not None else server


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a client and a server."""
    make("127.0.0.1").write(folder, "server")
    ours, theirs = ssl.create_default_context(cafile=trust(folder)), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(folder / "server.crt", folder / "server.key")
    return ours, theirs


def test_one_that_speaks_unasked_is_closed() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO)
        await asyncio.sleep(0.02)
        writer.write(HELLO)
        await reader.read()

    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        await exchange(connection)
        connections.give_back(connection, is_sent=True)
        while not connection.is_closed:
            await asyncio.sleep(0.005)
        assert connections.take() is None

    with_server(late, test)


def test_head_leaves_the_connection_good_for_the_next_answer() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO.partition(b"hello")[0])
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO)
        await reader.read()

    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        assert await exchange(connection, is_head=True) == b""
        connections.give_back(connection, is_sent=True)
        assert connections.take() is connection
        assert await exchange(connection) == b"hello"

    with_server(peer, test)


@pytest.mark.parametrize(
    ("peer", "kind"),
    [
        (saying(b"", then_close=True), UpstreamClosed),
        (saying(b"HTTP/1.1 200", then_close=True), UpstreamClosed),
        (saying(HELLO[:-1], then_close=True), UpstreamTruncated),
        (saying(b"nonsense\r\n\r\n"), UpstreamInvalid),
    ],
)
def test_how_an_exchange_fails_is_told(peer: Peer, kind: type[GatewayError]) -> None:
    async def test(connections: Connections) -> None:
        await expect(await connections.open(5.0), kind)

    with_server(peer, test)


def test_a_used_connection_that_ends_at_once_is_stale_and_one_that_ends_later_is_not() -> None:
    async def test(connections: Connections) -> None:
        for sent_ago, kind in ((0.0, StaleConnection), (1.0, UpstreamClosed)):
            connection = await connections.open(5.0)
            await exchange(connection)
            connections.give_back(connection, is_sent=True)
            assert connections.take() is connection
            connection.begin(GET, is_head=False)
            connection.sent_at -= sent_ago
            with pytest.raises(kind) as caught:
                await connection.head(NEVER)
            assert type(caught.value) is kind

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HELLO)
        await reader.readuntil(b"\r\n\r\n")

    with_server(once, test)


@pytest.mark.parametrize("said", [b"", HELLO[:-1]])
def test_silence_ends_when_its_deadline_is_swept(said: bytes) -> None:
    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        connection.begin(GET, is_head=False)
        waiting = asyncio.ensure_future(read_all(connection))
        await asyncio.sleep(0.02)
        assert connections.deadlines.sweep(monotonic()) == 0
        assert connections.deadlines.sweep(monotonic() + 61) == 1
        with pytest.raises(UpstreamTimeout):
            await waiting

    async def read_all(connection: Connection) -> None:
        await connection.head(monotonic() + 60)
        while True:
            await connection.read(60.0, NEVER)

    with_server(saying(said), test)


def test_a_client_that_is_slow_to_take_an_answer_is_not_the_servers_silence() -> None:
    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        connection.begin(GET, is_head=False)
        await connection.head(monotonic() + 60)
        assert await connection.read(60.0, monotonic() + 3600) == b"hell"
        assert connections.deadlines.sweep(monotonic() + 120) == 0
        assert connections.deadlines.sweep(monotonic() + 3700) == 1, "but all must be over at some time"

    with_server(saying(HELLO[:-1]), test)


def test_a_client_that_leaves_ends_the_wait_at_once() -> None:
    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        connection.begin(GET, is_head=False)
        waiting = asyncio.ensure_future(connection.head(NEVER))
        await asyncio.sleep(0)
        connection.cancel()
        with pytest.raises(ClientLeft):
            await waiting
        assert connection.is_closed

    with_server(saying(b""), test)


def test_an_upload_waits_for_a_server_that_does_not_read_and_not_for_ever() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(10)

    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        connection.begin(GET, is_head=False)
        writing = asyncio.ensure_future(connection.write(b"x" * 50_000_000, 60.0))
        await asyncio.sleep(0.05)
        assert not writing.done()
        connections.deadlines.sweep(monotonic() + 61)
        await writing
        assert isinstance(connection.error, UpstreamTimeout)

    with_server(deaf, test)


def test_trailers_without_end_are_not_read_for_ever() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nX: ")
        while True:
            writer.write(b"a" * 1000)
            await writer.drain()
            await asyncio.sleep(0.0005)

    async def test(connections: Connections) -> None:
        await expect(await connections.open(5.0), UpstreamInvalid)

    with_server(endless, test)


def test_what_nobody_used_for_a_while_is_closed_and_what_is_too_much_too() -> None:
    async def test(connections: Connections) -> None:
        kept = [await connections.open(5.0) for _ in range(3)]
        for connection in kept:
            await exchange(connection)
        connections.bound = 2
        for connection in kept:
            connections.give_back(connection, is_sent=True)
        assert [connection.is_closed for connection in kept] == [True, False, False]
        kept[1].idle_since -= 1000
        connections.trim(monotonic())
        assert [connection.is_closed for connection in kept] == [True, True, False]
        connections.close()
        assert kept[2].is_closed

    with_server(good, test)


def test_a_pool_that_was_closed_keeps_nothing_more() -> None:
    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        connections.close()
        assert await exchange(connection) == b"hello", "what is in use may end"
        connections.give_back(connection, is_sent=True)
        assert connection.is_closed

    with_server(good, test)


def test_a_refused_connection_is_an_error_that_may_be_tried_elsewhere(refusing: int) -> None:
    async def main() -> None:
        connections = Connections(Address.parse(f"http://127.0.0.1:{refusing}"), Deadlines())
        with pytest.raises(ConnectFailed) as caught:
            await connections.open(5.0)
        assert caught.value.is_retryable

    asyncio.run(main())


@pytest.fixture
def refusing() -> Any:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_a_large_answer_that_nobody_took_leaves_no_connection_that_is_not_read() -> None:
    async def test(connections: Connections) -> None:
        connection = await connections.open(5.0)
        connection.begin(GET, is_head=False)
        connection.data_received(b"HTTP/1.1 503 Busy\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000))
        assert (await connection.head(NEVER)).is_complete
        connections.give_back(connection, is_sent=True)
        assert connections.take() is None

    with_server(saying(b""), test)
