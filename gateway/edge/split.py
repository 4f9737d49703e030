"""Which version, and so which pool, serves the request: the one the client named, its session's, or a share."""

from collections.abc import Awaitable
from random import Random

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.clock import monotonic
from gateway.core.pool import Pool
from gateway.core.snapshot import Route
from gateway.errors import Forbidden, VersionNotFound
from gateway.model import Exchange


class ChooseVersion:
    """Sets `exchange.pool`."""

    def __init__(self, app: ASGIApp, *, rng: Random) -> None:
        self.app = app
        self.rng = rng

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        route = exchange.route
        assert route is not None, "match comes first"
        if exchange.pool is None:
            version = exchange.version
            if version is None:
                version = route.split.choose(self.rng, exchange.allowed_versions)
                if version is None:
                    raise Forbidden
            pool = route.pools.get(version)
            if pool is None:
                raise VersionNotFound(f"The model {route.name!r} has no version {version[:200]!r}.")
            if exchange.version is None and not pool.candidates((), monotonic()):
                pool = self._elsewhere(route, exchange) or pool
            exchange.pool = pool
        return self.app(scope, receive, send)

    def _elsewhere(self, route: Route, exchange: Exchange) -> Pool | None:
        """An arm that is drained or down gives its share to the others that have one."""
        allowed, now = exchange.allowed_versions, monotonic()
        arms = [
            version
            for version in route.split.versions
            if (allowed is None or version in allowed) and route.pools[version].candidates((), now)
        ]
        version = route.split.choose(self.rng, arms) if arms else None
        return route.pools[version] if version is not None else None
