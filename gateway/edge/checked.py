"""Right inside the plugins: what they made of a request's fields must still be fields.

A plugin that copies a decoded parameter into a field would otherwise let a client write a second request to the model
server. A route without plugins has no such layer: the server's parser and `config/` have looked at everything else.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.headers import serialise

# RFC 9110, 5.1 and 5.5; names in lower case, as all layers compare them.
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9a-z]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")


class Checked:
    """Raises RuntimeError, which is answered 500, for a field that is none, or more than one.

    A coroutine, unlike most layers behind it: to a plugin all that it calls is one, and fails when it is awaited."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            lines = serialise(scope["headers"])
            if lines.count(b"\n") != len(scope["headers"]) or _FIELDS.fullmatch(lines) is None:
                raise RuntimeError("a plugin left a header field that cannot be sent")
        await self.app(scope, receive, send)
