"""A model that only those who may call it know of: to all others it answers as one that does not exist."""

from collections.abc import Awaitable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.dispatch import Directory, header_text
from gateway.edge.match import host_name
from gateway.errors import BadRequest, Forbidden, MethodNotAllowed, ModelNotFound, NotFound, Unauthenticated
from gateway.model import Exchange

_ADMITTED = "gateway.admitted"


class Hide:
    """In front of authentication: what is refused there is answered as `others`, the directory of models that are not
    hidden, answers a name that it does not know. Between the two and the rest of the chain stands `Admitted`."""

    def __init__(self, app: ASGIApp, *, others: Directory) -> None:
        self.app = app
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except (Unauthenticated, Forbidden, BadRequest) as error:
            if _ADMITTED in scope:
                raise
            raise self._unknown(scope) from error

    def _unknown(self, scope: Scope) -> NotFound:
        exchange: Exchange = scope["exchange"]
        fields = exchange.fields
        model = fields.get(b"x-model")
        try:
            if model is None and exchange.named:
                self._others.named(exchange.named)
            host = host_name(fields.get(b"host", b""))
            name = header_text(model) if model is not None else None
            found = self._others.target(host, scope["raw_path"], name, None)
        except NotFound as error:
            return error
        return NotFound() if found is None else ModelNotFound()


class Admitted:
    """From here on the caller may know. `methods` are those the model allows, all if empty: only now may it say so."""

    def __init__(self, app: ASGIApp, *, methods: Iterable[str] = ()) -> None:
        self.app = app
        self._methods = frozenset(methods)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope[_ADMITTED] = True
        if self._methods and scope["method"] not in self._methods:
            raise MethodNotAllowed(headers=[(b"allow", ", ".join(sorted(self._methods)).encode())])
        return self.app(scope, receive, send)
