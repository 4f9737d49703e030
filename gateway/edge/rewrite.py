"""A route's rules for paths and header fields. Only in the chain of a route that has any."""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.config.settings import HeaderSettings, PathSettings
from gateway.core.headers import Edit, compile_edit
from gateway.core.paths import normalise
from gateway.model import Exchange


class RewritePath:
    """strip_prefix, then regex, then add_prefix, on the path that goes upstream."""

    def __init__(self, app: ASGIApp, *, settings: PathSettings) -> None:
        self.app = app
        self.strip = settings.strip_prefix.rstrip("/").encode()
        self.add = settings.add_prefix.rstrip("/").encode()
        self.pattern = re.compile(settings.regex.pattern.encode()) if settings.regex else None
        self.replace = settings.regex.replace.encode() if settings.regex else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        exchange.path = self.rewritten(exchange.path)
        await self.app(scope, receive, send)

    def rewritten(self, path: bytes) -> bytes:
        """The path under the route's rules, in normal form."""
        end = len(self.strip)
        if self.strip and path.startswith(self.strip) and path[end : end + 1] in (b"", b"/"):
            path = path[end:] or b"/"
        if self.pattern is not None:
            path = normalise(self.pattern.sub(self.replace, path) or b"/")
        return self.add + path if self.add else path


class RewriteHeaders:
    """The route's rules for request and response fields."""

    def __init__(self, app: ASGIApp, *, settings: HeaderSettings) -> None:
        self.app = app
        self.request = _edit(settings, "request")
        self.response = _edit(settings, "response")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.request is not None:
            scope["headers"] = self.request(scope["headers"])
        response = self.response
        if response is None:
            await self.app(scope, receive, send)
            return

        async def edited(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = response(list(message.get("headers", ())))
            await send(message)

        await self.app(scope, receive, edited)


def _edit(settings: HeaderSettings, side: str) -> Edit | None:
    rules = getattr(settings, side)
    return compile_edit(rules.set, rules.add, rules.remove)
