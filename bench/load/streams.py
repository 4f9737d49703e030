"""Clients that each hold one stream open and count its events.

usage: python -m bench.load.streams URL STREAMS BEARERS CERTIFICATE
`READY` is printed when all are open; then every line on standard input is answered with {"events": …, "open": …}.
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

_AT_ONCE = 32  # handshakes
_BODY = b'{"model":"demo","messages":[{"role":"user","content":"hi"}],"stream":true}'


class Client(asyncio.Protocol):
    """One stream."""

    events = 0  # of all clients
    open = 0

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.started.done():
            if not data.startswith(b"HTTP/1.1 200"):
                self.started.set_exception(RuntimeError(data[:200].decode("latin-1")))
                return
            self.started.set_result(None)
            Client.open += 1
        Client.events += data.count(b"\n\n")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.started.done():
            Client.open -= 1
        else:
            self.started.set_exception(RuntimeError(f"closed before an answer: {exc}"))


async def open_all(url: str, bearers: list[str], count: int, certificate: str) -> list[Client]:
    parts = urlsplit(url)
    tls = ssl.create_default_context(cafile=certificate) if parts.scheme == "https" else None
    gate = asyncio.Semaphore(_AT_ONCE)
    loop = asyncio.get_running_loop()
    port = parts.port or 443

    async def open_one(number: int) -> Client:
        head = (
            f"POST {parts.path}?{parts.query} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"accept: text/event-stream\r\nauthorization: Bearer {bearers[number % len(bearers)]}\r\n"
            f"content-length: {len(_BODY)}\r\n\r\n"
        )
        async with gate:
            name = "localhost" if tls else None
            _, client = await loop.create_connection(
                lambda: Client(head.encode() + _BODY), "127.0.0.1", port, ssl=tls, server_hostname=name
            )
            await client.started
        return client

    return await asyncio.gather(*(open_one(number) for number in range(count)))


async def main(url: str, count: int, bearers: list[str], certificate: str) -> None:
    clients = await open_all(url, bearers, count, certificate)
    print("READY", flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while await commands.readline():
        print(json.dumps({"events": Client.events, "open": Client.open}), flush=True)
    for client in clients:
        client.transport.abort()


if __name__ == "__main__":
    _, url, count, bearers, certificate = sys.argv
    uvloop.run(main(url, int(count), Path(bearers).read_text().split(), certificate))
