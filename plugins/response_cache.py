"""Answers that were given before, given again: for models whose answer depends on the request alone.

A cache of exact matches, in each worker's memory, with the rules of a shared cache (RFC 9111) and one addition: POST
is cached too, by the bytes of its body. Equal requests that arrive while the first is under way wait for its answer
instead of asking the model again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import blake2b
from math import inf

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ClientLeft
from gateway.model import Exchange, Header, Principal
from gateway.plugin import exchange_of, parse_duration, parse_size, read_body
from plugins.answers import Answer, Freshness, Store, directives, seconds

# What a model server may choose an answer by, whether or not it says so with Vary.
_ALWAYS = (b"accept", b"accept-encoding", b"content-encoding", b"content-type", b"host")
# What may stand for a person: never shared unless the operator says that it may be.
_PRIVATE = (b"api-key", b"authorization", b"cookie", b"x-api-key")
# These ask for a part of an answer or for a comparison with one; the upstream decides them.
_BYPASSING = frozenset(
    (b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"range")
)
# Of one connection or one exchange, so not of the answer (RFC 9110, 7.6.1).
_UNSTORED = frozenset(
    (
        b"age", b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade", b"x-cache", b"x-request-id",
    )
)  # fmt: skip
_WAIT = 60.0  # seconds that a request waits for an equal one; a slow reader ahead of it costs it no more


class ResponseCache:
    """`ttl`: how long an answer is given again, at most; the answer's own max-age may make it shorter.

    `max_bytes` bounds the whole cache of a worker (the least recently used go first), `max_entry_bytes` an answer and
    a request's body; what is larger passes by. `vary` names headers that the answer depends on. `shared` lets all
    callers have each other's answers; else each principal has its own.
    """

    needs_route = True  # before authentication it would answer whoever asks

    def __init__(
        self,
        app: ASGIApp,
        *,
        ttl: str | float,
        max_bytes: str | int = "64MiB",
        max_entry_bytes: str | int = "1MiB",
        vary: Sequence[str] = (),
        methods: Sequence[str] = ("GET", "POST"),
        shared: bool = False,
    ) -> None:
        if not isinstance(shared, bool):
            raise TypeError(f"`shared` must be true or false, not {shared!r}")
        self.app = app
        self.ttl = parse_duration(ttl)
        self.max_entry_bytes = parse_size(max_entry_bytes)
        self.store = Store(parse_size(max_bytes))
        self.methods = frozenset(_names("methods", methods))
        self.shared = shared
        fields = {name.lower().encode() for name in _names("vary", vary)}
        self.key_fields = tuple(sorted(fields.union(_ALWAYS, () if shared else _PRIVATE)))
        self.flights: dict[bytes, Flight] = {}
        self.clock: Callable[[], float] = time.monotonic
        if self.ttl <= 0:
            raise ValueError("`ttl` must be more than 0")
        if not 0 < self.max_entry_bytes <= self.store.max_bytes:
            raise ValueError("`max_entry_bytes` must be more than 0 and at most `max_bytes`")
        if not self.methods or not self.methods <= {"GET", "POST"}:
            raise ValueError(f"`methods` may be GET and POST, not {sorted(self.methods)}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._asked(scope)
        if asked is None:
            await self.app(scope, receive, send)
            return
        body, receive = await read_body(scope, receive, self.max_entry_bytes)
        if body is None:
            await self.app(scope, receive, send)
            return
        exchange = exchange_of(scope)
        key = self._key(scope, exchange, body)
        if "no-cache" in asked:  # RFC 9111, 5.2.1.4: not from the cache, though the answer may be kept
            await self._fetch(scope, receive, send, Flight(self, key, exchange))
            return
        while True:
            now = self.clock()
            answer = self.store.get(key, now)
            if answer is not None and answer.age(now) <= seconds(asked.get("max-age"), inf):
                await answer.give(exchange, send, now)
                return
            ahead = self.flights.get(key)
            if ahead is None:
                flight = self.flights[key] = Flight(self, key, exchange)
                await self._fetch(scope, receive, send, flight)
                return
            if await ahead.landing(exchange) is Landing.ALONE:
                await self.app(scope, receive, send)
                return

    async def _fetch(self, scope: Scope, receive: Receive, send: Send, flight: "Flight") -> None:
        async def recorded(message: Message) -> None:
            flight.record(message)
            await send(message)

        try:
            await self.app(scope, receive, recorded)
        except (ClientLeft, asyncio.CancelledError):
            flight.land(Landing.AGAIN)
            raise
        finally:
            flight.land(Landing.AGAIN if flight.exchange.departed else Landing.ALONE)

    def _asked(self, scope: Scope) -> dict[str, str] | None:
        """The request's Cache-Control directives; None if it is none of the cache's business."""
        if scope["type"] != "http" or scope["method"] not in self.methods or exchange_of(scope).route is None:
            return None
        values = []
        for name, value in scope["headers"]:
            if name in _BYPASSING:
                return None
            if name == b"cache-control":
                values.append(value)
        asked = directives(values)
        return None if "no-store" in asked else asked

    def _key(self, scope: Scope, exchange: Exchange, body: bytes) -> bytes:
        """Everything that the answer may depend on. Lengths are part of it, so that no field can pose as another."""
        found: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in self.key_fields:
                found[name] = found[name] + b"," + value if name in found else value
        parts = [
            scope["method"].encode(),
            exchange.path,
            scope.get("raw_path") or scope["path"].encode(),
            scope["query_string"],
            exchange.route.name.encode() if exchange.route is not None else None,
            exchange.version.encode() if exchange.version is not None else None,
            *map(found.get, self.key_fields),
        ]
        allowed = exchange.allowed_versions  # where the client names none, the answer is one of these versions'
        parts += [b"*"] if allowed is None else [b"%d" % len(allowed), *(version.encode() for version in allowed)]
        if not self.shared:
            parts += _identity(exchange.principal)
        digest = blake2b(digest_size=32)
        for part in parts:
            digest.update(b"-:" if part is None else b"%d:%b" % (len(part), part))
        digest.update(body)
        return digest.digest()

    def __repr__(self) -> str:
        return f"<ResponseCache {self.store!r} under_way={len(self.flights)}>"


class Landing(Enum):
    """What those who waited for an answer do now."""

    AGAIN = auto()  # look once more: it is in the store, or its client left and one of them asks instead
    ALONE = auto()  # each asks for itself: it cannot be shared


@dataclass(slots=True, eq=False)
class Flight:
    """One answer on its way from the model, and the requests that wait for it."""

    cache: ResponseCache
    key: bytes
    exchange: Exchange  # of the request that asked
    waiting: dict[asyncio.Future[Landing], None] = field(default_factory=dict)  # in the order they came
    landed: Landing | None = None
    headers: list[Header] | None = None  # None: not recorded
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    born: float = 0.0
    expires: float = 0.0
    length: str | None = None  # what Content-Length promised

    async def landing(self, exchange: Exchange) -> Landing:
        """Wait for it, on behalf of `exchange`. Raises ClientLeft as soon as its client does."""
        if exchange.departed:
            raise ClientLeft
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Landing] = loop.create_future()
        self.waiting[future] = None
        timer = loop.call_later(_WAIT, _settle, future, Landing.ALONE)
        exchange.on_leave = lambda: _settle(future, Landing.ALONE)
        try:
            landing = await future
        finally:
            exchange.on_leave = None
            timer.cancel()
            del self.waiting[future]
        if exchange.departed:
            raise ClientLeft
        return landing

    def land(self, landing: Landing) -> None:
        """Let those who wait go on; the first call counts."""
        if self.landed is not None:
            return
        self.landed = landing
        if self.cache.flights.get(self.key) is self:
            del self.cache.flights[self.key]
        for future in self.waiting:
            _settle(future, landing)

    def record(self, message: Message) -> None:
        """One message of the answer, on its way to the client that asked."""
        kind = message["type"]
        if kind == "http.response.start":
            self._start(message)
        elif self.headers is None:
            return
        elif kind == "http.response.body":
            self._gather(message)
        else:
            self._give_up()

    def _start(self, message: Message) -> None:
        now = self.cache.clock()
        headers: list[Header] = list(message.get("headers", ()))
        ours = set(self.exchange.answer_headers)  # the gateway's, for this one request
        own = [header for header in headers if header not in ours]
        message["headers"] = [header for header in headers if header[0] != b"x-cache"] + [(b"x-cache", b"miss")]
        rules = Freshness(own)
        lifetime = min(self.cache.ttl, rules.lifetime(self.cache.ttl))
        # What answered in the model's place is not the model, and not for whoever may call that.
        is_anothers = self.exchange.extras is not None and self.exchange.extras.fallback_from != ""
        if message["status"] != 200 or is_anothers or lifetime <= 0 or not rules.may_store(self.cache.key_fields):
            self._give_up()
            return
        if rules.is_stream:
            self.land(Landing.ALONE)  # nobody waits for the end of a stream; it is kept if it ends in time and size
        self.headers = [header for header in own if header[0] not in _UNSTORED]
        self.born, self.expires, self.length = now - rules.age, now + lifetime, rules.length

    def _gather(self, message: Message) -> None:
        chunk = message.get("body", b"")
        self.size += len(chunk)
        if self.size > self.cache.max_entry_bytes:
            self._give_up()
            return
        self.chunks.append(chunk)
        if message.get("more_body", False):
            return
        body = b"".join(self.chunks)
        if self.headers is not None and self.length in (None, str(len(body))):
            self.cache.store.put(self.key, Answer(self.headers, body, self.born, self.expires))
            self.land(Landing.AGAIN)
        self._give_up()

    def _give_up(self) -> None:
        self.headers = None
        self.chunks.clear()
        self.land(Landing.ALONE)


def _identity(principal: Principal) -> list[bytes | None]:
    """Who asks, and what the upstream is told of it."""
    return [principal.id.encode(), *(part for header in principal.headers for part in header)]


def _settle(future: asyncio.Future[Landing], landing: Landing) -> None:
    if not future.done():
        future.set_result(landing)


def _names(option: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) and name and name.isascii() for name in names):
        raise TypeError(f"`{option}` must be a list of names, not {names!r}")
    return list(names)
