"""A route's rules for paths and header fields. Only in the chain of a route that has any."""

import re
from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import HeaderSettings, PathSettings
from gateway.core.headers import compile_edit
from gateway.core.paths import normalise
from gateway.model import Exchange


class PathRules:
    """strip_prefix, then regex, then add_prefix, on the path that goes upstream."""

    def __init__(self, settings: PathSettings) -> None:
        self.strip = settings.strip_prefix.rstrip("/").encode()
        self.add = settings.add_prefix.rstrip("/").encode()
        self.pattern = re.compile(settings.regex.pattern.encode()) if settings.regex else None
        self.replace = settings.regex.replace.encode() if settings.regex else b""

    def apply(self, path: bytes) -> bytes:
        """The path under the rules, in normal form."""
        end = len(self.strip)
        if self.strip and path.startswith(self.strip) and path[end : end + 1] in (b"", b"/"):
            path = path[end:] or b"/"
        if self.pattern is not None:
            path = normalise(self.pattern.sub(self.replace, path) or b"/")
        return self.add + path if self.add else path


class Rewrite:
    """The route's rules for the request, here, and for the upstream's answer, when its head comes."""

    def __init__(self, app: ASGIApp, *, path: PathSettings, headers: HeaderSettings) -> None:
        self.app = app
        self.path = PathRules(path).apply
        request, response = headers.request, headers.response
        self.request = compile_edit(request.set, request.add, request.remove)
        self.response = compile_edit(response.set, response.add, response.remove)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        exchange.path = self.path(exchange.path)
        if self.request is not None:
            scope["headers"] = self.request(scope["headers"])
        if self.response is not None:
            exchange.answer_edits.append(self.response)
        return self.app(scope, receive, send)
