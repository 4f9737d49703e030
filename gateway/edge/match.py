"""Which route a request takes: it is handed to the chain of its model."""

import re
from collections.abc import Awaitable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.body import Replay
from gateway.core.dispatch import Directory, header_text
from gateway.core.headers import get_all
from gateway.core.snapshot import Route
from gateway.edge.body import at_hand, read_body
from gateway.edge.form import is_form, model_in_form
from gateway.errors import BadRequest, MethodNotAllowed, TooLarge
from gateway.model import Exchange

_JSON_BOUND: Final = 32 * 2**20  # bytes of a body read before its model, and so its own bound, is known
BODY_METHODS: Final = frozenset(("POST", "PUT", "PATCH"))


# All that is read of an OpenAI body. Not a class statement, which a compiler would make another thing of.
_Named: Any = msgspec.defstruct("Named", [("model", str | None, None)])
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_JSON: Final = re.compile(rb"json|text/plain|x-www-form-urlencoded")
# How an object begins in whatever encoding a reader guesses: Python's takes UTF-16 and UTF-32.
_OBJECT: Final = re.compile(rb"[\s\0\xef\xbb\xbf\xff\xfe]*\{")


class Match:
    """Hands a request for a model to its route's chain; everything else goes on to the app's own routes."""

    def __init__(self, app: ASGIApp, *, directory: Directory, routes: Mapping[str, Route]) -> None:
        self.app = app
        self.directory = directory
        self.routes = routes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        fields, path, method = exchange.fields, scope["raw_path"], scope["method"]
        model, version = fields.get(b"x-model"), fields.get(b"x-model-version")
        target = self.directory.target(
            host_name(fields.get(b"host", b"")),
            path,
            header_text(model) if model is not None else None,
            header_text(version) if version is not None else None,
        )
        if target is None or (not target.model and method not in BODY_METHODS):
            return self.app(scope, receive, send)
        exchange.target = target
        exchange.version = target.version
        exchange.path = target.path
        route = self.routes[target.model] if target.model else None
        if route is not None and route.is_hidden and (model is not None or target.path != path):
            return _hand_on(route, scope, receive, send)  # by its name: `NamedInBody` reads, when it is known who asks
        if target.is_in_body and method in BODY_METHODS and (route is None or _may_name(fields, scope, route)):
            bound = route.json_bytes if route is not None else _JSON_BOUND
            body = _at_hand(fields, receive, bound)
            if body is None:
                return self._read(bound, route, scope, receive, send)
            return self._by_body(body, route, scope, receive, send)
        return _hand_on(route, scope, receive, send)

    async def _read(self, bound: int, route: Route | None, scope: Scope, receive: Receive, send: Send) -> None:
        await self._by_body(await read_body(receive, bound), route, scope, receive, send)

    def _by_body(self, body: bytes, route: Route | None, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        exchange.body = body
        return _hand_on(self._named_in(body, route, scope), scope, Replay(body, receive), send)

    def _named_in(self, body: bytes, route: Route | None, scope: Scope) -> Route | None:
        """What the body names; a route that the head has named wins, but the body may still name a version of it."""
        exchange: Exchange = scope["exchange"]
        named = _named(body, scope, is_required=route is None)
        if not named:
            return route
        exchange.named = named
        if route is None:
            model, version = self.directory.named(named)
            route = self.routes[model]
        else:
            version = _version_in(named, route)
        if exchange.version is None:
            exchange.version = version
        return route


class NamedInBody:
    """Behind the authorisation of a model that hides itself, and in front of another one: what a body may name is a
    version. Read in front of it, as elsewhere, a body would tell by its answer (413, 400, 100, none yet) that there is
    a model of the name in the head; where a host or prefix leads to it, a body is read whoever's it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        target, fields, route = exchange.target, exchange.fields, exchange.route
        if route is None or target is None or exchange.body is not None:
            return self.app(scope, receive, send)
        if not target.is_in_body or scope["method"] not in BODY_METHODS or not _may_name(fields, scope, route):
            return self.app(scope, receive, send)
        body = _at_hand(fields, receive, route.json_bytes)
        if body is None:
            return self._read(route, scope, receive, send)
        return self._by_body(body, route, scope, receive, send)

    async def _read(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        await self._by_body(await read_body(receive, route.json_bytes), route, scope, receive, send)

    def _by_body(self, body: bytes, route: Route, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        exchange.body = body
        named = _named(body, scope, is_required=False)
        if named:
            exchange.named = named
            if exchange.version is None:
                exchange.version = _version_in(named, route)
        return self.app(scope, Replay(body, receive), send)


def _at_hand(fields: dict[bytes, bytes], receive: Receive, bound: int) -> bytes | None:
    """The body, if all of it is here. Raises TooLarge, before a byte of it is read where it says how long it is."""
    length = fields.get(b"content-length", b"")
    if length.isdigit() and int(length) > bound:
        raise TooLarge
    return at_hand(receive, bound)


def _named(body: bytes, scope: Scope, *, is_required: bool) -> str | None:
    exchange: Exchange = scope["exchange"]
    kind = exchange.fields.get(b"content-type", b"")
    if not is_form(kind):
        return model_in(body, is_required=is_required)
    if len(get_all(scope["headers"], b"content-type")) > 1:
        raise BadRequest("The form has several content types: others might find another model in it.")
    return model_in_form(body, kind)


def _version_in(named: str, route: Route) -> str | None:
    """The version, where a body names one of the model that the head has named."""
    name, _, version = named.rpartition("@")
    is_its = name == route.name or name in route.aliases
    return version if is_its and version in route.pools else None


def _hand_on(route: Route | None, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """To the chain of the route."""
    if route is None:
        raise BadRequest("The request names no model: its body needs `model`, or its head `x-model`.")
    if route.methods and scope["method"] not in route.methods and not route.is_hidden:  # then `Admitted` says no
        raise MethodNotAllowed(headers=[(b"allow", ", ".join(sorted(route.methods)).encode())])
    exchange: Exchange = scope["exchange"]
    exchange.route = route
    return route.chain(scope, receive, send)


@lru_cache(maxsize=1024)
def host_name(host: bytes) -> str:
    """The host of a Host field, lower-case, without its port."""
    text = host.decode("latin-1")
    name = text.partition("]")[0][1:] if text.startswith("[") else text.partition(":")[0]
    return name.lower().rstrip(".")


def _may_name(fields: dict[bytes, bytes], scope: Scope, route: Route) -> bool:
    """Whether a body is read though the head has named its model: it may name a version, or a name that the upstream
    does not know. Not a form with a large file, or one whose size nobody knows: that streams through."""
    if _is_json(fields, scope):
        return True
    length = fields.get(b"content-length", b"")
    is_form_data = fields.get(b"content-type", b"")[:19].lower() == b"multipart/form-data"
    return is_form_data and length.isdigit() and int(length) <= route.json_bytes


def _is_json(fields: dict[bytes, bytes], scope: Scope) -> bool:
    """True unless a content type says otherwise. OpenAI's clients always send application/json; curl and browsers call
    anything text or a form, and not every model server looks. Of several, who knows which one it looks at."""
    kind = fields.get(b"content-type", b"")
    if kind in (b"", b"application/json") or _JSON.search(kind.lower()) is not None:
        return True
    return len(fields) != len(scope["headers"]) and len(get_all(scope["headers"], b"content-type")) > 1


def model_in(body: bytes, *, is_required: bool) -> str | None:
    """The `model` of a JSON body. Raises BadRequest if the body is not a JSON object and it `is_required`, or if it is
    one to others perhaps (UTF-16, NaN): what they find in it nobody has authorised."""
    try:
        named: str | None = _decode_named(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if is_required:
            raise (_unreadable(error) if body else BadRequest("The request has no body to name a `model`.")) from error
        named = _model_among(body) if _OBJECT.match(body) is not None else None
    return named


def _model_among(body: bytes) -> str | None:
    """The same, where a `model` that is no text is none."""
    try:
        named = bytes(_decode_members(body).get("model", b""))
        return msgspec.json.decode(named, type=str) if named[:1] == b'"' else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> BadRequest:
    return BadRequest(f"The request's body is not a JSON object with a `model`: {error}.")
