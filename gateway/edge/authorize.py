"""May the principal call this model, and which versions of it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.access import Access
from gateway.errors import Forbidden, VersionNotFound
from gateway.model import Exchange, Principal

_REMEMBERED: Final = 2000  # decisions per model, one for each set of grants; beyond it all are forgotten and made anew


Limited = Callable[[ASGIApp, tuple[Any, ...]], ASGIApp]


class Authorize:
    """Refuses with 403, or sets `exchange.allowed_versions` where the caller may use some versions only."""

    def __init__(
        self, app: ASGIApp, *, access: Access, is_hidden: bool = False, limited: Limited | None = None
    ) -> None:
        """`access` names the model by its own name: an alias grants nothing. Of a model that `is_hidden`, a version
        that may not be called does not exist. `limited` makes the layers of a key's own limits around those behind."""
        self.app = app
        self._access = access
        self._versions = access.versions
        self._is_ruled = bool(access.rules)
        self._is_hidden = is_hidden
        self._limited = limited
        self._apps: dict[tuple[Any, ...], ASGIApp] = {}  # by a key's own limits
        # By the grants themselves and not by who has them: the same subject may come with another token tomorrow.
        # Where claims count, by the principal, which is kept with its decision so that its id stays its own.
        self._decided: dict[Any, tuple[tuple[str, ...], Principal]] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        principal = exchange.principal
        if self._is_ruled and principal.kind != "key":
            key: Any = (id(principal), scope["method"])
        else:
            key = principal.grants
        if key is not None:
            decided = self._decided.get(key)
            allowed = decided[0] if decided is not None else self._decide(key, principal, scope)
            if not allowed:
                raise Forbidden
            if exchange.version is not None and exchange.version not in allowed:
                is_there = exchange.version in self._versions and not self._is_hidden
                if is_there:
                    raise Forbidden
                raise VersionNotFound(f"The model {self._access.model!r} has no version {exchange.version[:200]!r}.")
            if allowed is not self._versions:
                exchange.allowed_versions = allowed
        if principal.methods and scope["method"] not in principal.methods:
            raise Forbidden
        if principal.limits:
            return self._app_for(principal.limits)(scope, receive, send)
        return self.app(scope, receive, send)

    def _app_for(self, limits: tuple[Any, ...]) -> ASGIApp:
        app = self._apps.get(limits)
        if app is None:
            if len(self._apps) >= _REMEMBERED:
                self._apps.clear()
            app = self._apps[limits] = self._limited(self.app, limits) if self._limited is not None else self.app
        return app

    def _decide(self, key: Any, principal: Principal, scope: Scope) -> tuple[str, ...]:
        allowed = self._access.versions_for(principal, scope.get("method"))
        if len(allowed) == len(self._versions):
            allowed = self._versions
        if len(self._decided) >= _REMEMBERED:
            self._decided.clear()
        self._decided[key] = allowed, principal
        return allowed

    def __repr__(self) -> str:
        return f"<Authorize {self._access!r} {len(self._decided)} decided>"
