"""The request as it goes upstream: re-serialised from parsed parts, never copied.

Hop-by-hop fields stay behind (RFC 9110, 7.6.1; what Connection names did so at the door: `server/target.py`). Who
asked, for what host and over what travels in X-Forwarded-*, with what a trusted proxy said before us in front.
"""

from starlette.types import Scope

from gateway.core.headers import ADDRESS_CLAIMS, HOP_BY_HOP, REPLACED_UPSTREAM, get_all, serialise, spellings
from gateway.model import Exchange, Header
from gateway.upstream.connections import Connections

_DROPPED_OF_TRUSTED = spellings(HOP_BY_HOP | REPLACED_UPSTREAM)
_DROPPED = _DROPPED_OF_TRUSTED | spellings(ADDRESS_CLAIMS)
_BODY_METHODS = frozenset(("POST", "PUT", "PATCH"))
UNKNOWN_LENGTH = -1


def compose(scope: Scope, exchange: Exchange, connections: Connections, length: int, *, is_host_kept: bool) -> bytes:
    """The request's head, to the empty line. `length` is the body's: bytes, or UNKNOWN_LENGTH for chunks."""
    method: str = scope["method"]
    query: bytes = scope["query_string"]
    path = connections.address.prefix + exchange.path
    headers: list[Header] = scope["headers"]
    host = exchange.fields.get(b"host", b"")
    dropped = _DROPPED_OF_TRUSTED if exchange.is_trusted else _DROPPED
    kept = [header for header in headers if header[0] not in dropped]
    if length == UNKNOWN_LENGTH:
        framing = b"transfer-encoding: chunked\r\n"
    elif length or method in _BODY_METHODS:
        framing = b"content-length: %d\r\n" % length
    else:
        framing = b""
    start = b"%b %b?%b HTTP/1.1\r\n" if query else b"%b %b%b HTTP/1.1\r\n"
    return b"".join(
        (
            start % (method.encode(), path, query),
            b"host: %b\r\n" % host if is_host_kept and host else connections.host_line,
            serialise(kept),
            framing,
            _provenance(scope, exchange, host),
        )
    )


def _provenance(scope: Scope, exchange: Exchange, host: bytes) -> bytes:
    """X-Forwarded-*, Via and X-Request-Id, and the empty line."""
    peer = (scope["client"] or ("",))[0].encode()
    proto = scope["scheme"].encode()
    via = b"%b gateway" % scope["http_version"].encode()
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
    return (
        b"x-forwarded-for: %b\r\nx-forwarded-proto: %b\r\nx-forwarded-host: %b\r\nvia: %b\r\nx-request-id: %b\r\n\r\n"
        % (peer, proto, host, via, exchange.request_id.encode())
    )
