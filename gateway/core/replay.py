"""A request's body that was read where a decision needed it, for the layers behind."""

from collections.abc import Awaitable, Callable
from typing import Any


class Replay:
    """A `receive` that gives a body that was read already, then what the connection says."""

    __slots__ = ("body", "is_given", "receive")

    def __init__(self, body: bytes, receive: Callable[[], Awaitable[Any]]) -> None:
        self.body = body
        self.receive = receive
        self.is_given = False

    async def __call__(self) -> Any:
        if self.is_given:
            return await self.receive()
        self.is_given = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    def take(self) -> bytes | None:
        """The body, all of it, for who knows that nobody needs to wait; None if it was given."""
        if self.is_given:
            return None
        self.is_given = True
        return self.body
