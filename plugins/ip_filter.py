"""Who may ask, by address."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import Forbidden
from gateway.plugin import exchange_of

_REMEMBERED = 16_384  # addresses whose decision is kept, the least recently seen forgotten first: some 3 MB
_MAPPED_BITS = 96  # ::ffff:0:0/96, the IPv4 addresses within IPv6 (RFC 4291, 2.5.5.2)


class IPFilter:
    """403 to an address that `deny` covers, or that `allow`, where given, does not. `deny` wins.

    Both are CIDRs. The address is the client's as the gateway knows it: the rightmost one that is not a trusted
    proxy's. IPv4 rules hold for IPv4-mapped IPv6 addresses too, and an address that cannot be read is refused.
    """

    def __init__(self, app: ASGIApp, *, allow: list[str] | None = None, deny: list[str] | None = None) -> None:
        if not allow and not deny:
            raise ValueError("give `allow` or `deny`: without both, nothing is filtered")
        self.app = app
        self.allow = _networks("allow", allow)
        self.deny = _networks("deny", deny)
        self.is_refused = lru_cache(_REMEMBERED)(self._decide)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and self.is_refused(exchange_of(scope).client_ip):
            raise Forbidden("This address may not use this service.")
        await self.app(scope, receive, send)

    def _decide(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return True
        address = _plain(address)
        if any(address in network for network in self.deny):
            return True
        return bool(self.allow) and not any(address in network for network in self.allow)

    def __repr__(self) -> str:
        return f"<IPFilter allow={[*map(str, self.allow)]} deny={[*map(str, self.deny)]}>"


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _networks(option: str, cidrs: list[str] | None) -> tuple[IPv4Network | IPv6Network, ...]:
    if not isinstance(cidrs or [], list) or not all(isinstance(cidr, str) for cidr in cidrs or []):
        raise TypeError(f"`{option}` must be a list of CIDRs such as 10.0.0.0/8, not {cidrs!r}")
    return tuple(_network(option, cidr) for cidr in cidrs or [])


def _network(option: str, cidr: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(cidr)
    except ValueError as error:
        raise ValueError(f"`{option}`: {error}") from error
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network
