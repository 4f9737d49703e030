"""Model servers that have names, and a resolver that answers as it is told, or not at all."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core.deadlines import Deadlines
from gateway.core.endpoint import Address
from gateway.errors import ConnectFailed, ConnectTimeout
from gateway.upstream.connections import Connections
from gateway.upstream.name import Name

Told = list[str] | OSError | None


class Resolver:
    """What the loop asks. `told`: addresses, how it fails, or None where it says nothing."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.count = 0

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.count += 1
        if self.told is None:
            await asyncio.sleep(60.0)
        if isinstance(self.told, OSError):
            raise self.told
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.told or ()]


def with_resolver(told: Told, test: Callable[[Resolver], Awaitable[None]]) -> None:
    async def main() -> None:
        resolver = Resolver(told)
        asyncio.get_running_loop().getaddrinfo = resolver.getaddrinfo  # type: ignore[method-assign,assignment]
        await test(resolver)

    asyncio.run(asyncio.wait_for(main(), 20))


async def reached(address: str) -> str:
    return address


def test_however_many_wait_for_a_name_that_nobody_answers_for_it_is_asked_for_once() -> None:
    async def test(resolver: Resolver) -> None:
        connections = Connections(Address.parse("http://slow.test:80"), Deadlines())
        opened = await asyncio.gather(*(connections.open(0.1) for _ in range(20)), return_exceptions=True)
        assert [type(each) for each in opened] == [ConnectTimeout] * 20
        with pytest.raises(ConnectTimeout):
            await connections.open(0.1)
        assert resolver.count == 1

    with_resolver(None, test)


@pytest.mark.parametrize("silence", [None, socket.gaierror(socket.EAI_AGAIN, "try again")])
def test_known_addresses_serve_while_the_resolver_says_nothing(silence: Told) -> None:
    async def test(resolver: Resolver) -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connections = Connections(Address.parse(f"http://good.test:{port}"), Deadlines())
        for told in (resolver.told, silence, silence):
            resolver.told = told
            (await connections.open(10.0)).abort()
        server.close()

    with_resolver(["127.0.0.1"], test)


def test_a_name_moves_with_its_addresses_and_goes_when_it_has_none() -> None:
    async def test(resolver: Resolver) -> None:
        connections = Connections(Address.parse("http://gone.test:80"), Deadlines())
        name = connections.name
        assert name is not None
        assert await name.reach(reached, 5.0) == "192.0.2.1"
        resolver.told = ["192.0.2.2"]
        assert await name.reach(reached, 5.0) == "192.0.2.2"
        resolver.told = socket.gaierror(socket.EAI_NONAME, "not known")
        with pytest.raises(ConnectFailed):
            await connections.open(5.0)

    with_resolver(["192.0.2.1"], test)


def test_an_address_that_says_nothing_leaves_time_for_the_next() -> None:
    async def connect(address: str) -> str:
        if address == "192.0.2.1":
            await asyncio.sleep(60.0)
        if address == "192.0.2.2":
            raise ConnectionRefusedError
        return address

    async def test(_: Resolver) -> None:
        assert await Name("many.test", 80).reach(connect, 0.6) == "192.0.2.3"

    with_resolver(["192.0.2.1", "192.0.2.2", "192.0.2.3"], test)


@pytest.mark.parametrize("url", ["http://127.0.0.1:80", "http://[::1]:80"])
def test_an_address_is_not_looked_up(url: str) -> None:
    async def test(_: Resolver) -> None:
        assert Connections(Address.parse(url), Deadlines()).name is None

    with_resolver(None, test)
