"""Who is calling. A credential ends here: what goes on is the principal, and the headers that its issuer grants it."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.headers import CERTIFICATE_FIELDS
from gateway.edge.caller import network_of
from gateway.edge.introspection import Introspector
from gateway.edge.tokens import Genuine, Tokens, UnknownKid
from gateway.edge.users import PREFIX as BASIC
from gateway.edge.users import Users
from gateway.errors import BadRequest, StoreUnavailable, Unauthenticated
from gateway.model import Exchange, Header, Principal
from gateway.stores.keys import is_well_formed

_log = logging.getLogger("gateway.edge")

REALM: Final = b"models"
CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"api-key"))
_OURS: Final = b"x-gateway-"  # a client's word about who it is; only the gateway says that
_NAMES_REMEMBERED: Final = 1000
# A word that begins as a key of ours does; within one, as in one JWT of three hundred, those letters mean nothing.
_KEY: Final = re.compile(rb"(?:^|[^A-Za-z0-9_.~+/-])gw_")


# What an honest client is told, by the end of what the log is told: of a token that its issuer has signed, no other.
_TOLD: Final = {
    "expired": "The token has expired.",
    "not yet valid": "The token is not valid yet.",
    "it is for another audience": "The token is for another audience.",
    "it lacks a scope": "The token lacks a scope.",
    "it is revoked": "The token has been revoked.",
}


class Keys(Protocol):
    """`KeyTable`, or the `LiveKeys` that holds the present one."""

    @property
    def find(self) -> Callable[[bytes, float], Principal | None]: ...


Refresh = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Means:
    """By what a worker knows its callers. Without `keys` the store of keys is down, and keys are answered 503.

    `tokens` belongs here even where only keys are accepted: it knows the headers that no client may set itself.
    `refresh` asks for an issuer's keys anew and returns True if there is news (`Refreshes`).
    """

    keys: Keys | None
    tokens: Tokens | None = None
    refresh: Refresh | None = None
    users: Users | None = None
    introspector: Introspector | None = None
    granted_headers: frozenset[bytes] = frozenset()  # that other services say who is calling by

    @property
    def identity_headers(self) -> frozenset[bytes]:
        """Fields that say who is calling: the gateway sets them, and no client."""
        return self.granted_headers | (self.tokens.identity_headers if self.tokens is not None else frozenset())


class Rejected(Unauthenticated):
    """A credential was offered, and it is no good."""


class Names:
    """What becomes of a field, by its name. `harmless` are those known to pass: one look for nearly every field.

    `x_user` is judged as `x-user`: CGI and WSGI, and so many a model server, cannot tell them apart.
    """

    def __init__(self, identity: Iterable[bytes]) -> None:
        self.harmless: set[bytes] = set()
        self._dropped = frozenset(identity) | CREDENTIALS | CERTIFICATE_FIELDS

    def may_pass(self, name: bytes) -> bool:
        """Judges a name that is not in `harmless`, and puts it there if it belongs and there is room."""
        plain = name.replace(b"_", b"-")
        if plain in self._dropped or plain.startswith(_OURS):
            return False
        if len(self.harmless) < _NAMES_REMEMBERED:
            self.harmless.add(name)
        return True


class Authenticate:
    """Sets `exchange.principal`, or refuses: 401 for none or bad credentials, 400 for several that differ."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        methods: Sequence[str],
        means: Means,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`methods` is any of `key`, `jwt`, `introspection`, `basic`. `clock` gives seconds since the epoch."""
        self.app = app
        self._accepts_keys = "key" in methods
        self._keys = means.keys
        self._tokens = means.tokens if "jwt" in methods else None
        self._refresh = means.refresh
        self._users = means.users if "basic" in methods else None
        self._introspector = means.introspector if "introspection" in methods else None
        self._clock = clock
        self._names = Names(means.identity_headers)
        bearer, basic = b'Bearer realm="' + REALM + b'"', b'Basic realm="' + REALM + b'", charset="UTF-8"'
        # RFC 7617, 2.1: UTF-8 is what names and passwords are in.
        self._challenges = [bearer] * (set(methods) != {"basic"}) + [basic] * (self._users is not None)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        harmless = self._names.harmless
        kept: list[Header] = []
        offered: list[Header] = []
        for header in scope["headers"]:
            name = header[0]
            if name in harmless:
                kept.append(header)
                continue
            if name in CREDENTIALS:
                offered.append(header)
            elif self._names.may_pass(name):
                kept.append(header)
        if not offered:
            raise self._refusal()
        credential = _the_one(offered)
        try:
            principal = self._identify(credential)
        except UnknownKid as unknown:
            return self._when_known(self._identify_anew(credential, unknown), kept, scope, receive, send)
        if principal is None:
            return self._when_known(self._ask(credential, exchange), kept, scope, receive, send)
        _introduce(principal, kept, scope)
        return self.app(scope, receive, send)

    async def _when_known(
        self, asked: Awaitable[Principal], kept: list[Header], scope: Scope, receive: Receive, send: Send
    ) -> None:
        _introduce(await asked, kept, scope)
        await self.app(scope, receive, send)

    def _identify(self, credential: bytes) -> Principal | None:
        """None: this takes time, `_ask`. Raises Unauthenticated, StoreUnavailable."""
        if credential[:3] != b"gw_":
            if credential[:6] == BASIC:
                return self._identify_user(credential)
            if credential.count(b".") == 2 and (self._tokens is not None or self._introspector is None):
                return self._identify_token(credential)
        if self._accepts_keys:
            if self._keys is None:
                raise StoreUnavailable(headers=[(b"retry-after", b"5")])
            principal = self._keys.find(credential, self._clock())
            if principal is not None:
                return principal
            told = self._told_of_key(credential)
            if told:
                raise self._refusal(is_offered=True, told=told)
        if self._introspector is not None and credential[:3] != b"gw_":  # a key of ours is for nobody else to see
            return self._recall(self._introspector.recall, credential)
        raise self._refusal(is_offered=True)

    def _identify_token(self, token: bytes) -> Principal:
        if self._tokens is None:
            raise self._refusal(is_offered=True)
        try:
            return self._tokens.verify(token, self._clock())
        except UnknownKid:
            raise
        except Unauthenticated as error:
            raise self._rejection(error) from error

    def _identify_user(self, password: bytes) -> Principal | None:
        if self._users is None:
            raise self._refusal(is_offered=True)
        return self._recall(self._users.recall, password)

    def _told_of_key(self, key: bytes) -> str:
        """Anybody can work out a check, and only who has a key can have an expired one."""
        assert self._keys is not None
        if key[:3] == b"gw_" and not is_well_formed(key):
            return "The key is mistyped or cut off: its check does not fit."
        return "The key has expired." if self._keys.find(key, -inf) is not None else ""

    def _recall(self, recall: Callable[[bytes, float], Principal | None], credential: bytes) -> Principal | None:
        try:
            return recall(credential, self._clock())
        except Unauthenticated as error:
            raise self._rejection(error) from error

    async def _ask(self, credential: bytes, exchange: Exchange) -> Principal:
        asked = self._users if credential[:6] == BASIC else self._introspector
        assert asked is not None, "it has been asked what it remembers"
        try:
            return await asked.ask(credential, self._clock(), network_of(exchange.client_ip))
        except Unauthenticated as error:
            raise self._rejection(error) from error

    async def _identify_anew(self, token: bytes, unknown: UnknownKid) -> Principal:
        """The issuer may have begun to sign with a new key: once more with its present ones."""
        if self._refresh is not None and await self._refresh(unknown.issuer):
            try:
                return self._identify_token(token)
            except UnknownKid:
                pass
        _log.debug("refused a token of %s: no such key", unknown.issuer)
        raise self._refusal(is_offered=True) from unknown

    def _rejection(self, error: Unauthenticated) -> Unauthenticated:
        """What is answered; what was wrong is for our own eyes, unless the token is genuine."""
        (note,) = getattr(error, "__notes__", ("a token",))
        _log.debug("refused %s", note)
        told = next((text for end, text in _TOLD.items() if note.endswith(end)), "")
        return self._refusal(is_offered=True, told=told if isinstance(error, Genuine) else "")

    def _refusal(self, *, is_offered: bool = False, told: str = "") -> Unauthenticated:
        """RFC 6750, 3: who offered nothing is told the scheme only; who offered what could be anybody's, nothing more.
        `told` is for who has a credential that was good, or nearly."""
        error = b', error="invalid_token"' if is_offered else b""
        error += b', error_description="%b"' % told.encode() if told else b""
        fields = [(b"www-authenticate", each + error * each.startswith(b"Bearer")) for each in self._challenges]
        return (Rejected if is_offered else Unauthenticated)(told or None, headers=fields)

    def __repr__(self) -> str:
        return f"<Authenticate keys={self._keys if self._accepts_keys else None!r} tokens={self._tokens!r}>"


class Public:
    """In front of a model that asks for no credentials: nobody may claim an identity there either, and a gateway's key
    that a client sends anyway is not shown to the model server. Other credentials are the model server's own."""

    def __init__(self, app: ASGIApp, *, means: Means) -> None:
        self.app = app
        self._names = Names(means.identity_headers)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        harmless = self._names.harmless
        scope["headers"] = [h for h in scope["headers"] if h[0] in harmless or self._may_pass(*h)]
        return self.app(scope, receive, send)

    def _may_pass(self, name: bytes, value: bytes) -> bool:
        if name in CREDENTIALS:
            return not holds_key(value)
        return self._names.may_pass(name)


class Refreshes:
    """Asks the controller for an issuer's keys: those who need the same wait for one answer, and at most one question
    per issuer is asked in each `interval`, however many tokens name keys that do not exist. One for a worker."""

    def __init__(
        self,
        request: Refresh,
        *,
        interval: float = 10.0,
        patience: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`request` is asked with the issuer and returns True once its new keys are in use here; after `patience`
        seconds it is given up. Times are seconds."""
        self._request = request
        self._interval = interval
        self._patience = patience
        self._clock = clock
        self._next: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[bool]] = {}

    async def __call__(self, issuer: str) -> bool:
        running = self._running.get(issuer)
        if running is None:
            now = self._clock()
            if now < self._next.get(issuer, -inf):
                return False
            self._next[issuer] = now + self._interval
            running = self._running[issuer] = asyncio.create_task(self._ask(issuer))
            running.add_done_callback(lambda _: self._running.pop(issuer))
        return await asyncio.shield(running)  # who waits may leave; the others still want to know

    async def _ask(self, issuer: str) -> bool:
        try:
            async with asyncio.timeout(self._patience):
                return await self._request(issuer)
        except TimeoutError:
            return False
        except Exception:  # a task's border: those who wait answer 401
            _log.exception("asking for the keys of %s failed", issuer)
            return False


def credential_in(name: bytes, value: bytes) -> bytes:
    """The key or token in a field; for the scheme Basic with its name; b"" for another one (RFC 6750, 2.1; schemes
    ignore case)."""
    if name != b"authorization":
        return value
    scheme, _, credential = value.partition(b" ")
    scheme = scheme.lower()
    if scheme == b"bearer":
        return credential.lstrip(b" ")
    return BASIC + credential.lstrip(b" ") if scheme == b"basic" else b""


def holds_key(value: bytes) -> bool:
    """Whether a field holds a key of ours, under whatever scheme: what we would not take for one is one to whoever
    reads it."""
    return _KEY.search(value) is not None


def _introduce(principal: Principal, kept: list[Header], scope: Scope) -> None:
    """The layers behind see who it is, and `kept` of the fields, with those that its issuer grants it."""
    if principal.headers:
        kept += principal.headers
    scope["headers"] = kept
    exchange: Exchange = scope["exchange"]
    exchange.principal = principal


def _the_one(offered: Sequence[Header]) -> bytes:
    """RFC 6750, 2: one request, one credential. Raises BadRequest if it cannot be said which is meant."""
    if len(offered) == 1:
        name, value = offered[0]
        return value[7:] if value[:10] == b"Bearer gw_" else credential_in(name, value)
    if sum(name == b"authorization" for name, _ in offered) > 1:
        raise BadRequest("The request has several Authorization headers.")
    credentials = {credential_in(name, value) for name, value in offered}
    if len(credentials) > 1:
        raise BadRequest("The request has several credentials, and they differ.")
    return credentials.pop()
