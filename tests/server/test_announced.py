"""The PROXY header, both versions, as doc/proxy-protocol.txt of HAProxy has them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.server.announced import Announcement, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def second(command: int, family: int, rest: bytes, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if size is None else size) + rest


V4 = bytes([192, 0, 2, 1, 203, 0, 113, 7]) + struct.pack("!HH", 56324, 443)
MAPPED = (bytes(10) + b"\xff\xff\xc0\0\2\1") * 2 + struct.pack("!HH", 1, 2)
V6 = bytes(15) + b"\1" + bytes(15) + b"\2" + struct.pack("!HH", 1, 2)

GOOD = {
    "1, IPv4": (b"PROXY TCP4 192.0.2.1 203.0.113.7 56324 443\r\n", ("192.0.2.1", 56324)),
    "1, IPv6": (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", ("2001:db8::1", 1)),
    "1, unknown": (b"PROXY UNKNOWN\r\n", None),
    "1, unknown with addresses": (b"PROXY UNKNOWN ffff:f::1 ffff::2 65535 65535\r\n", None),
    "2, IPv4": (second(0x21, 0x11, V4), ("192.0.2.1", 56324)),
    "2, IPv6": (second(0x21, 0x21, V6), ("::1", 1)),
    "1, IPv4 as IPv6": (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:203.0.113.7 1 2\r\n", ("192.0.2.1", 1)),
    "2, IPv4 as IPv6": (second(0x21, 0x21, MAPPED), ("192.0.2.1", 1)),
    "2, local": (second(0x20, 0x00, b""), None),
    "2, local that names somebody": (second(0x20, 0x11, V4), None),
    "2, a unix socket": (second(0x21, 0x31, bytes(216)), None),
    "2, what the sender adds": (second(0x21, 0x11, V4 + b"\x04\x00\x05hello"), ("192.0.2.1", 56324)),
}
BAD = {
    "TLS": b"\x16\x03\x01\x02\x00",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "another case": b"proxy TCP4 192.0.2.1 203.0.113.7 1 2\r\n",
    "a line without end": b"PROXY TCP4 " + b"1" * 100,
    "a line feed alone": b"PROXY TCP4 192.0.2.1 203.0.113.7 1 2\n",
    "another family": b"PROXY UDP4 192.0.2.1 203.0.113.7 1 2\r\n",
    "families that differ": b"PROXY TCP4 ::1 ::2 1 2\r\n",
    "no address": b"PROXY TCP4 a.example 203.0.113.7 1 2\r\n",
    "a zone": b"PROXY TCP6 fe80::1%\x1b[2J fe80::2 1 2\r\n",
    "a port too large": b"PROXY TCP4 192.0.2.1 203.0.113.7 65536 2\r\n",
    "a port with a sign": b"PROXY TCP4 192.0.2.1 203.0.113.7 +1 2\r\n",
    "too few parts": b"PROXY TCP4 192.0.2.1 203.0.113.7 1\r\n",
    "too many parts": b"PROXY TCP4 192.0.2.1 203.0.113.7 1 2 3\r\n",
    "another version": second(0x31, 0x11, V4),
    "another command": second(0x22, 0x11, V4),
    "too short for its addresses": second(0x21, 0x11, V4[:-1]),
    "too long": second(0x21, 0x11, b"", 5000),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_header_says_who_it_is_wherever_the_network_cuts_it(name: str) -> None:
    header, client = GOOD[name]
    assert parse(header + b"\x16\x03\x01more") == Announcement(len(header), client)
    for end in range(len(header)):
        assert parse(header[:end]) is None


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_header_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        parse(BAD[name])


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=40).map(lambda rest: SIGNATURE + rest)))
def test_no_bytes_break_it(data: bytes) -> None:
    try:
        found = parse(data)
    except ValueError:
        return
    assert found is None or found.length <= len(data)
