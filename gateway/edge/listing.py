"""The gateway's own answers on the public port: which models there are for this caller, and that it is alive."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as WebRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.snapshot import Route, Snapshot
from gateway.edge.authenticate import CREDENTIALS, REALM, Authenticate, Means
from gateway.edge.body import read_body
from gateway.errors import BadRequest, NoEndpoint, Unauthenticated
from gateway.model import ANONYMOUS, Exchange, Principal

_INDEX_BOUND = 4096  # bytes of a question
_PART = 100  # models that are looked at in one go

T = TypeVar("T")

Current = Callable[[], Snapshot]
Wrap = Callable[[ASGIApp, ASGIApp | None], ASGIApp]


class Listing:
    """`GET /v1/models`, as OpenAI's: what the caller may use, and nothing else. Without credentials, what is public."""

    def __init__(self, current: Current, means: Callable[[], Means]) -> None:
        self.current = current
        self.means = means
        self.by_certificate: Wrap | None = None  # where clients are asked for certificates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.known(self.answer, scope, receive, send)

    async def known(self, answer: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """`answer`, once it is known who is calling, if somebody says so."""
        if any(name in CREDENTIALS for name, _ in scope["headers"]):
            answer = Authenticate(answer, methods=["key", "jwt", "introspection", "basic"], means=self.means())
        elif self.by_certificate is not None:
            answer = self.by_certificate(answer, answer)
        await answer(scope, receive, send)

    async def shown(self, exchange: Exchange) -> list[tuple[Route, list[str]]]:
        """What the caller may use. Raises Unauthenticated if that is nothing, and nobody has said who it is."""
        shown = []
        async for routes in in_parts(list(self.current().routes.values())):
            shown += visible(exchange.principal, routes)
        if not shown and exchange.principal is ANONYMOUS:
            raise Unauthenticated(headers=[(b"www-authenticate", b'Bearer realm="%b"' % REALM)])
        return shown

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        data = [
            {
                "id": route.name,
                "object": "model",
                "created": 0,
                "owned_by": "gateway",
                "aliases": list(route.aliases),
                "versions": versions,
            }
            for route, versions in await self.shown(exchange)
        ]
        await _answer({"object": "list", "data": data}, exchange)(scope, receive, send)


class Repository:
    """Triton's `POST /v2/repository/index`: the versions that the caller may use, and whether each can be served; with
    `{"ready": true}` in its body, those alone that can."""

    def __init__(self, listing: "Listing") -> None:
        self.listing = listing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.listing.known(self.answer, scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        wanted = _wanted(await read_body(receive, _INDEX_BOUND))
        index = []
        async for shown in in_parts(await self.listing.shown(exchange)):
            for route, version in ((route, version) for route, versions in shown for version in versions):
                is_ready = bool(route.pools[version].candidates((), monotonic()))
                state = {"state": "READY"} if is_ready else {"state": "UNAVAILABLE", "reason": "no endpoint is up"}
                if is_ready or not wanted.ready:
                    index.append({"name": route.name, "version": version, **state})
        await _answer(index, exchange)(scope, receive, send)


class _Wanted(msgspec.Struct):
    ready: bool = False


def _wanted(body: bytes) -> _Wanted:
    try:
        return msgspec.json.decode(body or b"{}", type=_Wanted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The request's body is not as the model repository extension has it: {error}.") from error


class ServerReady:
    """OIP's view of the gateway as one server: ready while any model of it can be served."""

    def __init__(self, current: Current) -> None:
        self.current = current

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async for routes in in_parts(list(self.current().routes.values())):
            if any(pool.candidates((), monotonic()) for route in routes for pool in route.pools.values()):
                await _answer({"ready": True}, scope["exchange"])(scope, receive, send)
                return
        raise NoEndpoint("No model is ready.", headers=[(b"retry-after", b"1")])


async def in_parts(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """With a look at what other requests need in between: of 5,000 models anybody may ask for the list."""
    for at in range(0, len(items), _PART):
        if at:
            await asyncio.sleep(0)
        yield items[at : at + _PART]


async def live(request: Request) -> Response:
    return _answer({"live": True}, request.scope["exchange"])


async def metadata(request: Request) -> Response:
    """OIP's server metadata; it says no version, as no answer of the gateway does."""
    return _answer({"name": "gateway", "version": "", "extensions": []}, request.scope["exchange"])


def visible(principal: Principal, routes: Sequence[Route]) -> list[tuple[Route, list[str]]]:
    """The routes that the principal may call, each with the versions that it may call."""
    shown = []
    for route in routes:
        if not route.auth:
            shown.append((route, list(route.pools)))
        elif principal.kind in route.auth:
            versions = route.access.versions_for(principal, None) if route.access else tuple(route.pools)
            if versions:
                shown.append((route, list(versions)))
    return shown


def routes_of(listing: Listing) -> list[WebRoute]:
    """What the gateway itself serves on the public port."""
    return [
        WebRoute("/v1/models", listing, methods=["GET"]),
        WebRoute("/v2/repository/index", Repository(listing), methods=["POST"]),
        WebRoute("/v2", metadata),
        WebRoute("/v2/health/live", live),
        WebRoute("/v2/health/ready", ServerReady(listing.current), methods=["GET"]),
    ]


def _answer(content: object, exchange: Exchange) -> Response:
    response = Response(msgspec.json.encode(content), media_type="application/json")
    response.raw_headers += exchange.answer_headers
    return response
