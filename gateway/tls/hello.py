"""A ClientHello, read before OpenSSL sees it: the host and the protocols that a client asks for (RFC 8446, 4.1.2).

OpenSSL tells of the host when it is too late to ask for a client certificate, and never of the protocols. So where that
matters the first bytes are looked at here. Nothing is decided for good by them: OpenSSL reads them again, and whoever
makes it read something else is refused (`store.py`).
"""

from collections.abc import Iterator
from typing import NamedTuple

LONGEST = 64 * 1024  # bytes of records; key shares that quantum computers cannot break make 2 KiB of them
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ALPN = 0, 16  # RFC 6066, 3; RFC 7301


class Hello(NamedTuple):
    host: str | None
    protocols: tuple[bytes, ...]


class Incomplete(Exception):
    """There is more to come."""


def read_hello(data: bytes) -> Hello:
    """Raises Incomplete; ValueError for what is no ClientHello."""
    message = _message(data)
    try:
        return _read(message)
    except IndexError:
        raise ValueError("a ClientHello that contradicts itself") from None


def _message(data: bytes) -> bytes:
    """The first handshake message, put together of its records."""
    message, at = b"", 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        if len(data) > at and data[at] != _HANDSHAKE:
            raise ValueError("not a record of a handshake")
        if len(message) > 0 and message[0] != _CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        if at > LONGEST:
            raise ValueError("longer than any ClientHello")
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        if len(data) < at + 5 or len(data) < end:
            raise Incomplete
        message += data[at + 5 : end]
        at = end
    return message[4 : 4 + int.from_bytes(message[1:4], "big")]


def _read(body: bytes) -> Hello:
    at = 34  # behind version and random
    at += 1 + body[at]  # the session's id
    at += 2 + int.from_bytes(body[at : at + 2], "big")  # cipher suites
    at += 1 + body[at]  # compression methods
    host: str | None = None
    protocols: tuple[bytes, ...] = ()
    for kind, content in _extensions(body[at + 2 : at + 2 + int.from_bytes(body[at : at + 2], "big")]):
        if kind == _SERVER_NAME:
            host = _host(content)
        elif kind == _ALPN:
            protocols = tuple(_protocols(content[2:]))
    return Hello(host, protocols)


def _extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield int.from_bytes(data[at : at + 2], "big"), data[at + 4 : at + 4 + size]
        at += 4 + size


def _host(content: bytes) -> str | None:
    """The one name of a list that may hold one (RFC 6066, 3)."""
    if len(content) < 5 or content[2] != 0:
        return None
    return content[5 : 5 + int.from_bytes(content[3:5], "big")].decode("latin-1")


def _protocols(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        yield data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
