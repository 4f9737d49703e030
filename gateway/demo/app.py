"""The stand-in as an application, and the process that serves it."""

import asyncio
import hashlib
import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.demo.openai import OpenAI
from gateway.demo.serving import Serving
from gateway.demo.tensors import Tensors
from gateway.demo.wire import Demo, Refused, as_json

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def _echo(request: Request) -> Response:
    path = request.scope["raw_path"].decode("latin-1")
    if path.startswith(("/v1/", "/v2/")):
        raise Refused(f"There is no {request.method} {path}", 404)
    body = await request.body()
    head = {"method": request.method, "path": path, "query": request.url.query, "headers": request.headers.items()}
    digest = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return as_json(head | {"body": body[:65536].decode("utf-8", "replace")} | digest)


async def _refuse(request: Request, error: Exception) -> Response:
    """The error shape of the protocol that was spoken: OIP has a string, OpenAI an object."""
    assert isinstance(error, HTTPException)
    if request.url.path.startswith("/v2"):
        return as_json({"error": error.detail}, error.status_code)
    code = getattr(error, "code", None)
    body = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": code}
    return as_json({"error": body}, error.status_code)


class Signature:
    """Signs every answer. When the server ends before an answer does, the connection ends without a stack trace."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.app = app
        self.header = (b"x-demo-model", name.encode("latin-1", "replace"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def signed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], self.header]
            await send(message)

        try:
            await self.app(scope, receive, signed)
        except asyncio.CancelledError:
            return


def build(demo: Demo, serving: Serving | None = None) -> Starlette:
    """With `serving`, its completions come before those that repeat what they were told."""
    timed = serving.routes() if serving is not None else []
    return Starlette(
        routes=[
            *timed,
            *OpenAI(demo).routes(),
            *Tensors(demo).routes(),
            Route("/{path:path}", _echo, methods=_METHODS),
        ],
        middleware=[Middleware(Signature, name=str(demo))],
        exception_handlers={HTTPException: _refuse},
    )


def run(demo: Demo, host: str, port: int, serving: Serving | None = None) -> None:
    """Serve until SIGINT or SIGTERM; streams open then have two seconds to end. Says where it is, on standard output.

    Port 0 lets the system choose. Raises OSError if the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=1024)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn puts its own in place, and raises again at its end
    print(f"{demo} on http://{host}:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(build(demo, serving), log_level="error", access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])
