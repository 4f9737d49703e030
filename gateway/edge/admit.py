"""How large a request's body may be. Only in the chain of a route that says so."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.headers import get
from gateway.errors import TooLarge


class BoundBody:
    """413: at once where Content-Length says it, else when the bytes have come."""

    def __init__(self, app: ASGIApp, *, bound: int) -> None:
        self.app = app
        self.bound = bound

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = get(scope["headers"], b"content-length")
        if length is not None:
            if int(length) > self.bound:
                raise TooLarge
            await self.app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.bound:
                raise TooLarge
            return message

        await self.app(scope, counted, send)
