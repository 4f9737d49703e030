"""The client's side of `EdgeProtocol` without sockets: bytes in, by any split; what the app got and the client saw out.

The app forwards as `upstream/` does: what a model server would receive is composed by the same code, so that a strict
judge can look at it. Thousands of cases a second, which real processes cannot give.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from uvicorn.server import ServerState

from gateway.config.settings import Limits
from gateway.core.deadlines import Deadlines
from gateway.core.endpoint import Address
from gateway.errors import GatewayError
from gateway.server.protocol import EdgeProtocol
from gateway.server.stoppable import edge_config
from gateway.upstream.connections import Connections
from gateway.upstream.request import UNKNOWN_LENGTH, compose

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
_ROUNDS = 6  # turns of the loop in which an app that waits for nothing but the body comes to rest

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class Transport:
    """What a protocol needs of a transport."""

    def __init__(self) -> None:
        self.waiting = 0  # bytes that the client has yet to take
        self.written = bytearray()
        self.is_closed = False
        self.is_aborted = False
        self.is_reading = True

    def write(self, data: bytes) -> None:
        assert not self.is_closed, "bytes behind the end"
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.1", 1000), "sockname": ("192.0.2.2", 443)}.get(name)


@dataclass
class Outcome:
    """What became of one connection's bytes."""

    forwarded: list[bytes] = field(default_factory=list)  # each request, as a model server would receive it
    statuses: list[int] = field(default_factory=list)  # of the answers, interim ones left out
    is_closed: bool = False
    is_aborted: bool = False
    written: bytes = b""
    loop_errors: list[str] = field(default_factory=list)


class Client:
    """One connection to a protocol; a running loop is needed."""

    def __init__(self, *, limits: Limits | None = None, app: App | None = None) -> None:
        self.outcome = Outcome()
        self.transport = Transport()
        self.deadlines = Deadlines()
        self.origin = Connections(Address.parse("http://origin:80"), self.deadlines)
        config = edge_config(app or self._forward, limits or Limits(), self.deadlines)
        config.load()
        state = ServerState()
        state.default_headers = []
        self.protocol = EdgeProtocol(config, state, {})
        self.protocol.connection_made(cast(asyncio.Transport, self.transport))

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            if self.transport.is_closed:
                break
            self.protocol.data_received(piece)
            await settle(1)

    async def finish(self) -> Outcome:
        """Let the app come to rest, then leave."""
        await settle()
        outcome = self.outcome
        outcome.is_closed, outcome.is_aborted = self.transport.is_closed, self.transport.is_aborted
        outcome.written = bytes(self.transport.written)
        outcome.statuses = [status for status in map(int, STATUS.findall(outcome.written)) if status >= 200]
        self.protocol.connection_lost(None)
        await settle(2)
        return outcome

    async def _forward(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers 200 to what can be forwarded, and the refusal's status to what cannot."""
        exchange = scope["exchange"]
        try:
            if "refusal" in scope:
                raise scope["refusal"]
            exchange.request_id = "id"
            exchange.path = scope["raw_path"]
            body, more = b"", True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                more = message.get("more_body", False)
        except GatewayError as error:
            await answer(send, error.status)
            return
        chunked = b"transfer-encoding" in exchange.fields
        head = compose(scope, exchange, self.origin, UNKNOWN_LENGTH if chunked else len(body), is_host_kept=False)
        if chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        self.outcome.forwarded.append(head + body)
        await answer(send, 200)


async def answer(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def settle(rounds: int = _ROUNDS) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0)


def outcomes(cases: Iterable[Sequence[bytes]], *, limits: Limits | None = None) -> list[Outcome]:
    """Each case, a connection's bytes in pieces, on a connection of its own."""

    async def all_of_them() -> list[Outcome]:
        found = []
        errors: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(repr(context)))
        for pieces in cases:
            client = Client(limits=limits)
            await client.send(*pieces)
            outcome = await client.finish()
            outcome.loop_errors, errors[:] = list(errors), []
            found.append(outcome)
        return found

    return asyncio.run(all_of_them())
