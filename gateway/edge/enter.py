"""Where a request meets the configuration: it takes the newest snapshot and keeps it to its end."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.overload import Overload
from gateway.core.snapshot import Snapshot
from gateway.errors import Overloaded


class Enter:
    """Hands every request to the entry of the current snapshot: the global plugins, then matching. Under overload, some
    are refused here, where they have cost least."""

    def __init__(
        self, app: ASGIApp, *, current: Callable[[], Snapshot], overload: Overload, dice: Callable[[], float]
    ) -> None:
        """`dice`: a number in [0, 1)."""
        self.app = app
        self.current = current
        self.overload = overload
        self.dice = dice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if "refusal" in scope:  # the server could not accept the head: see server/protocol.py
            raise scope["refusal"]
        if self.overload.share and self.dice() < self.overload.share:
            raise Overloaded(headers=[(b"retry-after", b"%d" % self.overload.retry_after)])
        await self.current().entry(scope, receive, send)


async def own_routes(scope: Scope, receive: Receive, send: Send) -> None:
    """Where a request goes that is for no model: to the routes of the Starlette app itself."""
    await scope["app"].router(scope, receive, send)
