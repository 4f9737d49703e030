"""How important a request is: its caller's claim says it, its client may say less, a trusted proxy anything."""

from typing import Any

import pytest

from gateway.config.settings import PrioritySettings
from gateway.edge.priority import rank_of
from gateway.model import Exchange, Principal


def rank(settings: dict[str, Any], header: bytes = b"", tier: str | None = None, *, is_trusted: bool = False) -> int:
    exchange = Exchange("r", 0.0, "127.0.0.1")
    exchange.is_trusted = is_trusted
    exchange.principal = Principal("k", "k", "key", claims={} if tier is None else {"tier": tier})
    fields = [(b"x-priority", header)] if header else []
    return rank_of(PrioritySettings(**settings))({"headers": fields}, exchange)


HEADER = {"header": "X-Priority"}
BOTH = {"header": "X-Priority", "claim": "tier"}


@pytest.mark.parametrize(
    ("settings", "header", "tier", "is_trusted", "expected"),
    [
        ({}, b"high", "high", True, 1),
        (HEADER, b"", None, False, 1),
        (HEADER, b"low", None, False, 2),
        (HEADER, b"high", None, False, 1),
        (HEADER, b" high ", None, True, 0),
        (HEADER, b"urgent", None, True, 1),
        (BOTH, b"", "high", False, 0),
        (BOTH, b"low", "high", False, 2),
        (BOTH, b"high", "low", False, 2),
        (BOTH, b"high", "low", True, 0),
        (BOTH, b"", "unknown", False, 1),
        (BOTH, b"\xff", "low", True, 2),
    ],
)
def test_who_is_how_important(
    settings: dict[str, Any], header: bytes, tier: str | None, is_trusted: bool, expected: int
) -> None:
    assert rank(settings, header, tier, is_trusted=is_trusted) == expected


def test_levels_are_what_the_route_says() -> None:
    assert rank({"levels": ["a", "b"], "default": "b", "claim": "tier"}, tier="a") == 0
    with pytest.raises(ValueError, match="none of"):
        PrioritySettings(levels=["a"])
