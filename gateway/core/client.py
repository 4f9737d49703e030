"""Who is at the other end: the client's address and the request's id, as far as those who tell us are believed."""

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from gateway.model import Header

_MEMO: Final = 4096  # addresses whose verdict is remembered; all are forgotten when it is full
_HOPS: Final = 16  # entries of one X-Forwarded-For that are read, from the right
_TELLING: Final = frozenset((b"x-forwarded-for", b"forwarded", b"x-real-ip"))
_LONGEST: Final = 4096  # bytes of Forwarded that are read
# Elements between commas, pairs between semicolons; neither counts inside quotes.
_ELEMENT: Final = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
_PAIR: Final = re.compile(rb'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
# RFC 9110's token characters, and a length that a log line and a header can afford.
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")


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


def hops(headers: Iterable[Header]) -> list[bytes]:
    """What a trusted proxy says of those before it, in the form of X-Forwarded-For: that, else `Forwarded` (RFC 7239),
    else X-Real-IP. One of them only: where two differ, somebody has not removed what the client made up."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _TELLING:
            found.setdefault(name, []).append(value)
    if b"x-forwarded-for" in found:
        return found[b"x-forwarded-for"]
    if b"forwarded" in found:
        return [b",".join(_hops_of(b",".join(found[b"forwarded"])))]
    return found.get(b"x-real-ip", [])[-1:]


def _hops_of(forwarded: bytes) -> list[bytes]:
    """The `for` of each of the last elements; b"?", which nobody takes for an address, where it cannot be read."""
    if len(forwarded) > _LONGEST:
        return [b"?"]
    found = []
    for element in _ELEMENT.findall(forwarded):
        pairs = [pair.partition(b"=") for pair in _PAIR.findall(element)]
        known = [value.strip(b" \t") for name, _, value in pairs if name.strip(b" \t").lower() == b"for"]
        one = known[0] if len(known) == 1 else b"?"
        found.append(one[1:-1] if one[:1] == b'"' == one[-1:] and len(one) > 1 else one)
    return found


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
