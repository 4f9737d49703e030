"""Requests at a constant rate, whether or not answers come (an open loop): what a closed one hides while it waits is
measured here, because the clock of a request starts when it is due, not when a connection is free.

usage: python -m bench.load.paced URL RATE SECONDS CONNECTIONS BEARERS CERTIFICATE
Prints {"requests", "p50", "p99", "behind"}: latencies in microseconds; how many requests were still due at the end.
"""

import asyncio
import ctypes
import gc
import json
import os
import re
import ssl
import sys
import time
from collections import deque
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

_BODY = b'{"model":"demo","messages":[{"role":"user","content":"hi there"}],"temperature":0.7,"max_tokens":64}'
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_WARM_SECONDS = 0.5  # before the first latency that counts


class _Interval(ctypes.Structure):
    """struct itimerspec (timerfd_create(2)): the event loop's own timers know nothing below a millisecond."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


def ticker(first: int, interval: int) -> int:
    """A descriptor that is readable from `first` (monotonic) every `interval`, both in nanoseconds. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    times = _Interval(*divmod(interval, 10**9), *divmod(first, 10**9))
    if descriptor < 0 or libc.timerfd_settime(descriptor, _ABSOLUTE, ctypes.byref(times), None):
        raise OSError(ctypes.get_errno(), "no timerfd")
    return int(descriptor)


class Pacer:
    """The due requests, the free connections, the latencies. Times are monotonic nanoseconds."""

    def __init__(self, rate: float) -> None:
        self.interval = round(1e9 / rate)
        self.next_due = 0
        self.descriptor = -1
        self.due: deque[int] = deque()
        self.free: deque[Connection] = deque()
        self.latencies: list[int] = []
        self.failure = ""
        self.is_over = False

    def start(self) -> None:
        self.next_due = time.monotonic_ns() + 10**7
        self.descriptor = ticker(self.next_due, self.interval)

    def tick(self) -> None:
        for _ in range(int.from_bytes(os.read(self.descriptor, 8), sys.byteorder)):
            self.due.append(self.next_due)
            self.next_due += self.interval
        while self.due and self.free:
            self.free.popleft().begin(self.due.popleft())

    def done(self, connection: "Connection") -> None:
        if self.due:
            connection.begin(self.due.popleft())
        else:
            self.free.append(connection)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pacer: Pacer, request: bytes) -> None:
        self.pacer = pacer
        self.request = request
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.due = 0
        self.answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def begin(self, due: int) -> None:
        self.due = due
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.answer = answer = self.answer + data if self.answer else data
        head = answer.find(b"\r\n\r\n")
        found = _LENGTH.search(answer) if head >= 0 else None
        if found is None or len(answer) < head + 4 + int(found[1]):
            return
        self.answer = b""
        if not answer.startswith(b"HTTP/1.1 200"):
            self.pacer.failure = answer[:200].decode("latin-1")
        self.pacer.latencies.append(time.monotonic_ns() - self.due)
        self.pacer.done(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.pacer.is_over:
            self.pacer.failure = self.pacer.failure or f"a connection was closed: {exc}"


async def run(url: str, rate: float, seconds: float, connections: int, bearers: list[str], certificate: str) -> Pacer:
    parts = urlsplit(url)
    tls = ssl.create_default_context(cafile=certificate) if parts.scheme == "https" else None
    loop = asyncio.get_running_loop()
    pacer = Pacer(rate)
    for number in range(connections):
        head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {bearers[number % len(bearers)]}\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        )
        request = head.encode() + _BODY
        _, connection = await loop.create_connection(
            lambda request=request: Connection(pacer, request),
            "127.0.0.1",
            parts.port or 443,
            ssl=tls,
            server_hostname="localhost" if tls else None,
        )
        pacer.free.append(connection)
    pacer.start()
    loop.add_reader(pacer.descriptor, pacer.tick)
    await asyncio.sleep(_WARM_SECONDS)
    pacer.latencies.clear()
    await asyncio.sleep(seconds)
    loop.remove_reader(pacer.descriptor)
    pacer.is_over = True
    return pacer


def main(url: str, rate: str, seconds: str, connections: str, bearers: str, certificate: str) -> None:
    gc.disable()
    words = Path(bearers).read_text().split()
    pacer = uvloop.run(run(url, float(rate), float(seconds), int(connections), words, certificate))
    if pacer.failure or not pacer.latencies:
        sys.exit(pacer.failure or "no answer at all")
    found = sorted(pacer.latencies)
    count = len(found)
    p50, p99 = (found[min(count - 1, count * share // 100)] / 1e3 for share in (50, 99))
    print(json.dumps({"requests": count, "p50": p50, "p99": p99, "behind": len(pacer.due)}))


if __name__ == "__main__":
    main(*sys.argv[1:7])
