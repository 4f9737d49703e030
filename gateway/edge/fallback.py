"""Another model, or another version, where the one that was asked for cannot answer.

It takes over before a byte of an answer was sent, and only for what is nobody's fault but the model's: no endpoint,
attempts that all failed, no room. The request goes the way of the other model from there on: its names, its rules, its
credential, its times; what comes before (limits, plugins) was the way of the one that was asked for. The caller must be
allowed to call the other one. One step only: what that one falls back to is not tried, so there are no circles.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from random import Random

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.body import Replay
from gateway.core.pool import Pool
from gateway.core.snapshot import Route
from gateway.edge.authenticate import CREDENTIALS
from gateway.edge.body import read_body
from gateway.errors import GatewayError, Overloaded, UpstreamError
from gateway.model import Exchange

_log = logging.getLogger("gateway.edge")
_TOLD = b"x-fallback-model"


class Fallback:
    """Behind the choice of the version."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        targets: Sequence[tuple[str, str | None]],
        routes: Callable[[], Mapping[str, Route]],
        bound: int,
        rng: Random,
    ) -> None:
        """`targets` are models with a version each, None for what the model's weights say; `routes` are those of now.
        `bound`: bytes of a body that is held, to be sent again."""
        self.app = app
        self.targets = targets
        self.routes = routes
        self.bound = bound
        self.rng = rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        body = exchange.body if exchange.body is not None else await self._hold(scope, exchange, receive)
        if body is None:
            await self.app(scope, receive, send)
            return
        kept = _Kept(scope, exchange)
        exchange.note().may_fall_back = True
        try:
            await self.app(scope, Replay(body, receive), send)
        except (UpstreamError, Overloaded) as error:
            if exchange.answered or exchange.departed:
                raise
            await self._instead(kept, body, receive, send, error)

    async def _instead(self, kept: "_Kept", body: bytes, receive: Receive, send: Send, error: GatewayError) -> None:
        """The first alternative that answers; if none does, `error` is what the client hears."""
        scope, exchange = kept.scope, kept.exchange
        for model, version in self.targets:
            route = self.routes().get(model)
            pool = self._pool(route, version, kept) if route is not None else None
            if route is not None and 0 < route.body_bytes < len(body):
                continue
            if route is None or route.tail is None or pool is None or pool is kept.pool:
                continue
            kept.restore()
            if not route.passes_credentials:
                scope["headers"] = [header for header in scope["headers"] if header[0] not in CREDENTIALS]
            self._turn(exchange, route, pool, kept)
            _log.info("request %s: %s; %s@%s instead", exchange.request_id, error, pool.model, pool.version)
            try:
                await route.tail(scope, Replay(body, receive), send)
                return
            except (UpstreamError, Overloaded):
                if exchange.answered or exchange.departed:
                    raise
        kept.restore()
        exchange.note().fallback_from = ""
        raise error

    def _pool(self, route: Route, version: str | None, kept: "_Kept") -> Pool | None:
        """The pool that would answer, if the caller may call it. Whom another service has let in, it has let in to the
        model that it was asked about."""
        principal, asked, allowed = kept.exchange.principal, kept.route, None
        if route.methods and kept.scope["method"] not in route.methods:
            return None
        if route.auth and route.access is not None:
            if principal.kind == "external" and (asked is None or asked.name != route.name):
                return None
            allowed = route.access.versions_for(principal, kept.scope["method"])
        version = version or route.split.choose(self.rng, allowed)
        if version is None or (allowed is not None and version not in allowed):
            return None
        return route.pools.get(version)

    def _turn(self, exchange: Exchange, route: Route, pool: Pool, kept: "_Kept") -> None:
        """From here on the exchange is one with the other pool."""
        exchange.route = route
        exchange.pool = pool
        exchange.preferred = None
        if kept.target is not None:
            exchange.target = kept.target._replace(version=pool.version)
        exchange.answer_headers.append((_TOLD, f"{pool.model}@{pool.version}".encode()))
        extras = exchange.note()
        extras.may_fall_back = False
        extras.fallback_from = kept.name

    async def _hold(self, scope: Scope, exchange: Exchange, receive: Receive) -> bytes | None:
        """The whole body; None if it is larger than what is held, or nobody knows how large it is."""
        length = exchange.fields.get(b"content-length")
        if length is None:
            return None if b"transfer-encoding" in exchange.fields else await read_body(receive, self.bound)
        return await read_body(receive, self.bound) if int(length) <= self.bound else None

    def __repr__(self) -> str:
        return f"<Fallback to {list(self.targets)}>"


class _Kept:
    """An exchange as it was before anybody tried."""

    __slots__ = ("body", "edits", "exchange", "fields", "headers", "name", "path", "pool", "route", "scope", "target")

    def __init__(self, scope: Scope, exchange: Exchange) -> None:
        self.scope = scope
        self.exchange = exchange
        self.headers = list(scope["headers"])
        self.path = exchange.path
        self.body = exchange.body
        self.pool = exchange.pool
        self.route = exchange.route
        self.target = exchange.target
        self.edits = list(exchange.answer_edits)
        self.fields = list(exchange.answer_headers)
        self.name = f"{self.pool.model}@{self.pool.version}" if self.pool is not None else ""

    def restore(self) -> None:
        exchange = self.exchange
        self.scope["headers"] = list(self.headers)
        exchange.path = self.path
        exchange.body = self.body
        exchange.pool = self.pool
        exchange.route = self.route
        exchange.target = self.target
        exchange.answer_edits[:] = self.edits
        exchange.answer_headers[:] = self.fields
