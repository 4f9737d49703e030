"""A request's body where it is here already: who needs all of it then waits for nothing."""

from collections.abc import Awaitable, Callable
from typing import Any


class Receiver:
    """An ASGI `receive` that can be asked without waiting."""

    __slots__ = ()

    def __call__(self) -> Awaitable[Any]:
        raise NotImplementedError

    def take(self) -> bytes | None:
        """All of the body, if it is here and none of it was given; from then on it was given."""
        raise NotImplementedError


class Replay(Receiver):
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
        if self.is_given:
            return None
        self.is_given = True
        return self.body
