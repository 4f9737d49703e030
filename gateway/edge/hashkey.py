"""What a policy picks by, read from the request: what a hashing one hashes, or the prompt."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote_plus

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.balance import HashPart
from gateway.config.settings import BalanceSettings, ModelSettings
from gateway.core.access import claim_at
from gateway.core.body import Replay
from gateway.core.headers import get
from gateway.core.pick import PROMPTED
from gateway.edge.body import at_hand, read_body
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
    if settings.hash.ip:
        return _ip
    first, second = _part(settings.hash), _part(settings.hash.fallback)
    return lambda scope, exchange: first(scope, exchange) or second(scope, exchange) or _ip(scope, exchange)


def reads_body(settings: BalanceSettings) -> bool:
    """Whether a key may stand in the body."""
    parts = (settings.hash, settings.hash.fallback)
    return settings.policy == "consistent_hash" and any(part.body is not None for part in parts)


class ReadKey:
    """Reads a JSON body of at most `bound` bytes, so that a key in it can be hashed."""

    def __init__(self, app: ASGIApp, *, bound: int) -> None:
        self.app = app
        self.bound = bound

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        fields = exchange.fields
        length = fields.get(b"content-length", b"")
        is_small = length.isdigit() and 0 < int(length) <= self.bound
        if exchange.body is None and is_small and b"json" in fields.get(b"content-type", b"").lower():
            body = at_hand(receive, self.bound)
            if body is None:
                return self._read(scope, receive, send)
            exchange.body, receive = body, Replay(body, receive)
        return self.app(scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        exchange.body = await read_body(receive, self.bound)
        await self.app(scope, Replay(exchange.body, receive), send)


def _part(key: HashPart) -> Callable[[Scope, Exchange], bytes | None]:
    if key.header is not None:
        return _header(key.header.lower().encode("latin-1"))
    if key.cookie is not None:
        return _cookie(key.cookie)
    if key.query is not None:
        return _query(key.query)
    if key.claim is not None:
        return _claim(key.claim)
    if key.body is not None:
        return _member(key.body)
    if key.principal:
        return lambda scope, exchange: exchange.principal.id.encode()
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


def _header(name: bytes) -> Callable[[Scope, Exchange], bytes | None]:
    return lambda scope, exchange: get(scope["headers"], name)


def _claim(name: str) -> Callable[[Scope, Exchange], bytes | None]:
    return lambda scope, exchange: _bytes(claim_at(exchange.principal.claims, name))


def _member(name: str) -> Callable[[Scope, Exchange], bytes | None]:
    def read(scope: Scope, exchange: Exchange) -> bytes | None:
        try:
            found = msgspec.json.decode(exchange.body) if exchange.body else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # the model server may say so
        return _bytes(claim_at(found, name)) if isinstance(found, dict) else None

    return read


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")  # of a claim, whose reader lets half of a pair pass
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return None


def _query(name: str) -> Callable[[Scope, Exchange], bytes | None]:
    """By hand, as a cookie is: what the library has for it refuses many, and takes 60 ms for 16 KiB of the others."""
    plain = name.encode()

    def read(scope: Scope, exchange: Exchange) -> bytes | None:
        for pair in scope["query_string"].split(b"&"):
            key, _, value = pair.partition(b"=")
            if value and (key == plain or (len(key) > len(plain) and unquote_plus(key.decode("latin-1")) == name)):
                return unquote_plus(value.decode("latin-1")).encode()
        return None

    return read


def _cookie(name: str) -> Callable[[Scope, Exchange], bytes | None]:
    wanted = name.encode()

    def read(scope: Scope, exchange: Exchange) -> bytes | None:
        for pair in (get(scope["headers"], b"cookie") or b"").split(b";"):
            key, sign, value = pair.partition(b"=")
            if sign and key.strip() == wanted:
                return value.strip(b' \t"')
        return None

    return read
