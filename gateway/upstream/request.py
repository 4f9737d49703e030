"""The request as it goes upstream: re-serialised from parsed parts, never copied.

Hop-by-hop fields stay behind (RFC 9110, 7.6.1; what Connection names did so at the door: `server/target.py`). Who
asked, for what host and over what travels in X-Forwarded-*, with what a trusted proxy said before us in front.
"""

from typing import Final

from starlette.types import Scope

from gateway.core.headers import ADDRESS_CLAIMS, HOP_BY_HOP, REPLACED_UPSTREAM, Lines, get_all, spellings
from gateway.model import Exchange, Header
from gateway.upstream.connections import Connections

_DROPPED_OF_TRUSTED: Final = spellings(HOP_BY_HOP | REPLACED_UPSTREAM)
_LINES_OF_TRUSTED: Final = Lines(_DROPPED_OF_TRUSTED)
_LINES: Final = Lines(_DROPPED_OF_TRUSTED | spellings(ADDRESS_CLAIMS))
_BODY_METHODS: Final = frozenset(("POST", "PUT", "PATCH"))
UNKNOWN_LENGTH: Final = -1


def compose(scope: Scope, exchange: Exchange, connections: Connections, length: int, *, is_host_kept: bool) -> bytes:
    """The request's head, to the empty line. `length` is the body's: bytes, or UNKNOWN_LENGTH for chunks."""
    method: str = scope["method"]
    query: bytes = scope["query_string"]
    headers: list[Header] = scope["headers"]
    host = exchange.fields.get(b"host", b"")
    lines = _LINES_OF_TRUSTED if exchange.is_trusted else _LINES
    if length == UNKNOWN_LENGTH:
        framing = b"\r\ntransfer-encoding: chunked"
    elif length or method in _BODY_METHODS:
        framing = b"\r\ncontent-length: %d" % length
    else:
        framing = b""
    return b"".join(
        [
            method.encode(),
            b" ",
            connections.address.prefix,
            exchange.path,
            b"?" if query else b"",
            query,
            b" HTTP/1.1",
            b"\r\nhost: %b" % host if is_host_kept and host else connections.host_line,
            *lines.pieces(headers),
            framing,
            *_provenance(scope, exchange, host),
        ]
    )


def _provenance(scope: Scope, exchange: Exchange, host: bytes) -> list[bytes]:
    """X-Forwarded-*, Via and X-Request-Id, and the empty line, in pieces to be joined."""
    peer = (scope["client"] or ("",))[0].encode()
    proto = scope["scheme"].encode()
    via = b"1.1 gateway" if scope["http_version"] == "1.1" else b"1.0 gateway"
    if exchange.is_trusted:
        headers = scope["headers"]
        told = get_all(headers, b"x-forwarded-for")
        if not told and exchange.client_ip.encode() != peer:  # by Forwarded or X-Real-IP
            told = [exchange.client_ip.encode()]
        peer = b", ".join((*told, peer))
        proto = (get_all(headers, b"x-forwarded-proto") or [proto])[0]
        host = (get_all(headers, b"x-forwarded-host") or [host])[0]
    if b"via" in exchange.fields:
        via = b", ".join((*get_all(scope["headers"], b"via"), via))
    return [
        b"\r\nx-forwarded-for: ",
        peer,
        b"\r\nx-forwarded-proto: ",
        proto,
        b"\r\nx-forwarded-host: ",
        host,
        b"\r\nvia: ",
        via,
        b"\r\nx-request-id: ",
        exchange.request_id.encode(),
        b"\r\n\r\n",
    ]
