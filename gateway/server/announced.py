"""What a load balancer says in front of a connection: the PROXY protocol, versions 1 and 2, as HAProxy has written it
down (doc/proxy-protocol.txt).

    PROXY TCP4 192.0.2.1 203.0.113.7 56324 443 CR LF            1: one line of text, at most 107 bytes
    CR LF CR LF NUL CR LF "QUIT" LF | 21 | 11 | length | …      2: 16 bytes, the addresses, whatever the sender adds

The receiver must be told beforehand that there is one (`gateway.proxy_protocol`): who guesses can be lied to.
"""

import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_LONGEST_LINE = 107
_LONGEST = 4096  # bytes of a version 2 header; some add certificates' names
_TCP4, _TCP6 = 0x11, 0x21
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_FAMILIES = {b"TCP4": 4, b"TCP6": 6}


class Announcement(NamedTuple):
    """A whole header: `length` bytes. `client` is None where the sender speaks for itself (a health check of its own),
    or of something that is no TCP connection."""

    length: int
    client: tuple[str, int] | None


def parse(data: bytes) -> Announcement | None:
    """The header that `data` begins with; None while all of `data` is part of one that goes on. Raises ValueError."""
    if data[:12] == _SIGNATURE[: len(data)]:
        return _second(data)
    if data[:6] == b"PROXY "[: len(data)]:
        return _first(data)
    raise ValueError("the connection does not begin with a PROXY header")


def _first(data: bytes) -> Announcement | None:
    line, end, _ = data[:_LONGEST_LINE].partition(b"\r\n")
    if not end:
        if len(data) >= _LONGEST_LINE or b"\n" in line:
            raise ValueError("the line of the PROXY header does not end")
        return None
    length = len(line) + 2
    family, *parts = line.split(b" ")[1:]
    if family == b"UNKNOWN":
        return Announcement(length, None)
    if family not in _FAMILIES or len(parts) != 4 or not all(map(_PORT.fullmatch, parts[2:])):
        raise ValueError("the PROXY header is malformed")
    source, target = (ip_address(part.decode("latin-1")) for part in parts[:2])
    port = int(parts[2])
    if not source.version == target.version == _FAMILIES[family] or port > 0xFFFF or b"%" in line:  # a zone: free text
        raise ValueError("the PROXY header is malformed")
    return Announcement(length, (_text(source), port))


def _second(data: bytes) -> Announcement | None:
    if len(data) < 16:
        return None
    command, family, size = struct.unpack_from("!BBH", data, 12)
    if command not in (0x20, 0x21):
        raise ValueError("the PROXY header has an unknown version or command")
    length = 16 + size
    if length > _LONGEST:
        raise ValueError("the PROXY header is too long")
    if len(data) < length:
        return None
    width = {_TCP4: 4, _TCP6: 16}.get(family)
    if command == 0x20 or width is None:
        return Announcement(length, None)
    if size < 2 * width + 4:
        raise ValueError("the PROXY header is too short for its addresses")
    source = ip_address(data[16 : 16 + width])
    (port,) = struct.unpack_from("!H", data, 16 + 2 * width)
    return Announcement(length, (_text(source), port))


def _text(address: IPv4Address | IPv6Address) -> str:
    """A proxy whose socket speaks both kinds of IP announces IPv4 clients mapped (RFC 4291, 2.5.5.2): they are who they
    are without it, for `trusted_proxies`, plugins and logs. Python 3.11 writes them `::ffff:c000:201`."""
    return str((address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address)
