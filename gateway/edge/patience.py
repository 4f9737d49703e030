"""Around the plugins: one that hangs costs its own request, and that not for ever. Only in chains that have plugins."""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.clock import monotonic
from gateway.core.timeouts import given
from gateway.edge.checked import answered
from gateway.errors import DeadlineExceeded, PluginTimeout
from gateway.model import Exchange

_MOMENT = 0.1  # seconds behind the client's own deadline, which what is behind the plugins meets by itself
_MARGIN = 1.0  # seconds behind `timeouts.total`, so that who is late by that alone is named by its own error


class Patience:
    """Raises PluginTimeout where all behind it has not ended within `seconds` and a margin, and DeadlineExceeded where
    the client has given the request less."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app = app
        self.seconds = seconds + _MARGIN

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange: Exchange = scope["exchange"]
        left = exchange.started + given(exchange.fields) - monotonic() + _MOMENT
        limit = asyncio.timeout(min(left, self.seconds))
        try:
            async with limit:
                await self.app(scope, receive, answered(send))
        except TimeoutError as error:
            if limit.expired():
                raise (DeadlineExceeded if left < self.seconds else PluginTimeout) from error
            raise
