"""Which route a request takes: it is handed to the chain of its model."""

from collections.abc import Mapping

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.dispatch import Directory, Target, header_text
from gateway.core.snapshot import Route
from gateway.edge.body import Replay, read_body
from gateway.errors import BadRequest, MethodNotAllowed, TooLarge
from gateway.model import Exchange

_JSON_BOUND = 32 * 2**20  # bytes of a body read before its model, and so its own bound, is known
BODY_METHODS = frozenset(("POST", "PUT", "PATCH"))


class Named(msgspec.Struct):
    """All that is read of an OpenAI body."""

    model: str | None = None


_decode_named = msgspec.json.Decoder(Named).decode


class Match:
    """Hands a request for a model to its route's chain; everything else goes on to the app's own routes."""

    def __init__(self, app: ASGIApp, *, directory: Directory, routes: Mapping[str, Route]) -> None:
        self.app = app
        self.directory = directory
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        host, model, version = _read_head(scope)
        path: bytes = scope["raw_path"]
        target = self.directory.target(host, path, model, version)
        if target is None or (not target.model and scope["method"] not in BODY_METHODS):
            await self.app(scope, receive, send)
            return
        if target.is_in_body and scope["method"] in BODY_METHODS:
            target, receive = await self._read_model(target, exchange, receive, scope)
        if not target.model:
            raise BadRequest("The request names no model: its body needs `model`, or its head `x-model`.")
        route = self.routes[target.model]
        if route.methods and scope["method"] not in route.methods:
            raise MethodNotAllowed(headers=[(b"allow", ", ".join(sorted(route.methods)).encode())])
        exchange.route = route
        exchange.target = target
        exchange.version = target.version
        exchange.path = target.path
        await route.chain(scope, receive, send)

    async def _read_model(
        self, target: Target, exchange: Exchange, receive: Receive, scope: Scope
    ) -> tuple[Target, Receive]:
        """Read the body, and the model in it where the head has named none. A body that is not JSON is an error only
        if nothing else names the model."""
        route = self.routes[target.model] if target.model else None
        is_json = _is_json(scope)
        if route is not None and not is_json:
            return target, receive
        bound = route.json_bytes if route is not None else _JSON_BOUND
        _refuse_declared(scope, bound)
        body = await read_body(receive, bound)
        exchange.body = body
        receive = Replay(body, receive)
        named = model_in(body, is_required=route is None)
        if not named:
            return target._replace(is_in_body=False), receive
        if route is None:
            model, version = self.directory.named(named)
            return target._replace(model=model, version=target.version or version, named=named), receive
        return self._merge(target, route, named), receive

    def _merge(self, target: Target, route: Route, named: str) -> Target:
        """The head has named the model and wins; the body may still name a version of it."""
        name, _, version = named.rpartition("@")
        if target.version is None and version in route.pools and self.directory.names.get(name) == route.name:
            return target._replace(version=version, named=named)
        return target._replace(named=named)


def _read_head(scope: Scope) -> tuple[str, str | None, str | None]:
    """The host, and what x-model and x-model-version say."""
    host, model, version = "", None, None
    for name, value in scope["headers"]:
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"x-model":
            model = header_text(value)
        elif name == b"x-model-version":
            version = header_text(value)
    return _host_name(host), model, version


def _host_name(host: str) -> str:
    """The host of a Host field, lower-case, without its port."""
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def _is_json(scope: Scope) -> bool:
    """True unless a content type says otherwise; OpenAI clients always send application/json."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            return b"json" in value.lower()
    return True


def _refuse_declared(scope: Scope, bound: int) -> None:
    """413 before a byte is read, where the length says so."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > bound:
            raise TooLarge


def model_in(body: bytes, *, is_required: bool) -> str | None:
    """The `model` of a JSON body. Raises BadRequest if the body is not a JSON object and it `is_required`."""
    try:
        return _decode_named(body).model
    except msgspec.DecodeError as error:
        if is_required:
            raise BadRequest(f"The request's body is not a JSON object with a `model`: {error}.") from error
        return None
