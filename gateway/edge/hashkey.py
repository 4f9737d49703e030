"""What a policy picks by, read from the request: what a hashing one hashes, or the prompt."""

from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Scope

from gateway.config.settings import BalanceSettings, ModelSettings
from gateway.core.headers import get
from gateway.core.pick import PROMPTED
from gateway.model import Exchange

KeyOf = Callable[[Scope, Exchange], Any]


def key_of(settings: BalanceSettings) -> KeyOf | None:
    """The reader for a policy; None where it needs nothing of the request. A part to hash that the request lacks falls
    back to the client's address, so that such requests spread by client and not onto one endpoint."""
    if settings.policy in PROMPTED:
        return lambda scope, exchange: exchange.inference
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


def key_of_model(model: ModelSettings) -> KeyOf | None:
    """The reader for whatever policy the version of a request has."""
    readers = {version: key_of(arm.balance or model.balance) for version, arm in model.versions.items()}
    if not any(readers.values()):
        return None
    if all(arm.balance is None for arm in model.versions.values()):
        return key_of(model.balance)

    def read(scope: Scope, exchange: Exchange) -> Any:
        reader = readers[exchange.pool.version] if exchange.pool is not None else None
        return reader(scope, exchange) if reader is not None else b""

    return read


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
