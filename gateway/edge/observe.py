"""The outermost layer: every exchange that reaches the app is named, measured, counted and logged, however it ends."""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from gateway.core.client import Trust, client_ip, hops, is_sane_id, unmap
from gateway.core.headers import get
from gateway.core.metrics import Totals
from gateway.core.tally import count_verdict, record
from gateway.edge.journal import Journal
from gateway.edge.meters import Recorder
from gateway.errors import ClientLeft, GatewayError
from gateway.model import Exchange

Scope = dict[str, Any]


class Observe:
    """Sees each exchange from its head to its end. Make it after the fork: request ids start from its own dice."""

    def __init__(
        self,
        app: Any,
        *,
        recorder: Recorder,
        journal: Journal | None,
        trusted: Sequence[IPv4Network | IPv6Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`journal` None: no access log. `trusted`: proxies whose X-Forwarded-For and X-Request-Id are believed.
        `clock` is the one that `Exchange.started` was read from: the loop's counts on the same line, in whole
        milliseconds on uvloop."""
        self.app = app
        self.live: set[Exchange] = set()
        self._journal = journal
        self._totals = recorder.totals
        self._trusts = Trust(trusted) if trusted else None
        self._clock = clock
        # Unique, not secret: 64 random bits tell processes apart, a count tells their requests apart. A third of what
        # asking the kernel for 16 bytes each time costs.
        self._prefix = f"{os.urandom(8).hex()}-"
        self._count = itertools.count()
        recorder.before_flush(self._sample)
        if journal is not None:
            recorder.before_flush(journal.report)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange: Exchange | None = scope.get("exchange")
        if exchange is None:
            exchange = scope["exchange"] = Exchange("", self._clock(), "")
        self._name(scope, exchange)
        if not exchange.wire_counts:
            exchange.fields = dict(scope["headers"])
            wire = _Wire(exchange, receive, send, self._clock)
            receive, send = wire.receive, wire.send
        self.live.add(exchange)
        try:
            await self.app(scope, receive, send)
        finally:
            self.live.discard(exchange)
            self._finish(scope, exchange)

    def _name(self, scope: Scope, exchange: Exchange) -> None:
        """Who calls, and under what id: a proxy's word if it is trusted, else ours."""
        client = scope["client"]
        peer: str = client[0] if client else ""
        if peer[:2] == "::":
            peer = unmap(peer)
        given: bytes | None = None
        if self._trusts and self._trusts(peer):
            exchange.is_trusted = True
            peer = client_ip(peer, hops(scope["headers"]), self._trusts)
            given = get(scope["headers"], b"x-request-id")
        exchange.client_ip = peer
        if given is not None and is_sane_id(given):
            exchange.request_id = given.decode("ascii")
        else:
            exchange.request_id = f"{self._prefix}{next(self._count)}"
            given = exchange.request_id.encode()
        exchange.answer_headers.append((b"x-request-id", given))

    def _finish(self, scope: Scope, exchange: Exchange) -> None:
        ended = self._clock()
        if exchange.error is None and (exchange.departed or exchange.status == 0):
            # Whoever failed first is named: an upstream that broke off also makes us hang up on the client.
            exchange.error = ClientLeft() if exchange.departed else GatewayError()
        error = exchange.error
        model = exchange.route.name if exchange.route is not None else ""
        if error is not None:
            if exchange.status == 0 or isinstance(error, ClientLeft):
                exchange.status = error.status
            self._totals.count_error(model, error)
        if exchange.limit_verdict:
            count_verdict(self._totals, model, exchange.limit_verdict)
        version = exchange.pool.version if exchange.pool is not None else ""
        record(self._totals.meters.get((model, version)) or self._totals.meter(model, version), exchange, ended)
        if self._journal is not None:
            self._journal.record(scope, exchange, ended - exchange.started)

    def _sample(self, totals: Totals) -> None:
        totals.in_flight = dict(Counter(e.route.name if e.route is not None else "" for e in self.live))

    def __repr__(self) -> str:
        return f"<Observe live={len(self.live)} {self._totals!r}>"


class _Wire:
    """Counts what a foreign server does not: what passes through `receive` and `send`, and that the client left."""

    __slots__ = ("_clock", "_exchange", "_is_done", "_receive", "_send")

    def __init__(self, exchange: Exchange, receive: Any, send: Any, clock: Callable[[], float]) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._clock = clock
        self._is_done = False

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._exchange.bytes_in += len(message.get("body", b""))
        elif message["type"] == "http.disconnect" and not self._is_done and not self._exchange.departed:
            self._exchange.leave()
        return message

    def send(self, message: Any) -> Any:
        """Not a coroutine of its own: the server's is handed on, which saves a frame per chunk."""
        exchange = self._exchange
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
        elif message["type"] == "http.response.body":
            exchange.bytes_out += len(message.get("body", b""))
            if not exchange.first_byte:
                exchange.first_byte = self._clock()
            self._is_done = not message.get("more_body", False)
        return self._send(message)
