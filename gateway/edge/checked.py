"""Both borders of the plugins.

Their outer one: fields may be pairs of any kind to ASGI, and bodies anything like bytes, and so Starlette's own answers
have them; the layers around, which may be compiled, know tuples and bytes alone. Their inner one does the same for what
they hand on, and what they made of a request's line and fields must still be that: a plugin that copies a decoded
parameter there would otherwise let a client write a second request to the model server. A body that was read ahead of
them, to find its model, is read again as they leave it: one that takes secrets out of prompts would otherwise be passed
by under an alias. A route without plugins has no such layer: the server's parser and `config/` have looked at
everything else.
"""

import re
from collections.abc import Awaitable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.body import Receiver, Replay
from gateway.core.headers import serialise
from gateway.edge.body import read_body
from gateway.model import Exchange, Header

_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e]*\?[\x21-\x7e]*")  # RFC 9110, 9.1; RFC 9112, 3.2
# RFC 9110, 5.1 and 5.5; names in lower case, as all layers compare them.
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9a-z]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
_ANY = 2**63  # bytes: what came is bounded, and what a plugin makes of it is the operator's to bound


class Checked:
    """Raises RuntimeError, which is answered 500, for a field that is none, or more than one, and for such a line.

    A coroutine, unlike most layers behind it: to a plugin all that it calls is one, and fails when it is awaited."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = scope["headers"] = _pairs(scope["headers"])
            lines = serialise(headers)
            if lines.count(b"\n") != len(headers) or _FIELDS.fullmatch(lines) is None:
                raise RuntimeError("a plugin left a header field that cannot be sent")
            exchange: Exchange = scope["exchange"]
            path = exchange.path or scope["raw_path"]  # where a route is known, or is yet to be found
            if _LINE.fullmatch(b"%b %b?%b" % (scope["method"].encode(), path, scope["query_string"])) is None:
                raise RuntimeError("a plugin left a request line that cannot be sent")
            if not isinstance(receive, Receiver):
                receive = _received(receive)
                if exchange.body is not None:
                    exchange.body = await read_body(receive, _ANY)
                    receive = Replay(exchange.body, receive)
        await self.app(scope, receive, send)


def answered(send: Send) -> Send:
    """For the outermost of the plugins."""

    def told(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message = {**message, "headers": _pairs(message.get("headers", ()))}
        elif not isinstance(message.get("body", b""), bytes):
            message = {**message, "body": bytes(memoryview(message["body"]))}
        return send(message)

    return told


def _received(receive: Receive) -> Receive:
    async def told() -> Message:
        message = await receive()
        if not isinstance(message.get("body", b""), bytes):
            message = {**message, "body": bytes(memoryview(message["body"]))}
        return message

    return told


def _pairs(headers: Iterable[Iterable[bytes]]) -> list[Header]:
    """Names in lower case, as all layers compare them: a Content-Length that is not found has another beside it."""
    return [(name.lower(), value) for name, value in headers]
