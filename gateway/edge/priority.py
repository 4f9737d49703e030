"""How important a request is to the line of its pool: 0 is served first."""

from collections.abc import Callable

from starlette.types import Scope

from gateway.config.settings import PrioritySettings
from gateway.core.headers import get
from gateway.model import Exchange

RankOf = Callable[[Scope, Exchange], int]


def rank_of(settings: PrioritySettings) -> RankOf:
    """The caller's claim says it, else the default. A header may make it less important; more important only what a
    trusted proxy forwards."""
    ranks = {level: rank for rank, level in enumerate(settings.levels)}
    usual = ranks[settings.default]
    claim = settings.claim
    header = settings.header.lower().encode("latin-1") if settings.header is not None else None

    def rank(scope: Scope, exchange: Exchange) -> int:
        own = ranks.get(str(exchange.principal.claims.get(claim)), usual) if claim is not None else usual
        if header is None:
            return own
        told = ranks.get((get(scope["headers"], header) or b"").decode("latin-1").strip())
        if told is None:
            return own
        return told if exchange.is_trusted else max(told, own)

    return rank
