"""Who a limit counts (`per`), and where that caller's bucket is, remembered."""

from collections.abc import Callable
from hashlib import blake2b
from ipaddress import IPv6Address, IPv6Network, ip_address
from itertools import count
from typing import Any, Final

from starlette.types import Scope

from gateway.core.headers import get
from gateway.model import Exchange

_MEMO: Final = 65_536  # places that are remembered, 12 MiB; all are forgotten when there are more
_IP: Final = "ip:"

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
    """The value of a field; requests without it are one caller."""
    field = name.lower().encode("latin-1")

    def header(exchange: Exchange, scope: Scope) -> str:
        value = get(scope["headers"], field) or b""
        return value.decode("latin-1") if len(value) <= 64 else blake2b(value, digest_size=16).hexdigest()

    return header


_WHO: dict[str, Who] = {"key": _key, "principal": _principal, "ip": _ip, "model": _model}


def network_of(who: str) -> str:
    """One caller for a whole IPv6 /64, which is what one subscriber has at least (RFC 6177): its addresses are free."""
    text = who.removeprefix(_IP)
    if ":" not in text:  # what every address of IPv6 has
        return who
    try:
        address = ip_address(text)
    except ValueError:
        return who
    if not isinstance(address, IPv6Address):
        return who
    return f"{_IP}{address.ipv4_mapped or IPv6Network((address, 64), strict=False)}"


_KNOWN: Final[dict[tuple[Any, str], Any]] = {}  # of all limits: one memory for a thousand models
_NUMBERS: Final = count()


class Places:
    """Called for a request: its caller's place. `find` works a place out from the caller's name, and is asked once."""

    __slots__ = ("find", "is_address", "number", "who")

    def __init__(self, per: str, find: Callable[[str], Any]) -> None:
        kind, _, name = per.partition(":")
        self.who = _header(name) if kind == "header" else _WHO[kind]
        self.is_address = kind in ("ip", "key")
        self.find = find
        self.number: Any = next(_NUMBERS)  # as an object: a key of the memo is made for each request

    def __call__(self, exchange: Exchange, scope: Scope) -> Any:
        who = self.who(exchange, scope)
        key = (self.number, who)
        place = _KNOWN.get(key)
        if place is None:
            if len(_KNOWN) >= _MEMO:
                _KNOWN.clear()
            place = _KNOWN[key] = self.find(self.name(who))
        return place

    def name(self, who: str) -> str:
        """The caller, where several addresses are one."""
        return network_of(who) if self.is_address and who.startswith(_IP) else who
