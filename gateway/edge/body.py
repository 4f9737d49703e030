"""Reading a whole request body where a decision needs it, and giving it on to the next layer unchanged."""

from typing import Any

from starlette.types import Receive

from gateway.errors import ClientLeft, TooLarge


async def read_body(receive: Receive, bound: int) -> bytes:
    """All of the body, at most `bound` bytes. Raises TooLarge, ClientLeft."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > bound:
            raise TooLarge
        return body
    parts, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > bound:
            raise TooLarge
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


class Replay:
    """A `receive` that gives a body that was read already, then what the connection says."""

    __slots__ = ("body", "is_given", "receive")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body = body
        self.receive = receive
        self.is_given = False

    async def __call__(self) -> Any:
        if self.is_given:
            return await self.receive()
        self.is_given = True
        return {"type": "http.request", "body": self.body, "more_body": False}
