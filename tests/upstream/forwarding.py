"""A `Forward` between a caller and scripted model servers on loopback, in one process: no gateway around it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from time import monotonic
from typing import Any

from gateway.app import retry_rules
from gateway.config.settings import RetrySettings, Timeouts
from gateway.core.deadlines import Deadlines
from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.outcome import Outcome
from gateway.core.pick.turns import RoundRobin
from gateway.core.pool import Pool
from gateway.core.retry import Budget
from gateway.core.snapshot import Route
from gateway.core.split import Split
from gateway.errors import GatewayError
from gateway.model import Exchange, Header
from gateway.upstream.call import Means
from gateway.upstream.connections import Connections
from gateway.upstream.forward import Forward
from gateway.upstream.retrier import Retrier

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PATIENCE = 20.0  # seconds: a busy machine is no failure


class Server:
    """A model server: what it was asked, and what it answers."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.heads: list[bytes] = []
        self.left = 0  # connections that ended before their answer did
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                if b"transfer-encoding: chunked" in self.heads[-1]:
                    await reader.readuntil(b"0\r\n\r\n")
                await reader.readexactly(int(self.field(b"content-length") or 0))
                await self.peer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def field(self, name: bytes, index: int = -1) -> bytes | None:
        """A field of a request that came."""
        for line in self.heads[index].split(b"\r\n")[1:]:
            key, _, value = line.partition(b": ")
            if key == name:
                return value
        return None


def answering(body: bytes = b"ok", status: int = 200, fields: bytes = b"", *, after: float = 0.0) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after)
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), fields, body))

    return peer


async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request and ends the connection."""
    writer.close()


async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing until the other side leaves."""
    if not await reader.read(1):
        raise ConnectionError


class Answer:
    """What the caller got."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.body = b""
        self.is_complete = False

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not self.status, "an answer starts once"
            self.status = message["status"]
            self.headers = list(message["headers"])
        else:
            self.body += message.get("body", b"")
            self.is_complete = not message.get("more_body", False)


class Notes:
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.outcomes: list[Outcome] = []

    def began(self, request: Any, endpoint: Endpoint, now: float) -> None:
        self.told.append(("began", request))

    def first_byte(self, request: Any, endpoint: Endpoint, seconds: float, now: float) -> None:
        assert seconds > 0
        self.told.append(("first byte", request))

    def ended(self, request: Any, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        self.told.append(("ended", request))
        self.outcomes.append(outcome)


class Bench:
    """One pool of `urls`, all up, and a forwarder to it."""

    def __init__(self, urls: Sequence[str], options: dict[str, Any], watchers: tuple[Notes, ...] = ()) -> None:
        row = Row([Health.UP] * len(urls), [0] * len(urls))
        self.deadlines = Deadlines()
        self.endpoints = [Endpoint(url, slot, row) for slot, url in enumerate(urls)]
        self.pool = Pool("m", "v1", self.endpoints, RoundRobin(self.endpoints), ("m", None), watchers=watchers)
        self.route = Route("m", {"v1": self.pool}, Split({"v1": None}, None), chain=_nowhere)
        self.connections = {e: Connections(e.address, self.deadlines) for e in self.endpoints}
        retry = RetrySettings(**options.pop("retry", {}))
        self.budget = Budget(retry.budget.percent / 100, retry.budget.min_per_second, monotonic())
        timeouts = Timeouts(**options.pop("timeouts", {}))
        self.forward = Forward(
            means=Means(self.connections, self.connections.__getitem__, timeouts, asyncio.get_running_loop()),
            key_of=options.pop("key_of", None),
            retrier=Retrier(retry_rules(retry), self.budget, retry.buffer, Random(1)),
            rng=Random(1),
            **options,
        )

    async def sweep(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.deadlines.sweep(monotonic())

    async def ask(
        self,
        method: str = "GET",
        fields: Sequence[Header] = (),
        body: bytes | Sequence[bytes] = b"",
        exchange: Exchange | None = None,
        answer: Answer | None = None,
    ) -> Answer:
        """Raises GatewayError, as the layers above would see it; `exchange.error` is theirs to set."""
        exchange = exchange or self.exchange()
        exchange.fields = dict(fields)
        scope = {
            "method": method, "scheme": "https", "http_version": "1.1", "query_string": b"", "client": ("127.0.0.1", 1),
            "headers": list(fields), "exchange": exchange,
        }  # fmt: skip
        answer = answer or Answer()
        parts = [body] if isinstance(body, bytes) else list(body)

        async def receive() -> dict[str, Any]:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        await self.forward(scope, receive, answer.send)
        return answer

    async def error(self, *args: Any, **options: Any) -> GatewayError:
        """What `ask` raises."""
        try:
            answer = await self.ask(*args, **options)
        except GatewayError as error:
            return error
        raise AssertionError(f"answered {answer.status} {answer.body!r}")

    def exchange(self) -> Exchange:
        exchange = Exchange("r-1", monotonic(), "127.0.0.1")
        exchange.path = b"/x"
        exchange.route, exchange.pool = self.route, self.pool
        return exchange

    def close(self) -> None:
        for connections in self.connections.values():
            connections.close()


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("a bench calls its forwarder itself")


Test = Callable[..., Awaitable[None]]


def run(test: Test, *peers: Peer | None, watchers: tuple[Notes, ...] = (), **options: Any) -> None:
    """`test(bench, *servers)` with a pool of these peers; None is a port where nobody listens."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            servers = [Server(peer or breaking) for peer in peers]
            for server, peer in zip(servers, peers, strict=True):
                listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
                server.port = listener.sockets[0].getsockname()[1]
                if peer is None:
                    listener.close()
                else:
                    stack.callback(listener.close)
            bench = Bench([server.url for server in servers], options, watchers)
            stack.callback(bench.close)
            sweeping = asyncio.create_task(bench.sweep())
            stack.callback(sweeping.cancel)
            await test(bench, *servers)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
