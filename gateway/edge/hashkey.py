"""What a hashing policy hashes, read from the request."""

from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.types import Scope

from gateway.config.settings import BalanceSettings
from gateway.core.headers import get
from gateway.model import Exchange

KeyOf = Callable[[Scope, Exchange], bytes]


def key_of(settings: BalanceSettings) -> KeyOf | None:
    """The reader of a route's hash key; None where its policy hashes nothing. A part that the request lacks falls
    back to the client's address, so that such requests spread by client and not onto one endpoint."""
    if settings.policy == "ip_hash":
        return _ip
    if settings.policy != "consistent_hash":
        return None
    key = settings.hash
    if key.header is not None:
        return _or_ip(_header(key.header.lower().encode("latin-1")))
    if key.cookie is not None:
        return _or_ip(_cookie(key.cookie))
    if key.query is not None:
        return _or_ip(_query(key.query))
    if key.principal:
        return _or_ip(lambda scope, exchange: exchange.principal.id.encode())
    return _ip


def _ip(scope: Scope, exchange: Exchange) -> bytes:
    return exchange.client_ip.encode()


def _or_ip(read: Callable[[Scope, Exchange], bytes | None]) -> KeyOf:
    return lambda scope, exchange: read(scope, exchange) or exchange.client_ip.encode()


def _header(name: bytes) -> Callable[[Scope, Exchange], bytes | None]:
    return lambda scope, exchange: get(scope["headers"], name)


def _query(name: str) -> Callable[[Scope, Exchange], bytes | None]:
    def read(scope: Scope, exchange: Exchange) -> bytes | None:
        values = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=100).get(name)
        return values[0].encode() if values else None

    return read


def _cookie(name: str) -> Callable[[Scope, Exchange], bytes | None]:
    def read(scope: Scope, exchange: Exchange) -> bytes | None:
        field = get(scope["headers"], b"cookie")
        if field is None:
            return None
        try:
            morsel = SimpleCookie(field.decode("latin-1")).get(name)
        except CookieError:
            return None
        return morsel.value.encode() if morsel is not None else None

    return read
