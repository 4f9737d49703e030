"""A question to a service about a caller: how one is written, and who sends it."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from gateway.core.endpoint import Address
from gateway.model import Answer, Exchange

# The bytes of a request, within how many seconds, for whom, at most how many bytes of a body -> the answer.
Ask = Callable[[bytes, float, Exchange, int], Awaitable[Answer]]


def address_of(url: str) -> Address:
    """Where it is sent, whatever path and query the URL has."""
    parts = urlsplit(url)
    return Address.parse(f"{parts.scheme}://{parts.netloc}")


def start_of(method: bytes, url: str) -> bytes:
    """The request line and Host of every question to `url`."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, target.encode(), address_of(url).authority)
