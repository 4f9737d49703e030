"""What a client on the wire sees of a handshake that fails."""

import asyncio
import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.config.settings import TLSSettings
from gateway.tls.context import server_context
from tests.tls.servers import LOOPS, run_on

ALERT, FATAL = 21, 2  # RFC 8446, 5.1 and 6
PROTOCOL_VERSION = 70
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]


@pytest.fixture(params=sorted(LOOPS))
def talk(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function that runs a client's talk with a server of TLS 1.3; `deadline` is for its handshakes, in seconds."""

    async def main(talk: Talk, deadline: float) -> Any:
        context = server_context(TLSSettings(profile="modern"))
        served = asyncio.Event()
        server = await asyncio.start_server(
            lambda *_: served.set(), "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=deadline
        )
        try:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            result = await asyncio.wait_for(talk(reader, writer), 10)
            writer.close()
            assert not served.is_set()
            return result
        finally:
            server.close()

    def run(talk: Talk, deadline: float = 5.0) -> Any:
        return run_on(request.param, functools.partial(main, talk, deadline))

    return run


def old_hello() -> bytes:
    """A ClientHello that offers TLS 1.2 at most."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="a.test").do_handshake()
    return outgoing.read()


async def _refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(old_hello())
    alert = await reader.readexactly(7)
    assert (alert[0], alert[5], alert[6]) == (ALERT, FATAL, PROTOCOL_VERSION)


def test_a_client_is_told_why_its_handshake_failed(talk: Any) -> None:
    assert talk(_refused) is None


def test_after_the_alert_nothing_more_is_listened_to(talk: Any) -> None:
    async def insist(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        await _refused(reader, writer)
        writer.write(b"but still")
        return await reader.read()

    assert talk(insist, deadline=60) == b""


def test_a_client_that_stays_after_the_alert_is_closed_at_the_handshakes_deadline(talk: Any) -> None:
    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        await _refused(reader, writer)
        return await reader.read()

    assert talk(stay, deadline=0.2) == b""


def test_plain_http_is_closed_at_once(talk: Any) -> None:
    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")
        return await reader.read()

    assert len(talk(speak_http, deadline=60)) <= 7, "an alert at most"
