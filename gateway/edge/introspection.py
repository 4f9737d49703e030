"""Tokens that only their issuer can read: it is asked about each (RFC 7662), and its answer counts for a while.

An answer is remembered by a keyed hash of its token, a refusal too, but shorter. While the issuer does not answer,
tokens that are not remembered are answered 503: the gateway cannot tell, and that is not the caller's fault.
"""

import asyncio
import logging
import os
import secrets
from base64 import b64encode
from collections import OrderedDict
from hashlib import blake2b
from math import inf
from typing import Any
from urllib.parse import quote_plus

from gateway.config.settings import Introspection as Settings
from gateway.edge import jws
from gateway.edge.claims import Trust, check_audience, check_claims, principal_of, refuse, valid_between
from gateway.edge.question import Ask, start_of
from gateway.edge.tokens import LONGEST_TOKEN
from gateway.errors import AuthenticationBusy, GatewayError, StoreUnavailable, Unauthenticated
from gateway.model import Exchange, Principal

_log = logging.getLogger("gateway.edge")

_REMEMBERED = 10_000  # tokens that are active
_REFUSED_REMEMBERED = 10_000
_LONGEST = 64 * 1024  # bytes of an answer
_MOST_WAITING = 64  # tokens that are asked about; one more is 503
_MOST_OF_ONE = 16  # for one address, so that nobody takes the places of all others
_STEP = 1.0  # seconds that a clock which is set right all the time may go back
_NAMES = ("sub", "username", "client_id")  # who it is, the first that is there (RFC 7662, 2.2)


class Introspector:
    """One for a worker."""

    def __init__(self, settings: Settings, ask: Ask, secret: bytes) -> None:
        """`ask` sends a question; `secret` is the gateway's own at the issuer, b"" for none."""
        self.settings = settings
        self.ask_service = ask
        self.secret = secret
        self._trust = _trust(settings)
        self._dice = secrets.token_bytes(32)
        self._active: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Principal]] = {}
        self._waiting: dict[str, int] = {}  # of these, by address
        self._is_down = False
        self._seen = 0.0  # the latest moment

    def recall(self, token: bytes, now: float) -> Principal | None:
        """Whose token this is, if that is known already. Raises Unauthenticated for one that was refused a moment ago,
        or could not be one. `now` is seconds since the epoch."""
        if not token or len(token) > LONGEST_TOKEN:
            refuse("of impossible length")
        if now < self._seen - _STEP:  # the clock was set back: what it said of how long does not hold any more
            self._active.clear()
            self._refused.clear()
        self._seen = now
        digest = self._digest(token)
        known = self._active.get(digest)
        if known is not None and now < known[1]:
            self._active.move_to_end(digest)
            return known[0]
        if now < self._refused.get(digest, -inf):
            refuse("that was refused a moment ago")
        return None

    async def ask(self, token: bytes, now: float, address: str) -> Principal:
        """Ask the issuer. Raises Unauthenticated; StoreUnavailable if it does not answer; AuthenticationBusy if it
        is asked too much."""
        digest = self._digest(token)
        running = self._running.get(digest)
        if running is None:
            if len(self._running) >= _MOST_WAITING or self._waiting.get(address, 0) >= _MOST_OF_ONE:
                raise AuthenticationBusy(headers=[(b"retry-after", b"1")])
            running = self._running[digest] = asyncio.create_task(self._look(token, digest, now))
            self._waiting[address] = self._waiting.get(address, 0) + 1
            running.add_done_callback(lambda task: self._done(task, digest, address))
        return await asyncio.shield(running)  # who waits may leave; the others still want to know

    def _done(self, task: asyncio.Task[Principal], digest: bytes, address: str) -> None:
        del self._running[digest]
        self._waiting[address] -= 1
        if not self._waiting[address]:
            del self._waiting[address]
        if not task.cancelled():
            task.exception()  # if all who waited have left, nobody else looks at it

    async def _look(self, token: bytes, digest: bytes, now: float) -> Principal:
        claims = await self._claims(token)
        try:
            if claims.get("active") is not True:
                refuse("that is not active")
            until = valid_between(self._trust, claims, now)
            check_audience(self._trust, claims)
            check_claims(self._trust, claims)
            principal = self._principal(claims)
        except Unauthenticated:
            _remember(self._refused, digest, now + self.settings.negative_cache, _REFUSED_REMEMBERED)
            raise
        if self.settings.cache:
            _remember(self._active, digest, (principal, min(until, now + self.settings.cache)), _REMEMBERED)
        return principal

    def _principal(self, claims: dict[str, Any]) -> Principal:
        name = next((claims[name] for name in _NAMES if claims.get(name) is not None), None)
        if not isinstance(name, str):
            refuse("of nobody")
        issuer = claims.get("iss", "introspection")
        if not isinstance(issuer, str) or not issuer.isprintable():
            refuse("of an issuer that cannot be logged")
        return principal_of(self._trust, {**claims, "sub": name}, kind="introspection", issuer=issuer)

    async def _claims(self, token: bytes) -> dict[str, Any]:
        """What the issuer says of the token. Raises StoreUnavailable."""
        try:
            answer = await self.ask_service(
                self._question(token), self.settings.timeout, Exchange("", 0.0, ""), _LONGEST
            )
            if answer.status != 200:
                raise self._failure(f"it answers {answer.status}")
            claims = jws.read_object(answer.body)
        except StoreUnavailable:
            raise
        except (GatewayError, jws.Malformed) as error:
            raise self._failure(str(error)) from error
        if self._is_down:
            self._is_down = False
            _log.info("%s answers again", self.settings.url)
        return claims

    def _failure(self, why: str) -> StoreUnavailable:
        if not self._is_down:
            self._is_down = True
            _log.error("%s does not introspect: %s; tokens that are not known are answered 503", self.settings.url, why)
        return StoreUnavailable(headers=[(b"retry-after", b"1")])

    def _question(self, token: bytes) -> bytes:
        """RFC 7662, 2.1; RFC 6749, 2.3.1."""
        body = b"token=%b&token_type_hint=access_token" % quote_plus(token).encode()
        lines = [b"accept: application/json", b"content-type: application/x-www-form-urlencoded"]
        if self.secret:
            pair = f"{quote_plus(self.settings.client_id or '')}:{quote_plus(self.secret)}"
            lines.append(b"authorization: Basic " + b64encode(pair.encode()))
        lines.append(b"content-length: %d" % len(body))
        return start_of(b"POST", self.settings.url) + b"\r\n".join(lines) + b"\r\n\r\n" + body

    def _digest(self, token: bytes) -> bytes:
        return blake2b(token, key=self._dice, digest_size=32).digest()

    def __repr__(self) -> str:
        known = f"{len(self._active)} remembered, {len(self._refused)} refused"
        return f"<Introspector {self.settings.url} {known}, {len(self._running)} asked about>"


def _remember(store: OrderedDict[bytes, Any], digest: bytes, value: Any, most: int) -> None:
    store[digest] = value
    store.move_to_end(digest)
    if len(store) > most:
        store.popitem(last=False)


def _trust(settings: Settings) -> Trust:
    return Trust(
        issuer="introspection",
        audience=tuple(settings.audience),
        algorithms=frozenset(),
        leeway=settings.leeway,
        models_claim=settings.models_claim,
        headers=tuple((claim, name.encode()) for claim, name in settings.claims_to_headers.items()),
        types=frozenset(),
        max_age=inf,
        scopes=frozenset(settings.scopes),
        required=tuple((claim, frozenset(values)) for claim, values in settings.required_claims.items()),
    )


def read_secret(settings: Settings) -> bytes:
    """The gateway's own secret at the issuer. Raises ValueError, which never says what it is."""
    if settings.client_id is None:
        return b""
    place = str(settings.secret_file or settings.secret_env)
    try:
        secret = settings.secret_file.read_bytes() if settings.secret_file else os.environ.get(place, "").encode()
    except OSError as error:
        raise ValueError(str(error)) from error
    if not secret.strip():
        raise ValueError(f"{place} is empty")
    return secret.strip()
