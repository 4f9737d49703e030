"""The end of every route's chain: pick an endpoint, lease it, attempt, retry, and pass the answer on as it arrives."""

import asyncio
import logging
from collections.abc import Callable
from random import Random
from time import monotonic

from starlette.types import Receive, Scope, Send

from gateway.config.settings import Timeouts
from gateway.core.endpoint import Endpoint
from gateway.core.headers import HOP_BY_HOP, get_all, nominated
from gateway.errors import ClientLeft, GatewayError, NoEndpoint, StaleConnection
from gateway.model import Exchange, Header
from gateway.upstream.connection import Connection
from gateway.upstream.connections import Connections
from gateway.upstream.reply import Reply
from gateway.upstream.request import UNKNOWN_LENGTH, compose

_log = logging.getLogger("gateway.upstream")

_NOT_PASSED_BACK = HOP_BY_HOP | {b"x-request-id"}  # the gateway's own is the one that logs know
_VIA = (b"via", b"1.1 gateway")
_RETRY_AFTER = (b"retry-after", b"1")  # seconds; a health check or a restart is rarely faster
_STALE_BOUND = 3  # stale connections in a row before the endpoint itself is doubted

KeyOf = Callable[[Scope, Exchange], bytes]


class Forward:
    """Forwards to the pool that the layers above chose. One for each route."""

    def __init__(
        self,
        *,
        connections: Callable[[Endpoint], Connections],
        key_of: KeyOf | None,
        timeouts: Timeouts,
        attempts: int,
        is_host_kept: bool,
        rng: Random,
    ) -> None:
        self.connections = connections
        self.key_of = key_of
        self.timeouts = timeouts
        self.attempts = attempts
        self.is_host_kept = is_host_kept
        self.rng = rng
        self.loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = message.get("body", b"")
        call = Call(self, scope, receive, send, body, is_whole=not message.get("more_body", False))
        tried: list[Endpoint] = []
        stale = 0
        while True:
            endpoint = exchange.endpoint = self.pick(scope, exchange, tried)
            exchange.attempts += 1
            try:
                with endpoint.lease():
                    await call.attempt(endpoint, is_fresh=stale >= _STALE_BOUND)
                return
            except GatewayError as error:
                if not error.is_retryable or exchange.departed:
                    raise
                if isinstance(error, StaleConnection):
                    stale += 1
                    continue
                tried.append(endpoint)
                if len(tried) >= self.attempts or not exchange.pool or not self.is_any_left(exchange, tried):
                    raise
                _log.info("request %s: %s: %s; trying another endpoint", exchange.request_id, endpoint.url, error)

    def pick(self, scope: Scope, exchange: Exchange, tried: list[Endpoint]) -> Endpoint:
        """The session's endpoint while it may be kept, else the policy's choice. Raises NoEndpoint."""
        pool = exchange.pool
        assert pool is not None, "split comes first"
        preferred = exchange.preferred
        if preferred is not None and preferred not in tried and preferred.may_keep:
            return preferred
        candidates = pool.candidates(tried)
        if not candidates:
            raise NoEndpoint(headers=[_RETRY_AFTER])
        key = self.key_of(scope, exchange) if self.key_of is not None else b""
        return pool.policy.pick(candidates, key, monotonic(), self.rng)

    def is_any_left(self, exchange: Exchange, tried: list[Endpoint]) -> bool:
        return bool(exchange.pool and exchange.pool.candidates(tried))


class Call:
    """One request on its way: what every attempt at it shares."""

    __slots__ = ("body", "exchange", "forward", "is_head", "is_sent", "is_whole", "receive", "scope", "send", "total")

    def __init__(
        self, forward: Forward, scope: Scope, receive: Receive, send: Send, body: bytes, *, is_whole: bool
    ) -> None:
        self.forward = forward
        self.scope = scope
        self.exchange: Exchange = scope["exchange"]
        self.receive = receive
        self.send = send
        self.body = body
        self.is_whole = is_whole  # `body` is all of it, so that another attempt can send it again
        self.is_head = scope["method"] == "HEAD"
        self.is_sent = is_whole
        self.total = monotonic() + forward.timeouts.total

    async def attempt(self, endpoint: Endpoint, *, is_fresh: bool) -> None:
        """Send the request to `endpoint` and its answer to the client. Raises GatewayError."""
        forward, exchange = self.forward, self.exchange
        connections = forward.connections(endpoint)
        # A body that cannot be sent twice never goes over a kept-alive connection, which may prove stale.
        connection = connections.take() if self.is_whole and not is_fresh else None
        if connection is None:
            connection = await connections.open(forward.timeouts.connect)
        upload: asyncio.Task[None] | None = None
        try:
            if exchange.departed:
                raise ClientLeft
            exchange.on_leave = connection.cancel
            began = monotonic()
            connection.begin(self._request(connections), is_head=self.is_head)
            if self.is_whole:
                reply = await connection.head(min(began + forward.timeouts.first_byte, self.total))
            else:
                upload = forward.loop.create_task(self._upload(connection))
                reply = await connection.head(self.total)
            now = monotonic()
            endpoint.observe(now - began, now)
            await self._pass_on(connection, reply)
        finally:
            exchange.on_leave = None
            if upload is not None:
                upload.cancel()
            connections.give_back(connection, is_sent=self.is_sent)

    def _request(self, connections: Connections) -> bytes:
        length = len(self.body) if self.is_whole else self._declared()
        head = compose(self.scope, self.exchange, connections, length, is_host_kept=self.forward.is_host_kept)
        if self.is_whole or length != UNKNOWN_LENGTH:
            return head + self.body
        return head + _chunk(self.body)

    def _declared(self) -> int:
        for name, value in self.scope["headers"]:
            if name == b"content-length":
                return int(value)
        return UNKNOWN_LENGTH

    async def _upload(self, connection: Connection) -> None:
        """Send the rest of the body as it comes from the client."""
        is_chunked = self._declared() == UNKNOWN_LENGTH
        timeouts = self.forward.timeouts
        try:
            while True:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    connection.fail(ClientLeft())
                    return
                body: bytes = message.get("body", b"")
                if body:
                    await connection.write(_chunk(body) if is_chunked else body, timeouts.idle)
                if not message.get("more_body", False):
                    break
        except GatewayError as error:
            connection.fail(error)
            return
        if is_chunked:
            await connection.write(b"0\r\n\r\n", timeouts.idle)
        self.is_sent = True
        if not connection.reply.is_head_done:
            connection.deadline = min(monotonic() + timeouts.first_byte, self.total)

    async def _pass_on(self, connection: Connection, reply: Reply) -> None:
        """The answer, head first, then each part as it arrives."""
        send, idle, total = self.send, self.forward.timeouts.idle, self.total
        exchange = self.exchange
        headers = passed_back(reply)
        headers += exchange.answer_headers
        edits = exchange.answer_edits
        while edits:  # taken out as they are used: an edit knows the exchange, and a cycle would outlive the request
            headers = edits.pop()(headers)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        is_waiting = not reply.chunks and not reply.is_complete and connection.error is None
        if is_waiting and b"content-length" not in reply.fields:
            # The first event may be long in coming. A body of known length is not, and one write takes both.
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        while True:
            body = await connection.read(idle, total)
            is_last = reply.is_complete and not reply.chunks
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})
            if is_last:
                return


def passed_back(reply: Reply) -> list[Header]:
    """The answer's fields that go on to the client, and Via."""
    headers, dropped = reply.headers, _NOT_PASSED_BACK
    is_repeated = len(reply.fields) != len(headers)
    if is_repeated or reply.fields.get(b"connection", b"close").lower() not in (b"keep-alive", b"close"):
        dropped = _NOT_PASSED_BACK | nominated(get_all(headers, b"connection"))
    kept = [header for header in headers if header[0] not in dropped]
    kept.append(_VIA)
    return kept


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
