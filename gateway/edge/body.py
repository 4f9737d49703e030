"""Reading a whole request body where a decision needs it, and giving it on to the next layer unchanged."""

from starlette.types import Receive

from gateway.core.body import Receiver
from gateway.errors import ClientLeft, TooLarge


def at_hand(receive: Receive, bound: int) -> bytes | None:
    """All of the body, if nobody has to wait for it; None: `read_body`. Raises TooLarge."""
    body = receive.take() if isinstance(receive, Receiver) else None
    if body is not None and len(body) > bound:
        raise TooLarge
    return body


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
