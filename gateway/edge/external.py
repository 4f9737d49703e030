"""Decisions of another service, in the manner of nginx's auth_request and Envoy's ext_authz.

It is asked with GET and the request's head: some of its fields, and what it is about in `x-forwarded-*` and
`x-gateway-model`. 2xx admits; a redirect or a 4xx refuses, and is passed on to the client; anything else, and silence,
is a failure: nobody comes in then, and the answer is 503.
"""

import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.config.settings import ExternalAuth
from gateway.core.headers import CERTIFICATE_FIELDS, get, serialise
from gateway.edge.authenticate import CREDENTIALS, REALM, Means, Names, Rejected, credential_in, holds_key
from gateway.edge.question import Ask, start_of
from gateway.errors import AuthenticationBusy, ClientLeft, Forbidden, GatewayError, StoreUnavailable, Unauthenticated
from gateway.model import Answer, Exchange, Principal

_log = logging.getLogger("gateway.edge")

_KNOWN = "gateway.known"
_REMEMBERED = 10_000  # answers that admit
_REFUSALS_REMEMBERED = 200  # these have bodies
LONGEST_BODY = 64 * 1024  # bytes of an answer
_LONGEST_NAME = 255
# What of a refusal is the client's; all else is between the two services.
_PASSED = frozenset(
    (b"www-authenticate", b"location", b"set-cookie", b"content-type", b"content-language", b"retry-after",
     b"cache-control")
)  # fmt: skip
# A redirect needs a place to go; of 4xx, those that speak of one connection or of the question itself are no refusal.
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_NO_REFUSALS = frozenset((400, 405, 406, 407, 408, 411, 413, 414, 415, 417, 421, 426, 431))
_MAX_AGE = re.compile(rb"(?:^|[\s,])max-age=\"?(\d{1,9})", re.IGNORECASE)


class _Decision(NamedTuple):
    """What an answer means, and until when it counts."""

    until: float
    principal: Principal | None  # None: refused
    answer: Answer


class Denied(Rejected):
    """A credential that the other service has refused with 401."""


class Refused(Forbidden):
    """Its refusal of any other kind."""


class External:
    """Sets `exchange.principal` as the other service says, or refuses. `known` is for callers whom the gateway itself
    knows by their credential: what it admits is not asked about."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ExternalAuth,
        means: Means,
        ask: Ask,
        known: Callable[[ASGIApp], ASGIApp] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` sends a question; `known` makes the layer that tries the gateway's own ways first."""
        self.app = app
        self.settings = settings
        self._ask = ask
        self._known = known(_Known(app)) if known is not None else None
        self._clock = clock
        self._names = Names(means.identity_headers)
        self._sent = frozenset(name.encode() for name in settings.send) - CERTIFICATE_FIELDS  # a client's word
        self._accepted = tuple(name.encode() for name in settings.accept)
        self._answered = tuple(name.encode() for name in settings.answer)
        self._start = start_of(b"GET", settings.external)
        self._dice = secrets.token_bytes(32)
        self._admitted: OrderedDict[bytes, _Decision] = OrderedDict()
        self._refused: OrderedDict[bytes, _Decision] = OrderedDict()
        self._in_flight = 0
        self._is_down = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered = [header for header in scope["headers"] if header[0] in CREDENTIALS]
        is_ours = any(credential_in(*header).startswith(b"gw_") for header in offered)
        if self._known is not None and offered:
            try:
                await self._known(scope, receive, send)
                return
            except Unauthenticated:
                if scope.get(_KNOWN) or is_ours:  # a key of ours is nobody else's to judge, or to see
                    raise
        exchange: Exchange = scope["exchange"]
        decision = await self._decide(scope, exchange)
        if decision.principal is None:
            raise _refusal(decision.answer, is_offered=bool(offered))
        exchange.principal = decision.principal
        exchange.answer_headers += [each for each in decision.answer.headers if each[0] in self._answered]
        kept = [header for header in scope["headers"] if self._may_pass(header[0])]
        scope["headers"] = kept + list(decision.principal.headers)
        await self.app(scope, receive, send)

    def _may_pass(self, name: bytes) -> bool:
        return name in self._names.harmless or self._names.may_pass(name)

    async def _decide(self, scope: Scope, exchange: Exchange) -> _Decision:
        """Raises StoreUnavailable, AuthenticationBusy, ClientLeft."""
        about = self._about(scope, exchange)
        if not self.settings.cache:
            return await self._look(about, exchange)
        digest, now = blake2b(about, key=self._dice, digest_size=32).digest(), self._clock()
        for known in (self._admitted, self._refused):
            decision = known.get(digest)
            if decision is not None:
                if now < decision.until:
                    known.move_to_end(digest)
                    return decision
                del known[digest]
        decision = await self._look(about, exchange)
        if decision.until > now:
            is_refused = decision.principal is None
            store = self._refused if is_refused else self._admitted
            store[digest] = decision
            if len(store) > (_REFUSALS_REMEMBERED if is_refused else _REMEMBERED):
                store.popitem(last=False)
        return decision

    def _about(self, scope: Scope, exchange: Exchange) -> bytes:
        """The question, but for its id."""
        fields = [
            header for header in scope["headers"]
            if header[0] in self._sent and not (header[0] in CREDENTIALS and holds_key(header[1]))
        ]  # fmt: skip
        query = scope["query_string"]
        uri = scope["raw_path"] + (b"?" + query if query else b"")
        target = exchange.target
        told = {
            b"x-forwarded-method": scope["method"].encode(),
            b"x-forwarded-proto": scope["scheme"].encode(),
            b"x-forwarded-host": exchange.fields.get(b"host", b""),
            b"x-forwarded-uri": uri,
            b"x-forwarded-for": exchange.client_ip.encode(),
            b"x-gateway-model": exchange.route.name.encode() if exchange.route is not None else b"",
            b"x-gateway-version": (exchange.version or (target.version if target else None) or "").encode(),
        }
        return self._start + serialise([header for header in fields if header[0] not in told] + list(told.items()))

    async def _look(self, about: bytes, exchange: Exchange) -> _Decision:
        if self._in_flight >= self.settings.max_in_flight:
            raise AuthenticationBusy(headers=[(b"retry-after", b"1")])
        question = about + b"x-request-id: " + exchange.request_id.encode() + b"\r\n\r\n"
        self._in_flight += 1
        try:
            answer = await self._ask(question, self.settings.timeout, exchange, LONGEST_BODY)
        except ClientLeft:
            raise
        except GatewayError as error:
            raise self._failure(str(error)) from error
        finally:
            self._in_flight -= 1
        is_admitted = 200 <= answer.status < 300
        if not is_admitted and not _is_refusal(answer):
            raise self._failure(f"it answers {answer.status}")
        if self._is_down:
            self._is_down = False
            _log.info("%s decides again", self.settings.external)
        until = self._clock() + min(self.settings.cache, _freshness(answer))
        if not is_admitted:
            return _Decision(until, None, answer)
        told = [header for header in answer.headers if header[0] in self._accepted or header[0] in self._answered]
        return _Decision(until, self._principal(answer), Answer(answer.status, told, b""))

    def _failure(self, why: str) -> StoreUnavailable:
        if not self._is_down:
            self._is_down = True
            _log.error(
                "%s does not decide: %s; requests that it is to admit are answered 503", self.settings.external, why
            )
        return StoreUnavailable(headers=[(b"retry-after", b"1")])

    def _principal(self, answer: Answer) -> Principal:
        headers = tuple(header for header in answer.headers if header[0] in self._accepted)
        field = self.settings.principal
        value = get(answer.headers, field.encode()) if field else None
        name = (value or b"").decode("utf-8", "replace")
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            return Principal("external", "external", "external", None, {}, headers)
        return Principal(f"external|{name}", name, "external", None, {}, headers)

    def __repr__(self) -> str:
        return (
            f"<External {self.settings.external} {len(self._admitted)} remembered, {self._in_flight} asked about, "
            f"known {self._known!r}>"
        )


class _Known:
    """Behind the gateway's own ways: from here on a refusal is not about who is calling."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope[_KNOWN] = True
        return self.app(scope, receive, send)


def _is_refusal(answer: Answer) -> bool:
    if 300 <= answer.status < 400:
        return answer.status in _REDIRECTS and get(answer.headers, b"location") is not None
    return 400 <= answer.status < 500 and answer.status not in _NO_REFUSALS


def _freshness(answer: Answer) -> float:
    """RFC 9111, 5.2.2: less than the configured time if the answer says so."""
    control = get(answer.headers, b"cache-control") or b""
    if b"no-store" in control.lower() or b"no-cache" in control.lower():
        return 0.0
    match = _MAX_AGE.search(control)
    return float(match[1]) if match else float("inf")


def _refusal(answer: Answer, *, is_offered: bool) -> GatewayError:
    """The answer as it came, as far as it is the client's; where it has no body, with ours."""
    headers = [header for header in answer.headers if header[0] in _PASSED]
    if answer.status == 401 and get(headers, b"www-authenticate") is None:  # RFC 9110, 15.5.2
        headers.append((b"www-authenticate", b'Bearer realm="' + REALM + b'"'))
    error = Denied() if answer.status == 401 and is_offered else Refused()
    error.given = Answer(answer.status, headers, answer.body)
    return error
