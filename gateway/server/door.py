"""The operator's door on our own protocol: whoever can reach it, with a token or without, is held to the bounds of the
public side. uvicorn's own would gather a head of any size, and wait for its end for ever.
"""

import asyncio
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.clock import monotonic
from gateway.config.settings import Limits
from gateway.core.deadlines import Deadlines
from gateway.errors import GatewayError
from gateway.server.stoppable import Stoppable, edge_config

_SWEEP_SECONDS = 0.1  # how late a deadline may be met
_GRACE = 5  # seconds that a stop waits for answers under way


class Door(Stoppable):
    """Serves `app` until it is told to stop. The limits are the defaults: those of routes.yaml are for clients."""

    def __init__(self, app: ASGIApp, limits: Limits | None = None) -> None:
        self.deadlines = Deadlines()
        config = edge_config(_Answering(app), limits or Limits(), self.deadlines)
        config.timeout_graceful_shutdown = _GRACE
        super().__init__(config)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._sweep()

    def _sweep(self) -> None:
        asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)  # first: one bad turn must not be the last
        self.deadlines.sweep(monotonic())


class _Answering:
    """What the protocol refuses is answered, and what was asked for is done, though who asked may leave."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["exchange"].on_leave = _go_on  # else the task would be cancelled, half a reload done
        refusal: GatewayError | None = scope.get("refusal")
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse(f"{refusal}\n", refusal.status)(scope, receive, send)


def _go_on() -> None:
    pass
