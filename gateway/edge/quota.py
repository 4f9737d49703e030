"""A limit of a route, compiled: whose bucket a request takes from, what that costs, and how its state is told.

The fields are the IETF's `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), which name
every limit, and the `x-ratelimit-*` that OpenAI sends and its clients read, which tell of the tightest one.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

import limits
from starlette.types import Scope

from gateway.config.settings import LimitSettings
from gateway.core.headers import get
from gateway.core.limiter import SECOND
from gateway.model import Exchange, Header
from gateway.stores.buckets import limit_of

_MEMO = 16_384  # callers whose place is remembered, for each limit; all are forgotten when it is full
_IP = "ip:"

Who = Callable[[Exchange, Scope], str]


def _key(exchange: Exchange, scope: Scope) -> str:
    """The API key or the subject; callers without one have a bucket for each address."""
    principal = exchange.principal
    return principal.id if principal.kind != "anonymous" else _IP + exchange.client_ip


def _principal(exchange: Exchange, scope: Scope) -> str:
    """As above, but all callers without credentials are one."""
    return exchange.principal.id


def _ip(exchange: Exchange, scope: Scope) -> str:
    return _IP + exchange.client_ip


def _model(exchange: Exchange, scope: Scope) -> str:
    return ""


def _header(name: str) -> Who:
    """The value of a field; requests without it share one bucket."""
    field = name.lower().encode("latin-1")

    def header(exchange: Exchange, scope: Scope) -> str:
        value = get(scope["headers"], field) or b""
        return value.decode("latin-1") if len(value) <= 64 else blake2b(value, digest_size=16).hexdigest()

    return header


_WHO: dict[str, Who] = {"key": _key, "principal": _principal, "ip": _ip, "model": _model}


def network_of(who: str) -> str:
    """One caller for a whole IPv6 /64, which is what one subscriber has at least (RFC 6177): its addresses are free."""
    try:
        address = ip_address(who.removeprefix(_IP))
    except ValueError:
        return who
    if not isinstance(address, IPv6Address):
        return who
    return f"{_IP}{address.ipv4_mapped or IPv6Network((address, 64), strict=False)}"


class Quota:
    """One limit. `key` names a caller's bucket: it changes with everything that changes the bucket's meaning, so that a
    reload keeps the buckets of limits that stay as they are."""

    def __init__(self, settings: LimitSettings, model: str, store: Any, tag: str | None) -> None:
        self.item = limits.parse(settings.rate)
        self.limit = limit_of(self.item, settings.burst)
        self.per = settings.per
        self.on_store_error = settings.on_store_error
        kind, _, name = settings.per.partition(":")
        self.who = _header(name) if kind == "header" else _WHO[kind]
        self.is_address = kind in ("ip", "key")
        self.model = model
        self.store = store
        self.tag = tag  # None: each caller is a tag of its own
        self.places: dict[str, Any] = {}

    def place(self, exchange: Exchange, scope: Scope) -> Any:
        """Where the bucket of this request's caller is."""
        who = self.who(exchange, scope)
        place = self.places.get(who)
        if place is None:
            if len(self.places) >= _MEMO:
                self.places.clear()
            key = self.key(who)
            place = self.places[who] = self.store.place(key, key if self.tag is None else self.tag)
        return place

    def key(self, who: str) -> str:
        """The bucket's name, in the form that the `limits` package gives to its keys."""
        who = network_of(who) if self.is_address and who.startswith(_IP) else who
        return self.item.key_for(self.model, self.per, who, self.limit.burst)

    def __repr__(self) -> str:
        return f"<Quota {self.item!r} burst={self.limit.burst} per {self.per} of {self.model}>"


class Fields:
    """The fields of an answer for some quotas. Everything that does not change is made once."""

    def __init__(self, quotas: Sequence[Quota]) -> None:
        self.limits = [quota.limit for quota in quotas]
        names = ["default"] if len(quotas) == 1 else [f"requests-{i}" for i in range(1, len(quotas) + 1)]
        policies = [
            f'"{name}";q={quota.limit.amount};w={quota.limit.period}' for name, quota in zip(names, quotas, strict=True)
        ]
        self.policy = (b"ratelimit-policy", ", ".join(policies).encode())
        self.members = [f'"{name}";r=%d;t=%d'.encode() for name in names]
        self.bursts = [(b"x-ratelimit-limit-requests", b"%d" % quota.limit.burst) for quota in quotas]

    def admitted(self, debts: Sequence[int]) -> list[Header]:
        """For an answer to a request that has been admitted, leaving the buckets with these debts (nanoseconds)."""
        if len(debts) == 1:
            return self._of(0, debts[0], (debts[0] + SECOND - 1) // SECOND)
        return self._tell(debts, [(debt + SECOND - 1) // SECOND for debt in debts])

    def refused(self, debts: Sequence[int], resets: Sequence[int]) -> list[Header]:
        """For a refusal. `resets` are seconds: a refusing limit's is its Retry-After, as the draft asks."""
        return self._tell(debts, resets)

    def _tell(self, debts: Sequence[int], resets: Sequence[int]) -> list[Header]:
        remaining = [limit.remaining(debt) for limit, debt in zip(self.limits, debts, strict=True)]
        tightest = remaining.index(min(remaining))
        fields = self._of(tightest, debts[tightest], resets[tightest])
        told = zip(self.members, remaining, resets, strict=True)
        fields[1] = (b"ratelimit", b", ".join([member % (left, reset) for member, left, reset in told]))
        return fields

    def _of(self, index: int, debt: int, reset: int) -> list[Header]:
        left = self.limits[index].remaining(debt)
        return [
            self.policy,
            (b"ratelimit", self.members[index] % (left, reset)),
            self.bursts[index],
            (b"x-ratelimit-remaining-requests", b"%d" % left),
            (b"x-ratelimit-reset-requests", duration(debt)),
        ]


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
