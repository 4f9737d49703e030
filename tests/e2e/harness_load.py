"""Steady traffic beside a test: requests at a given rate over kept-alive connections, and open event streams.

    with Load(gateway, rate=200, streams=10) as load:
        gateway.reload()
        load.run_for(1.0)
    assert load.failures == []

It judges as strictly as a client that repeats nothing: a request that was sent and got no whole answer has failed. A
connection that the gateway closed *before* the next request was sent is replaced, as any client does.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple, Self

import uvloop

from tests.e2e.harness import PATIENCE, Gateway, until

READY = "/models/demo/v2/health/ready"
_ERRORS = (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError)


class Answer(NamedTuple):
    at: float  # monotonic, when the request was sent
    seconds: float  # to the last byte
    status: int  # 0: none came
    worker: str  # which worker process answered, or had answered before on this connection; "" if none had
    problem: str  # "" for none


class Cut(NamedTuple):
    """A stream that ended before its last event."""

    worker: str
    problem: str


class Load:
    """`rate` requests a second over `connections`; `streams` streams of `tokens` events each, begun anew when they
    end. `is_kept` False: every request on a connection of its own."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        rate: float = 100.0,
        connections: int = 8,
        streams: int = 0,
        tokens: int = 2_000,
        is_kept: bool = True,
    ) -> None:
        self.gateway = gateway
        self.context = gateway.context
        self.rate = rate
        self.connections = connections
        self.streams = streams
        self.tokens = tokens
        self.is_kept = is_kept
        self.answers: list[Answer] = []
        self.cuts: list[Cut] = []
        self.ended = 0  # streams that came to their end
        self.events: Counter[int] = Counter()  # of each stream
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    # --- what a test looks at ---

    @property
    def failures(self) -> list[str]:
        """Requests that failed or were not answered with 200, and streams that were cut."""
        requests = [f"{a.status} {a.problem}" for a in list(self.answers) if a.status != 200 or a.problem]
        return requests + [cut.problem for cut in list(self.cuts)]

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def since(self, at: float) -> list[Answer]:
        """Answers to requests that were sent after `at` (monotonic)."""
        return [answer for answer in list(self.answers) if answer.at >= at]

    def quantile(self, share: float, answers: list[Answer] | None = None) -> float:
        """Seconds within which this share of the answers came."""
        ordered = sorted(answer.seconds for answer in (self.answers if answers is None else answers))
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def run_for(self, seconds: float) -> None:
        """Let it go on, at least until 10 more requests are answered."""
        count = len(self.answers)
        time.sleep(seconds)
        until(lambda: len(self.answers) >= count + 10, "more answers")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the load does not end"

    def __enter__(self) -> Self:
        self._thread.start()
        until(
            lambda: len(self.answers) >= min(self.rate, self.connections) and len(self.events) == self.streams,
            "the first answers",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- the traffic ---

    def _run(self) -> None:
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(self._all())
        finally:
            loop.close()

    async def _all(self) -> None:
        every = self.connections / self.rate if self.rate else 0.0
        requests = [
            asyncio.create_task(self._requests(every, every * i / self.connections)) for i in range(self.connections)
        ]
        streams = [asyncio.create_task(self._stream(i)) for i in range(self.streams)]
        while not self._stopping.is_set():
            await asyncio.sleep(0.01)
        await asyncio.gather(*requests)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    async def _requests(self, every: float, first: float) -> None:
        line = f"GET {READY} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.gateway.key}\r\n"
        data = (line + ("" if self.is_kept else "connection: close\r\n") + "\r\n").encode()
        pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        worker = ""
        due = time.monotonic() + first
        while self.rate and not self._stopping.is_set():
            await asyncio.sleep(due - time.monotonic())
            due = max(due + every, time.monotonic())
            if pair is not None and pair[0].at_eof():
                pair = self._closed(pair)
            worker = worker if pair else ""
            sent = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    pair = pair or await self._connect()
                    pair[1].write(data)
                    status, head, _ = await _read(pair[0])
            except _ERRORS as error:
                phase = "cut" if pair else "not connected"
                self.answers.append(Answer(sent, time.monotonic() - sent, 0, worker, f"{phase}: {error!r}"))
                pair = self._closed(pair)
                continue
            worker = worker_of(head["x-request-id"])
            self.answers.append(Answer(sent, time.monotonic() - sent, status, worker, ""))
            if head.get("connection") == "close":
                pair = self._closed(pair)
        self._closed(pair)

    async def _stream(self, index: int) -> None:
        ask = {"model": "demo", "stream": True, "max_tokens": self.tokens, "ignore_eos": True}
        body = json.dumps(ask | {"messages": [{"role": "user", "content": "go"}]})
        line = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.gateway.key}\r\n"
        data = f"{line}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        while not self._stopping.is_set():
            reader, writer = pair = await self._connect()
            worker = ""
            try:
                writer.write(data)
                status, head, _ = await _read(reader)
                worker = worker_of(head["x-request-id"])
                if status != 200:
                    raise ValueError(f"refused with {status}")
                await self._events_of(reader, index)
                self.ended += 1
            except _ERRORS as error:
                self.cuts.append(Cut(worker, f"stream {index} was cut after {self.events[index]} events: {error!r}"))
                return
            finally:
                self._closed(pair)

    async def _events_of(self, reader: asyncio.StreamReader, index: int) -> None:
        while True:
            size = int(await reader.readuntil(b"\r\n"), 16)
            await reader.readexactly(size + 2)
            if not size:
                return
            self.events[index] += 1

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.gateway.port, ssl=self.context, server_hostname="localhost"
        )

    def _closed(self, pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
        if pair is not None:
            with suppress(*_ERRORS):
                pair[1].transport.abort()


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    start, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(start.split()[1]), head, await reader.readexactly(int(head.get("content-length", 0)))


def worker_of(request_id: str) -> str:
    """What all requests of one worker process have in common, and those of no other."""
    return request_id.partition("-")[0]
