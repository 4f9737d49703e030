"""A model server that reads what it is sent, and streams if it is asked to. Its CPU is never counted.

usage: python -m bench.upstream.server PORT...

Without `?rate=` in its target, a request is answered when all of it has arrived. With it, at once, by an endless stream
of events (OpenAI's form, chunked), so many a second; 0 is one event, and then silence.
"""

import asyncio
import random
import re
import sys
from typing import cast

import uvloop

_ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 24\r\n\r\n{"object":"list","n":10}'
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
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Server(asyncio.Protocol):
    """A connection: requests one after another, until one asks for a stream."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.head = b""
        self.awaited = 0  # bytes of the request's body that are still to come
        self.is_streaming = False
        self.is_closed = False
        self.interval = 0.0
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.is_streaming:
            return  # the rest of the request
        if self.awaited:
            self._on_body(len(data))
            return
        self.head += data
        head, end, body = self.head.partition(b"\r\n\r\n")
        if not end:
            return
        self.head = b""
        asked = _RATE.search(head.split(b"\r\n", 1)[0])
        if asked:
            self._stream(int(asked[1]))
            return
        length = _LENGTH.search(head)
        self.awaited = int(length[1]) if length else 0
        self._on_body(len(body))

    def _on_body(self, size: int) -> None:
        self.awaited -= size
        if self.awaited <= 0:
            self.transport.write(_ANSWER)

    def _stream(self, rate: int) -> None:
        self.is_streaming = True
        self.transport.write(_HEAD + _CHUNK)
        if rate:
            self.interval = 1 / rate
            self.due = self.loop.time() + random.random() * self.interval  # streams are not in step
            self.loop.call_at(self.due, self._tick)

    def _tick(self) -> None:
        if self.is_closed:
            return
        self.transport.write(_CHUNK)
        self.due += self.interval
        self.loop.call_at(self.due, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True


async def main(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Server, "127.0.0.1", port, backlog=4096) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main([int(port) for port in sys.argv[1:]]))
