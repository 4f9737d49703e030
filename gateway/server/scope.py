"""What an app is told of every request on a connection, and which of its layers is told it first."""

import asyncio
from typing import Any, Final

from starlette.applications import Starlette

from gateway.core.certificate import PEER
from gateway.tls.clients import peer_of

_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}


def outermost(app: Any) -> Any:
    """The first layer of an app. Starlette's own `__call__` writes into the scope whose it is, as we do, and costs each
    request a frame of Python and a coroutine for that."""
    if not isinstance(app, Starlette):
        return app
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    return app.middleware_stack


def scope_of(app: Any, transport: asyncio.BaseTransport, announced: tuple[str, int] | None) -> dict[str, Any]:
    """What the scope of every request begins as; `announced` is the client, if a trusted proxy has said who it is."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": _ASGI,
        "app": app,
        "http_version": "1.1",
        "method": "",
        "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
        "raw_path": b"",
        "path": "",  # see `target.py`
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": announced or _address(transport.get_extra_info("peername")),
        "server": _address(transport.get_extra_info("sockname")),
        "exchange": None,
    }
    peer = peer_of(transport.get_extra_info("ssl_object"))
    if peer is not None:  # where a client certificate was asked for
        scope[PEER] = peer
    return scope


def _address(info: Any) -> tuple[str, int]:
    return (str(info[0]), int(info[1])) if isinstance(info, tuple) and len(info) >= 2 else ("", 0)
