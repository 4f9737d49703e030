"""One request through a layer, without a server."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from gateway.model import ANONYMOUS, Exchange, Header, Principal

ALICE = Principal(id="key_alice", name="alice", kind="key")
BOB = Principal(id="key_bob", name="bob", kind="key")


def an_exchange(principal: Principal = ANONYMOUS, model: str = "iris", version: str | None = None) -> Exchange:
    """As it is where a model's plugins run: matched, authenticated."""
    exchange = Exchange("r-1", 0.0, "192.0.2.1")
    exchange.principal = principal
    exchange.route = SimpleNamespace(name=model)  # type: ignore[assignment]
    exchange.version = version
    return exchange


class Reply:
    """What a client got."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.body = b""
        self.is_complete = False

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, f"{name} was given twice: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key == name.encode()]

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
            return
        self.body += message.get("body", b"")
        self.is_complete = not message.get("more_body", False)


async def ask(
    app: Any,
    body: bytes = b"",
    headers: dict[str, str] | Sequence[Header] = (),
    exchange: Exchange | None = None,
    **scope: Any,
) -> Reply:
    """Send one request; `body` may arrive in as many parts as `parts` says."""
    parts = scope.pop("parts", 1)
    fields = (
        [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        if isinstance(headers, dict)
        else list(headers)
    )
    whole: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "scheme": "https",
        "path": "/v1/embeddings",
        "query_string": b"",
        "headers": [(b"host", b"gw.example"), *fields],
        "exchange": exchange or an_exchange(),
        **scope,
    }
    whole.setdefault("raw_path", whole["path"].encode())
    step = -(-len(body) // parts) or 1
    pieces = [body[at : at + step] for at in range(0, len(body), step)] or [b""]

    async def receive() -> Any:
        if not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    reply = Reply()
    await app(whole, receive, reply.send)
    return reply


def asked(app: Any, body: bytes = b"", headers: Any = (), exchange: Exchange | None = None, **scope: Any) -> Reply:
    return asyncio.run(ask(app, body, headers, exchange, **scope))


class Model:
    """An app that counts its requests and answers with the body it got, and its number."""

    def __init__(
        self, headers: Sequence[Header] = ((b"content-type", b"application/json"),), status: int = 200
    ) -> None:
        self.requests: list[bytes] = []
        self.scopes: list[Any] = []
        self.headers = headers
        self.status = status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, is_more = b"", True
        while is_more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            is_more = message["more_body"]
        self.requests.append(body)
        self.scopes.append(scope)
        headers = [*self.headers, *scope["exchange"].answer_headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d:" % len(self.requests), "more_body": True})
        await send({"type": "http.response.body", "body": body, "more_body": False})
