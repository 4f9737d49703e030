"""One request on its way upstream: a single attempt at one endpoint, and the answer passed on as it arrives."""

import asyncio
from collections.abc import Callable
from time import time
from typing import Final

from starlette.types import Receive, Scope, Send

from gateway.clock import monotonic
from gateway.config.settings import Timeouts
from gateway.core.endpoint import Endpoint
from gateway.core.headers import HOP_BY_HOP, get_all, nominated, without
from gateway.core.retry import asked_pause
from gateway.core.timeouts import reduced
from gateway.errors import ClientLeft, ConnectTimeout, DeadlineExceeded, GatewayError, UpstreamUnwilling
from gateway.model import Exchange, Header
from gateway.upstream.connection import Connection
from gateway.upstream.connections import Connections
from gateway.upstream.race import Race
from gateway.upstream.reply import Reply
from gateway.upstream.request import UNKNOWN_LENGTH, compose
from gateway.upstream.watch import Watch

_NOT_PASSED_BACK: Final = HOP_BY_HOP | {b"x-request-id"}  # the gateway's own is the one that logs know
_VIA: Final = (b"via", b"1.1 gateway")
_TICK: Final = 0.001  # seconds that uvloop's timers may be early: they count whole ones, from when its round began
_LATER: Final = 1.0  # seconds by which a sweep leaves a client's deadline to the alarm, which knows whose fault it is


Grants = Callable[["Call", Endpoint, str, float], bool]


class Means:
    """What a route's calls go upstream with."""

    def __init__(
        self,
        connections: dict[Endpoint, Connections],
        connect: Callable[[Endpoint], Connections],
        timeouts: Timeouts,
        loop: asyncio.AbstractEventLoop,
        *,
        is_host_kept: bool = False,
    ) -> None:
        """`connections` are those that there are; `connect` makes, and puts there, what is missing."""
        self.connections = connections
        self.connect = connect
        self.connect_within: float = timeouts.connect  # seconds, all four
        self.first_byte: float = timeouts.first_byte
        self.idle: float = timeouts.idle
        self.total: float = timeouts.total
        self.loop = loop
        self.is_host_kept = is_host_kept
        self.refusals: frozenset[int] = frozenset()  # statuses instead of which another attempt may be made
        self.grants: Grants | None = None  # asked whether it is


class Call:
    """One request on its way: what every attempt at it shares."""

    __slots__ = (
        "body",
        "exchange",
        "failures",
        "is_fresh",
        "is_granted",
        "is_head",
        "is_hurried",
        "is_sent",
        "is_whole",
        "means",
        "pause", "race",
        "receive",
        "scope",
        "send",
        "stale",
        "total",
        "tried",
        "watch",
    )  # fmt: skip

    def __init__(
        self, means: Means, scope: Scope, receive: Receive, send: Send, body: bytes, *, is_whole: bool
    ) -> None:
        self.means = means
        self.scope = scope
        self.exchange: Exchange = scope["exchange"]
        self.receive = receive
        self.send = send
        self.body = body
        self.is_whole = is_whole  # `body` is all of it, so that another attempt can send it again
        self.is_head = scope["method"] == "HEAD"
        self.is_sent = is_whole
        self.total = monotonic() + means.total  # when all must be over
        self.is_hurried = False  # the client wants it over at `total`
        self.tried: list[Endpoint] = []  # that failed it
        self.failures = 0  # attempts that failed, but for stale connections
        self.pause = 0.0  # seconds until the next attempt
        self.stale = 0  # kept-alive connections that had ended
        self.is_granted = False  # another attempt, instead of an answer that refuses
        self.is_fresh = False  # only a new connection will do
        self.race: Race | None = None  # with another attempt at the same request
        self.watch: Watch | None = None  # of the present attempt, where somebody watches

    def hurry(self, seconds: float) -> None:
        """The client gives the request so many seconds from its beginning. Raises DeadlineExceeded if they are over."""
        end = self.exchange.started + seconds
        if end < self.total:
            self.is_hurried = True
            self.total = end
        self.tell_time()

    @property
    def bound(self) -> float:
        """When a sweep of deadlines ends it."""
        return self.total + _LATER if self.is_hurried else self.total

    def tell_time(self) -> None:
        """Have the request say how much of its time is left. Raises DeadlineExceeded."""
        left = self.total - monotonic()
        if left <= 0 and self.is_hurried:
            raise DeadlineExceeded
        self.scope["headers"] = reduced(self.scope["headers"], left)

    async def attempt(self, endpoint: Endpoint) -> None:
        """Send the request to `endpoint` and its answer to the client. Raises GatewayError."""
        means, exchange = self.means, self.exchange
        connections = means.connections.get(endpoint) or means.connect(endpoint)
        # A body that cannot be sent twice never goes over a kept-alive connection, which may prove stale.
        connection = connections.take() if self.is_whole and not self.is_fresh else None
        if connection is None:
            connection = await self._open(connections)
        upload: asyncio.Task[None] | None = None
        alarm: asyncio.TimerHandle | None = None
        try:
            if exchange.departed:
                raise ClientLeft
            if self.race is None:
                exchange.on_leave = connection.cancel
            else:
                self.race.join(self, connection.cancel)
            if self.is_hurried:  # to the point, which sweeps of deadlines are not
                self.tell_time()
                left = self.total - monotonic() + _TICK
                alarm = means.loop.call_later(left, connection.fail, DeadlineExceeded())
            began = monotonic()
            connection.begin(self._request(connections), is_head=self.is_head)
            until = min(began + means.first_byte, self.bound)
            if not self.is_whole:
                until = self.bound
                upload = means.loop.create_task(self._upload(connection))
            answer = connection.expect(until)
            if answer is not None:
                await answer
            reply = connection.arrived()
            now = monotonic()
            is_good = reply.status < 429  # what says that the request was wrong is an answer like any other
            asked = 0.0
            if is_good:
                endpoint.observe(now - began, now)
                if endpoint.standing.is_trying:
                    endpoint.standing.restore(now)
            else:
                asked = asked_pause(reply.fields.get(b"retry-after"), time())
                assert exchange.pool is not None, "split comes first"
                is_good = exchange.pool.judge(endpoint, reply.status, asked, now)
            if self.watch is not None:
                self.watch.first_byte(reply.status, asked, now - began, now)
            if reply.status in means.refusals and self._is_refused(endpoint, reply):
                raise UpstreamUnwilling
            if self.race is not None:
                self.race.win(self, endpoint, now - began)
            await self._pass_on(connection, reply)
            if is_good:
                endpoint.standing.succeed(now)
        finally:
            if self.race is None:
                exchange.on_leave = None
            else:
                self.race.part(self)
            if upload is not None:
                upload.cancel()
            if alarm is not None:
                alarm.cancel()
            connections.give_back(connection, is_sent=self.is_sent)

    async def _open(self, connections: Connections) -> Connection:
        """A new connection, in the time that there is for it."""
        left = self.total - monotonic()
        try:
            return await connections.open(min(self.means.connect_within, left))
        except ConnectTimeout as error:
            if self.is_hurried and monotonic() >= self.total:
                raise DeadlineExceeded from error
            raise

    def _is_refused(self, endpoint: Endpoint, reply: Reply) -> bool:
        """The endpoint says that it cannot, and something else will be tried."""
        asked = asked_pause(reply.fields.get(b"retry-after"), time())
        grants, extras = self.means.grants, self.exchange.extras
        self.is_granted = grants is not None and grants(self, endpoint, str(reply.status), asked)
        return self.is_granted or (extras is not None and extras.may_fall_back)

    def _request(self, connections: Connections) -> bytes:
        length = len(self.body) if self.is_whole else self._declared()
        head = compose(self.scope, self.exchange, connections, length, is_host_kept=self.means.is_host_kept)
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
        means = self.means
        try:
            while True:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    connection.fail(ClientLeft())
                    return
                body: bytes = message.get("body", b"")
                if body:
                    await connection.write(_chunk(body) if is_chunked else body, means.idle)
                if not message.get("more_body", False):
                    break
        except GatewayError as error:
            connection.fail(error)
            return
        if is_chunked:
            await connection.write(b"0\r\n\r\n", means.idle)
        self.is_sent = True
        if not connection.reply.is_head_done:
            connection.deadline = min(monotonic() + means.first_byte, self.bound)

    async def _pass_on(self, connection: Connection, reply: Reply) -> None:
        """The answer, head first, then each part as it arrives."""
        send, idle, total = self.send, self.means.idle, self.bound
        exchange = self.exchange
        is_waiting = not reply.chunks and not reply.is_complete
        if is_waiting and (connection.error is not None or b"content-length" in reply.fields):
            # A body of known length is not long in coming, and one write takes both. If it does not come, the client
            # has seen nothing yet, and another endpoint may be asked.
            while not reply.chunks and not reply.is_complete:
                await connection.more(idle, total)
            is_waiting = False
        headers = passed_back(reply)
        headers += exchange.answer_headers
        edits = exchange.answer_edits
        while edits:  # taken out as they are used: an edit knows the exchange, and a cycle would outlive the request
            headers = edits.pop()(headers)
        exchange.answered = True
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if is_waiting:  # the first event may be long in coming
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        while True:
            while not reply.chunks and not reply.is_complete:
                await connection.more(idle, total)
            body = connection.take(total)
            is_last = reply.is_complete
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})
            if is_last:
                return


def passed_back(reply: Reply) -> list[Header]:
    """The answer's fields that go on to the client, and Via."""
    headers, dropped = reply.headers, _NOT_PASSED_BACK
    is_repeated = len(reply.fields) != len(headers)
    if is_repeated or reply.fields.get(b"connection", b"close").lower() not in (b"keep-alive", b"close"):
        dropped = _NOT_PASSED_BACK | nominated(get_all(headers, b"connection"))
    kept = without(headers, dropped)
    kept.append(_VIA)
    return kept


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
