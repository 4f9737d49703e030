"""Where a request meets the configuration: it takes the newest snapshot and keeps it to its end."""

from collections.abc import Awaitable, Callable

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

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        if "refusal" in scope:  # the server could not accept the head: see server/protocol.py
            raise scope["refusal"]
        if self.overload.share and self.dice() < self.overload.share:
            raise Overloaded(headers=[(b"retry-after", b"%d" % self.overload.retry_after)])
        return self.current().entry(scope, receive, send)


def own_routes(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """Where a request goes that is for no model: to the routes of the Starlette app itself."""
    done: Awaitable[None] = scope["app"].router(scope, receive, send)
    return done
