"""Turns what the layers below raise into the one JSON error that clients parse. The only broad `except` of the edge."""

import logging
from asyncio import CancelledError
from collections.abc import Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import BadRequest, ClientLeft, GatewayError, MethodNotAllowed, NotFound
from gateway.model import Exchange, Header

_log = logging.getLogger("gateway.edge")

Judge = Callable[[GatewayError, Exchange, Scope], GatewayError]

_BY_STATUS: dict[int, type[GatewayError]] = {404: NotFound, 405: MethodNotAllowed}


class Rescue:
    """Answers errors as long as no byte of an answer was sent; after that the stream is left visibly broken."""

    def __init__(self, app: ASGIApp, *, judge: Judge | None = None) -> None:
        """`judge` says what to answer instead of an error."""
        self.app = app
        self._judge = judge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange: Exchange = scope["exchange"]
        try:
            await self.app(scope, receive, send)
        except GatewayError as error:
            exchange.error = error if self._judge is None else self._judge(error, exchange, scope)
        except HTTPException as error:  # of the app's own routes
            exchange.error = _BY_STATUS.get(error.status_code, BadRequest)(headers=_raw(error.headers))
        except CancelledError:  # nobody cancels a request whose client left: see `Exchange.leave`
            exchange.error = ClientLeft() if exchange.departed else exchange.error or GatewayError()
            raise
        except (Exception, SystemExit) as error:  # a layer's or plugin's bug costs its own request only
            exchange.error = GatewayError()
            exchange.error.__cause__ = error
            _log.exception("request %s failed inside the gateway", exchange.request_id, exc_info=error)
        if exchange.error is None:
            if exchange.status or exchange.departed:
                return
            exchange.error = GatewayError()
            _log.error("request %s was answered by nobody", exchange.request_id)
        if exchange.departed:
            exchange.error = exchange.error if exchange.status else ClientLeft()
            return
        if exchange.status:
            raise exchange.error
        await answer(exchange, exchange.error, send)


async def answer(exchange: Exchange, error: GatewayError, send: Send) -> None:
    """Send `error` as the answer."""
    status, fields, body = error.given or (error.status, error.headers, b"")
    if not body:
        body = error.body(exchange.request_id)
        fields = [(b"content-type", b"application/json"), *(field for field in fields if field[0] != b"content-type")]
    headers = [(b"content-length", b"%d" % len(body)), *fields, *exchange.answer_headers]
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _raw(headers: Mapping[str, str] | None) -> list[Header]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
