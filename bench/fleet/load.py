"""Clients of several balancers at one time: each gets the same requests at the same moments.

usage: python -m bench.fleet.load CERTIFICATE <
    {"began": …, "speed": …, "asks": [[at, parts, output], …], "urls": {name: url}}
where "began" is the time 0 of the requests, by CLOCK_MONOTONIC; now if that has passed.
Prints {name: [[status, seconds to the first token, seconds to the end], …]}; status 0: no whole answer came.
"""

import asyncio
import gc
import json
import ssl
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import uvloop

_TOKEN = 4  # characters
_PATIENCE = 300.0  # seconds that an answer may take
Result = tuple[int, float, float]


def text(parts: list[tuple[str, int]]) -> str:
    """Equal parts have equal texts, different ones differ from their first characters on."""
    return "".join(
        (f"{name}, " * (tokens * _TOKEN // (len(name) + 2) + 1))[: tokens * _TOKEN] for name, tokens in parts
    )


class Client:
    """Kept-alive connections to one balancer."""

    def __init__(self, url: str, certificate: str) -> None:
        found = urlsplit(url)
        self.host, self.port = found.hostname or "", found.port or 0
        self.path = found.path.encode()
        self.tls = ssl.create_default_context(cafile=certificate) if found.scheme == "https" else None
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, body: bytes) -> Result:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._ask(body, began)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            return 0, 0.0, time.monotonic() - began

    async def _ask(self, body: bytes, began: float) -> Result:
        while self.idle and self.idle[-1][0].at_eof():
            self.idle.pop()[1].close()  # idle for too long, as the other side has it
        if self.idle:
            reader, writer = self.idle.pop()
        else:
            name = "localhost" if self.tls else None
            reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls, server_hostname=name)
        is_kept = False
        try:
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % (self.path, len(body))
            )
            writer.write(body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ", 2)[1])
            first = 0.0
            if b"transfer-encoding: chunked" in head:
                while (size := int((await reader.readuntil(b"\r\n"))[:-2], 16)) > 0:
                    data = await reader.readexactly(size + 2)
                    if not first and b"data:" in data:
                        first = time.monotonic() - began
                await reader.readexactly(2)
            else:
                length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length or b"0"))
            is_kept = b"connection: close" not in head
            return status, first, time.monotonic() - began
        finally:
            if is_kept:
                self.idle.append((reader, writer))
            else:
                writer.transport.abort()


async def main(plan: dict[str, Any], certificate: str) -> None:
    clients = {name: Client(url, certificate) for name, url in plan["urls"].items()}
    results: dict[str, list[Result]] = {name: [(0, 0.0, 0.0)] * len(plan["asks"]) for name in clients}
    tasks: set[asyncio.Task[None]] = set()
    gc.disable()

    async def one(name: str, number: int, body: bytes) -> None:
        results[name][number] = await clients[name].ask(body)

    began = max(plan["began"], time.monotonic())
    for number, (at, parts, output) in enumerate(plan["asks"]):
        body = {"model": "demo", "messages": [{"role": "user", "content": text(parts)}], "max_tokens": output}
        data = json.dumps({**body, "stream": True}).encode()
        await asyncio.sleep(began + at / plan["speed"] - time.monotonic())
        for name in clients:
            task = asyncio.get_running_loop().create_task(one(name, number, data))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)
    print(json.dumps(results))


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.stdin.readline()), sys.argv[1]))
