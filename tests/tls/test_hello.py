"""The ClientHellos of real clients, whole, cut and damaged."""

import ssl
from random import Random

import pytest

from gateway.tls.hello import LONGEST, Hello, Incomplete, read_hello


def hello_of(host: str | None = "a.test", protocols: list[str] | None = None, **attributes: object) -> bytes:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    for name, value in attributes.items():
        setattr(client, name, value)
    if protocols:
        client.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("host", "protocols"),
    [("a.test", ["acme-tls/1"]), (None, ["h2", "http/1.1"]), ("xn--nxasmq6b.test", []), (None, [])],
)
def test_host_and_protocols_are_read(version: ssl.TLSVersion, host: str | None, protocols: list[str]) -> None:
    data = hello_of(host, protocols, maximum_version=version)
    assert read_hello(data) == Hello(host, tuple(protocol.encode() for protocol in protocols))
    assert read_hello(data + b"what comes behind it") == read_hello(data)


def test_every_beginning_of_it_is_incomplete() -> None:
    data = hello_of()
    for end in range(len(data)):
        with pytest.raises(Incomplete):
            read_hello(data[:end])


def test_it_may_be_in_several_records() -> None:
    data = hello_of("b.test", ["acme-tls/1"])
    message = data[5:]
    for size in (1, 3, 4, 50, len(message)):
        pieces = [message[at : at + size] for at in range(0, len(message), size)]
        split = b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)
        assert read_hello(split) == Hello("b.test", (b"acme-tls/1",))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00" + b"\x16\x03\x01\x00\x01\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380) + (b"\x16\x03\x01\x40\x00" + bytes(16384)) * 4,
    ],
    ids=["HTTP", "an alert", "a ServerHello", "too short", "too long"],
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    assert len(data) < LONGEST * 2
    with pytest.raises(ValueError, match=r"\w"):
        read_hello(data)


@pytest.mark.parametrize("seed", range(20))
def test_damage_never_makes_anything_else_of_it_than_a_hello_or_a_refusal(seed: int) -> None:
    rng, data = Random(seed), hello_of("a.test", ["http/1.1"])
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            found = read_hello(bytes(damaged))
        except (ValueError, Incomplete):
            continue
        assert isinstance(found.host, str | None)
