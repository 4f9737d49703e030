"""Who is at the other end: the client's address and the request's id, as far as those who tell us are believed."""

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

_MEMO = 4096  # addresses whose verdict is remembered; all are forgotten when it is full
_HOPS = 16  # entries of one X-Forwarded-For that are read, from the right
# RFC 9110's token characters, and a length that a log line and a header can afford.
_SANE_ID = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")


class Trust:
    """Whether an address is in one of the networks (`gateway.trusted_proxies`), remembered by its text."""

    __slots__ = ("_memo", "networks")

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self.networks = tuple(networks)
        self._memo: dict[str, bool] = {}

    def __call__(self, address: str) -> bool:
        known = self._memo.get(address)
        if known is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            known = self._memo[address] = self._contains(address)
        return known

    def _contains(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:  # a unix socket's peer has none
            return False
        return any(parsed in network for network in self.networks)

    def __repr__(self) -> str:
        return f"<Trust {', '.join(map(str, self.networks)) or 'nobody'}>"


def unmap(address: str) -> str:
    """An IPv4 client of a socket that speaks both: `::ffff:192.0.2.1` is `192.0.2.1` (RFC 4291, 2.5.5.2)."""
    return address[7:] if address[:7] == "::ffff:" and "." in address else address


def client_ip(peer: str, forwarded: Sequence[bytes], is_trusted: Callable[[str], bool]) -> str:
    """The rightmost address that is not a trusted proxy's; the leftmost if all are.

    `forwarded` are the values of X-Forwarded-For in order. Each proxy appends whom it heard, so only what trusted
    ones wrote is read: reading ends at the first stranger, and before anything that is not an address.
    """
    client = unmap(peer)
    if not is_trusted(client):
        return client
    for value in reversed(forwarded):
        for entry in reversed(value.rsplit(b",", _HOPS)):
            address = _address(entry.strip())
            if address is None:
                return client
            client = address
            if not is_trusted(client):
                return client
    return client


def is_sane_id(value: bytes) -> bool:
    """Whether a request id of somebody else's may go into our logs and headers."""
    return _SANE_ID.fullmatch(value) is not None


def _address(entry: bytes) -> str | None:
    """`192.0.2.1`, `192.0.2.1:443`, `2001:db8::1` or `[2001:db8::1]:443` -> the address in its one spelling."""
    text = entry.decode("latin-1")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:  # free text
            return None
        return str(parsed.ipv4_mapped or parsed)
    return str(parsed)
