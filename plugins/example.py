"""The plugin to copy: it greets in every answer."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.plugin import exchange_of


class Example:
    """Adds `x-example: GREETING KIND` to every answer; KIND is how the caller proved who it is."""

    def __init__(self, app: ASGIApp, *, greeting: str = "hello") -> None:
        if not greeting.isascii() or not greeting.isprintable():
            raise ValueError(f"greeting {greeting!r} does not fit into a header field")
        self.app = app
        self.greeting = greeting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        field = (b"x-example", f"{self.greeting} {exchange_of(scope).principal.kind}".encode())

        async def greet(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), field]
            await send(message)

        await self.app(scope, receive, greet)
