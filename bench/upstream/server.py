"""A model server that streams: every request is answered with an endless stream of events (OpenAI's form, chunked).

usage: python -m bench.upstream.sse PORT...        `?rate=N` in a target: events a second; 0: one, and then silence
"""

import asyncio
import random
import re
import sys
from typing import cast

import uvloop

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"demo",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_RATE = re.compile(rb"[?&]rate=(\d+)")


class Stream(asyncio.Protocol):
    """A connection, and the one stream on it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.received = b""
        self.is_started = False
        self.is_closed = False
        self.interval = 0.0
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.is_started:
            return  # the rest of the request
        self.received += data
        if b"\r\n\r\n" not in self.received:
            return
        self.is_started = True
        found = _RATE.search(self.received.split(b"\r\n", 1)[0])
        rate = int(found[1]) if found else 0
        self.transport.write(_HEAD + _CHUNK)
        if rate:
            self.interval = 1 / rate
            self.due = self.loop.time() + random.random() * self.interval  # streams are not in step
            self.loop.call_at(self.due, self.tick)

    def tick(self) -> None:
        if self.is_closed:
            return
        self.transport.write(_CHUNK)
        self.due += self.interval
        self.loop.call_at(self.due, self.tick)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True


async def main(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Stream, "127.0.0.1", port, backlog=4096) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main([int(port) for port in sys.argv[1:]]))
