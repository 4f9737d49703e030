"""Where a request meets the configuration: it takes the newest snapshot and keeps it to its end."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.snapshot import Snapshot


class Enter:
    """Hands every request to the entry of the current snapshot: the global plugins, then matching."""

    def __init__(self, app: ASGIApp, *, current: Callable[[], Snapshot]) -> None:
        self.app = app
        self.current = current

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if "refusal" in scope:  # the server could not accept the head: see server/protocol.py
            raise scope["refusal"]
        await self.current().entry(scope, receive, send)


async def own_routes(scope: Scope, receive: Receive, send: Send) -> None:
    """Where a request goes that is for no model: to the routes of the Starlette app itself."""
    await scope["app"].router(scope, receive, send)
