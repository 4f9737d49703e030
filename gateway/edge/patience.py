"""Around the plugins: one that hangs costs its own request, and that not for ever. Only in chains that have plugins."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.edge.checked import answered
from gateway.errors import PluginTimeout

_MARGIN = 1.0  # seconds behind `timeouts.total`, so that who is late by that alone is named by its own error


class Patience:
    """Raises PluginTimeout where all behind it has not ended within `seconds` and a margin."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.seconds = seconds + _MARGIN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = asyncio.timeout(self.seconds)
        try:
            async with limit:
                await self.app(scope, receive, answered(send))
        except TimeoutError as error:
            if limit.expired():
                raise PluginTimeout from error
            raise
