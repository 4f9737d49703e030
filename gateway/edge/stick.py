"""Sticky sessions: a client that comes back finds the version and the endpoint it had.

One layer, before split: the cookie names the version too, so it must be read before a share of the traffic decides.
It is written where the answer begins, when the endpoint is known.
"""

import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from time import monotonic
from typing import Final, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import StickySettings
from gateway.core.endpoint import Endpoint, Health
from gateway.core.headers import get_all, is_any
from gateway.core.pool import Pool
from gateway.core.session import Sessions
from gateway.model import Exchange, Header

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)  # a token (RFC 9110, 5.6.2)
_COOKIE: Final = frozenset((b"cookie",))
_REMEMBERED: Final = 4096  # Cookie fields whose session is kept, forgotten all at once when there are more
# Of a ttl: sessions end at a whole one, up to 1/64 early, so that one token serves many new clients.
_GRAINS: Final = 64
_LONGEST: Final = 1024  # bytes of a Cookie field that is remembered, so that all of them take 4 MiB at most


class Visit(NamedTuple):
    """What a Cookie field says."""

    version: str | None  # None: it has no valid session
    endpoint: Endpoint | None  # None: that endpoint is gone, the version is not
    expires: int  # seconds since the epoch
    jar: bytes  # our cookie's value as it came
    rest: bytes  # the field without our cookie: what the upstream may see


_FIRST: Final = Visit(None, None, 0, b"", b"")


class Stick:
    """Reads and writes the cookie of one route.

    `arms` are the versions that traffic which names none may go to (None: all of `pools`): a session keeps its client
    on one of these, so that taking a version's weight away takes its sessions away. What the client named, and what
    the principal may call, come before its session. Raises ValueError for a cookie that cannot be.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: StickySettings,
        sessions: Sessions,
        model: str,
        pools: Mapping[str, Pool],
        arms: Collection[str] | None = None,
    ) -> None:
        if not _NAME.fullmatch(settings.cookie):
            raise ValueError(f"{settings.cookie!r} cannot be a cookie's name")
        if settings.ttl < 1:
            raise ValueError("a session's ttl is at least 1s")
        self.app = app
        self.name = settings.cookie.encode()
        self.ttl = settings.ttl
        self.grain = max(1, int(self.ttl) // _GRAINS)
        self.book = sessions.of(model, {version: [e.url for e in pool.endpoints] for version, pool in pools.items()})
        self.pools = pools
        self.endpoints = {(version, e.url): e for version, pool in pools.items() for e in pool.endpoints}
        self.arms = frozenset(pools if arms is None else arms)
        self.attributes = b"; Max-Age=%d; Path=/; HttpOnly; SameSite=Lax" % self.ttl
        self.visits: dict[bytes, Visit] = {}
        self.issued: dict[Endpoint, tuple[int, str, bool, Header]] = {}  # the last field for a client without a session
        self.clock: Callable[[], float] = time.time  # the wall's: a token is read by other machines, after restarts

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        now = self.clock()
        visit = self.recall(scope, now)
        if visit.version is not None:
            self.steer(exchange, visit.version, visit.endpoint)

        def mark(headers: list[Header]) -> list[Header]:
            cookie = self.due(scope, visit, now)
            if cookie is not None:
                headers.append(cookie)
                exchange.answer_headers.append(cookie)  # so that a cache above knows it for ours
            return headers

        exchange.answer_edits.append(mark)
        return self.app(scope, receive, send)

    def recall(self, scope: Scope, now: float) -> Visit:
        """Take our cookie out of the request, and say what it says."""
        headers: list[Header] = scope["headers"]
        if not is_any(_COOKIE, headers):
            return _FIRST
        fields = get_all(headers, b"cookie")
        field = fields[0] if len(fields) == 1 else b"; ".join(fields)  # RFC 9113, 8.2.3
        if field.find(self.name) < 0:  # `in` makes, and drops, an exception before it looks
            return _FIRST
        visit = self.visits.get(field)
        if visit is None or visit.expires <= now:
            visit = self.read(field, now)
        kept = [header for header in headers if header[0] != b"cookie"]
        if visit.rest:
            kept.append((b"cookie", visit.rest))
        scope["headers"] = kept
        return visit

    def read(self, field: bytes, now: float) -> Visit:
        """One Cookie field (RFC 6265, 4.2.1). Only a valid session is remembered."""
        visit, others = _FIRST, []
        for pair in field.split(b";"):
            name, _, value = pair.strip().partition(b"=")
            if name.rstrip() != self.name:
                others.append(pair.strip())
            elif visit.version is None:
                visit = self.open(value.strip(b' \t"'), now)
        visit = visit._replace(rest=b"; ".join(filter(None, others)))
        if visit.version is not None and len(field) <= _LONGEST:
            if len(self.visits) >= _REMEMBERED:
                self.visits.clear()
            self.visits[field] = visit
        return visit

    def open(self, jar: bytes, now: float) -> Visit:
        session = self.book.open(jar, now)
        if session is None:
            return Visit(None, None, 0, jar, b"")
        endpoint = self.endpoints[session.version, session.url] if session.url is not None else None
        return Visit(session.version, endpoint, session.expires, jar, b"")

    def steer(self, exchange: Exchange, version: str, endpoint: Endpoint | None) -> None:
        """Send the exchange where its session wants to stay, as far as client, principal and weights leave it open. An
        arm that is out, the deadline of its drain over, keeps no session: the split has the choice again."""
        if exchange.version is None:
            allowed = exchange.allowed_versions
            if version not in self.arms or (allowed is not None and version not in allowed):
                return
            if not (endpoint is not None and endpoint.may_keep) and not self.pools[version].candidates((), monotonic()):
                return
            exchange.version = version
        if exchange.version == version:
            exchange.preferred = endpoint

    def due(self, scope: Scope, visit: Visit, now: float) -> Header | None:
        """The Set-Cookie field, if one is due: no session was valid, it names another place, or half its time is over.

        A draining endpoint's session is not renewed: it ends within its ttl, and the endpoint is free.
        """
        exchange: Exchange = scope["exchange"]
        endpoint, pool = exchange.endpoint, exchange.pool
        if endpoint is None or pool is None or self.pools.get(pool.version) is not pool:
            return None  # nobody answered, or another model did
        is_same = visit.endpoint is endpoint and visit.version == pool.version
        if is_same and (visit.expires - now >= self.ttl / 2 or endpoint.health is Health.DRAINING):
            return None
        is_plain = scope["scheme"] == "http"
        if visit.jar:
            return self.field(pool.version, endpoint, self.end(now), visit.jar, is_plain=is_plain)
        end = self.end(now)
        issued = self.issued.get(endpoint)  # a new client's token says where and until when, and no more
        if issued is None or issued[0] != end or issued[1] != pool.version or issued[2] != is_plain:
            field = self.field(pool.version, endpoint, end, b"", is_plain=is_plain)
            issued = self.issued[endpoint] = end, pool.version, is_plain, field
        return issued[3]

    def end(self, now: float) -> int:
        """When a session that begins now ends, in seconds since the epoch."""
        return int(now + self.ttl) // self.grain * self.grain

    def field(self, version: str, endpoint: Endpoint, end: int, jar: bytes, *, is_plain: bool) -> Header:
        value = self.book.seal(version, endpoint.url, end, jar)
        secure = b"" if is_plain else b"; Secure"
        return b"set-cookie", b"%b=%b%b%b" % (self.name, value, self.attributes, secure)

    def __repr__(self) -> str:
        return f"<Stick {self.name.decode()} arms={sorted(self.arms)} remembered={len(self.visits)}>"
