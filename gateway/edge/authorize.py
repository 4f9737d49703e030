"""May the principal call this model, and which versions of it."""

from collections.abc import Iterable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Forbidden, VersionNotFound
from gateway.model import Exchange, Principal

_REMEMBERED = 2000  # decisions per model, one for each set of grants; beyond it all are forgotten and made anew


class Authorize:
    """Refuses with 403, or sets `exchange.allowed_versions` where the grants are for some versions only."""

    def __init__(self, app: ASGIApp, *, model: str, versions: Sequence[str]) -> None:
        """`model` by its own name: an alias grants nothing. `versions` are all that it has."""
        self.app = app
        self._model = model
        self._versions = tuple(versions)
        # By the grants themselves and not by who has them: the same subject may come with another token tomorrow.
        self._decided: dict[tuple[str, ...], tuple[str, ...]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        principal = exchange.principal
        if principal.grants is not None:
            allowed = self._decided.get(principal.grants)
            if allowed is None:
                allowed = self._decide(principal)
            if not allowed:
                raise Forbidden
            if exchange.version is not None and exchange.version not in allowed:
                raise Forbidden if exchange.version in self._versions else VersionNotFound
            if allowed is not self._versions:
                exchange.allowed_versions = allowed
        await self.app(scope, receive, send)

    def _decide(self, principal: Principal) -> tuple[str, ...]:
        allowed = allowed_versions(principal, self._model, self._versions)
        if len(allowed) == len(self._versions):
            allowed = self._versions
        if len(self._decided) >= _REMEMBERED:
            self._decided.clear()
        if principal.grants is not None:
            self._decided[principal.grants] = allowed
        return allowed

    def __repr__(self) -> str:
        return f"<Authorize {self._model} {list(self._versions)} {len(self._decided)} decided>"


def allowed_versions(principal: Principal, model: str, versions: Iterable[str]) -> tuple[str, ...]:
    """Those of a model's versions that the principal may call, in their order."""
    return tuple(version for version in versions if principal.may_call(model, version))
