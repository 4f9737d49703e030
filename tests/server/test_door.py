"""The operator's door, over a socket: what became of the app is asserted, and of who asked."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.config.settings import Limits
from gateway.server.door import Door


@asynccontextmanager
async def open_door(app: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a door whose clients have a tenth of a second for a head."""
    door = Door(app, Limits.model_validate({"headers_timeout": "100ms"}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(door.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        yield reader, writer
        writer.close()
        door.stop()
        await asyncio.wait_for(serving, 20)


def test_who_does_not_end_a_head_is_told_so_and_let_go() -> None:
    async def main() -> bytes:
        async with open_door(None) as (reader, writer):
            writer.write(b"GET /status HTT")
            return await asyncio.wait_for(reader.read(), 20)

    assert asyncio.run(main()).startswith(b"HTTP/1.1 408 ")


def test_what_was_asked_for_is_done_though_who_asked_has_left() -> None:
    async def main() -> None:
        begun, done = asyncio.Event(), asyncio.Event()

        async def reload(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await asyncio.sleep(0.1)
            done.set()

        async with open_door(reload) as (_, writer):
            writer.write(b"POST /reload HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await asyncio.wait_for(begun.wait(), 20)
            writer.transport.abort()
            await asyncio.wait_for(done.wait(), 20)

    asyncio.run(main())
