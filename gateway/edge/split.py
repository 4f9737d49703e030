"""Which version, and so which pool, serves the request: the one the client named, its session's, or a share."""

from random import Random

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Forbidden, VersionNotFound
from gateway.model import Exchange


class ChooseVersion:
    """Sets `exchange.pool`."""

    def __init__(self, app: ASGIApp, *, rng: Random) -> None:
        self.app = app
        self.rng = rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            exchange.pool = pool
        await self.app(scope, receive, send)
