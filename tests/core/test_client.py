"""Whom the gateway takes a client to be."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.client import Trust, client_ip, hops, is_sane_id, unmap

PROXIES = Trust([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", [b"1.2.3.4"], "203.0.113.9"),  # a stranger's word
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # what the client made up stands to the left
        ("10.0.0.1", [b"6.6.6.6, 1.2.3.4, 10.0.0.7"], "1.2.3.4"),
        ("10.0.0.1", [b"6.6.6.6", b"1.2.3.4", b"10.0.0.7"], "1.2.3.4"),  # several fields are one list
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all are ours
        ("10.0.0.1", [b"1.2.3.4, nonsense, 10.0.0.2"], "10.0.0.2"),  # nothing beyond what cannot be read
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("10.0.0.1", [b"1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", [b"[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", [b"2001:DB8:0::1"], "2001:db8::1"),
        ("10.0.0.1", [b"::ffff:1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", [b"fe80::1%x\r\nforged"], "10.0.0.1"),
        ("::ffff:10.0.0.1", [b"1.2.3.4"], "1.2.3.4"),
        ("fd00::1", [b"1.2.3.4"], "1.2.3.4"),
        ("", [b"1.2.3.4"], ""),  # a unix socket's peer has no address
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(
    peer: str, forwarded: list[bytes], client: str
) -> None:
    assert client_ip(peer, forwarded, PROXIES) == client


@given(st.lists(st.sampled_from([b"6.6.6.6", b"10.0.0.8", b"junk", b""]), max_size=40))
def test_nothing_a_client_writes_changes_what_a_trusted_proxy_appended(written: list[bytes]) -> None:
    assert client_ip("10.0.0.1", [b",".join([*written, b"1.2.3.4"])], PROXIES) == "1.2.3.4"


def test_only_so_many_proxies_are_followed() -> None:
    chain = b", ".join([b"1.2.3.4"] + [b"10.0.0.2"] * 1000)
    assert client_ip("10.0.0.1", [chain], PROXIES) == "10.0.0.2"


XFF, FORWARDED, REAL = b"x-forwarded-for", b"forwarded", b"x-real-ip"


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([(FORWARDED, b"for=1.2.3.4")], "1.2.3.4"),
        ([(FORWARDED, b'for=6.6.6.6;proto=http, For="1.2.3.4:567";by=10.0.0.1')], "1.2.3.4"),
        ([(FORWARDED, b'for="[2001:DB8::1]:443"')], "2001:db8::1"),
        ([(FORWARDED, b"for=6.6.6.6"), (FORWARDED, b"for=1.2.3.4, for=10.0.0.7")], "1.2.3.4"),
        ([(FORWARDED, b"for=6.6.6.6, for=unknown, for=10.0.0.7")], "10.0.0.7"),
        ([(FORWARDED, b"for=6.6.6.6, for=_hidden")], "10.0.0.1"),
        ([(FORWARDED, b"for=6.6.6.6, proto=https")], "10.0.0.1"),
        ([(FORWARDED, b"for=1.2.3.4;for=6.6.6.6")], "10.0.0.1"),
        ([(FORWARDED, b'by="a, for=6.6.6.6";for=1.2.3.4')], "1.2.3.4"),  # a comma in quotes
        ([(FORWARDED, b'by="a\\", for=6.6.6.6";for=1.2.3.4')], "1.2.3.4"),  # a quote in quotes
        ([(FORWARDED, b"for=6.6.6.6," * 2000)], "10.0.0.1"),
        ([(REAL, b"1.2.3.4")], "1.2.3.4"),
        ([(REAL, b"6.6.6.6"), (REAL, b"1.2.3.4")], "1.2.3.4"),
        ([(FORWARDED, b"for=6.6.6.6"), (XFF, b"1.2.3.4")], "1.2.3.4"),
        ([(REAL, b"6.6.6.6"), (FORWARDED, b"for=1.2.3.4")], "1.2.3.4"),
        ([], "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_says_it_in_one_of_three_fields(headers: list[tuple[bytes, bytes]], client: str) -> None:
    assert client_ip("10.0.0.1", hops(headers), PROXIES) == client
    assert client_ip("203.0.113.9", hops(headers), PROXIES) == "203.0.113.9"


@given(st.text(alphabet='for=,;" \\_[]:.6a', max_size=60))
def test_whatever_stands_in_forwarded_to_the_left_changes_nothing_unless_it_is_not_closed(text: str) -> None:
    value = text.encode() + b",for=1.2.3.4"
    found = client_ip("10.0.0.1", hops([(FORWARDED, value)]), PROXIES)
    assert found == "1.2.3.4" or text.count('"')


def test_an_ipv4_client_is_known_by_one_spelling() -> None:
    assert unmap("::ffff:192.0.2.1") == "192.0.2.1"
    assert unmap("::1") == "::1"
    assert unmap("::ffff:0:1") == "::ffff:0:1"


@pytest.mark.parametrize("value", [b"a", b"x" * 128, b"3f2b-77.A_z~"])
def test_a_token_of_bounded_length_may_be_a_request_id(value: bytes) -> None:
    assert is_sane_id(value)


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\n", b'a"', b"a,b", b"\xc3\xa9", b"a\x1b[31m"])
def test_anything_else_may_not(value: bytes) -> None:
    assert not is_sane_id(value)


def test_the_memory_of_addresses_is_bounded() -> None:
    trusts = Trust([ip_network("10.0.0.0/8")])
    answers = [trusts(f"10.{a}.{b}.1") for a in range(40) for b in range(250)]
    assert all(answers)
    assert len(trusts._memo) <= 4096
