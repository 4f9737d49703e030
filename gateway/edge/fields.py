"""How an answer tells the state of its limits.

The fields are the IETF's `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), which name every
limit, and the `x-ratelimit-*` that OpenAI sends and its clients read, for the tightest limit of each unit.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.core.limiter import SECOND, Limit
from gateway.model import Header


class _Unit(NamedTuple):
    """What never changes of a unit's `x-ratelimit-*` fields."""

    indexes: list[int]  # of its limits
    bursts: dict[int, Header]
    remaining: bytes
    reset: bytes


class Fields:
    """The fields for some (limit, unit). Everything that does not change is made once."""

    def __init__(self, limits: Sequence[tuple[Limit, str]]) -> None:
        self.limits = [limit for limit, _ in limits]
        names = ["default"] if len(limits) == 1 else [f"{unit}-{i}" for i, (_, unit) in enumerate(limits, 1)]
        policies = []
        for name, (limit, unit) in zip(names, limits, strict=True):
            told = "" if unit == "requests" else f';qu="{unit}"'  # requests are the draft's default
            policies.append(f'"{name}";q={limit.amount};w={limit.period}{told}')
        self.policy = (b"ratelimit-policy", ", ".join(policies).encode())
        self.members = [f'"{name}";r=%d;t=%d'.encode() for name in names]
        self.units = [self._unit(unit, limits) for unit in dict.fromkeys(unit for _, unit in limits)]
        self.is_one = len(limits) == 1

    @staticmethod
    def _unit(unit: str, limits: Sequence[tuple[Limit, str]]) -> _Unit:
        prefix, suffix = b"x-ratelimit-", unit.encode()
        indexes = [i for i, (_, each) in enumerate(limits) if each == unit]
        bursts = {i: (prefix + b"limit-" + suffix, b"%d" % limits[i][0].burst) for i in indexes}
        return _Unit(indexes, bursts, prefix + b"remaining-" + suffix, prefix + b"reset-" + suffix)

    def admitted(self, debts: Sequence[int]) -> list[Header]:
        """For an answer to a request that has been admitted, leaving the buckets with these debts (nanoseconds)."""
        if self.is_one:
            debt = debts[0]
            return self._only(debt, (debt + SECOND - 1) // SECOND)
        return self._all(debts, [(debt + SECOND - 1) // SECOND for debt in debts])

    def refused(self, debts: Sequence[int], resets: Sequence[int]) -> list[Header]:
        """For a refusal. `resets` are seconds: a refusing limit's is its Retry-After, as the draft asks."""
        if self.is_one:
            return self._only(debts[0], resets[0])
        return self._all(debts, resets)

    def _only(self, debt: int, reset: int) -> list[Header]:
        """What nearly every route has: one limit."""
        limit, member, unit = self.limits[0], self.members[0], self.units[0]
        left = (limit.window - debt) // limit.price if debt < limit.window else 0
        return [
            self.policy,
            (b"ratelimit", member % (left, reset)),
            unit.bursts[0],
            (unit.remaining, b"%d" % left),
            (unit.reset, duration(debt)),
        ]

    def _all(self, debts: Sequence[int], resets: Sequence[int]) -> list[Header]:
        left = [limit.remaining(debt) for limit, debt in zip(self.limits, debts, strict=True)]
        told = [member % pair for member, pair in zip(self.members, zip(left, resets, strict=True), strict=True)]
        fields = [self.policy, (b"ratelimit", b", ".join(told))]
        for unit in self.units:
            tightest = min(unit.indexes, key=left.__getitem__)
            fields.append(unit.bursts[tightest])
            fields.append((unit.remaining, b"%d" % left[tightest]))
            fields.append((unit.reset, duration(debts[tightest])))
        return fields


def duration(nanoseconds: int) -> bytes:
    """As Go writes durations and OpenAI its resets: `250ms`, `8s`, `6m0s`, `1h0m5s`; rounded up."""
    if 0 < nanoseconds < SECOND:
        return b"%dms" % -(-nanoseconds // 1_000_000)
    seconds = -(-nanoseconds // SECOND)
    if seconds < 60:
        return b"%ds" % seconds
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return b"%dh%dm%ds" % (hours, minutes, seconds) if hours else b"%dm%ds" % (minutes, seconds)
