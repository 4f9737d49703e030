"""Handshakes are counted, of all workers, by what they agreed on or why they failed."""

import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Gateway, until


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway({}, {"gateway": {"workers": 2}}) as gateway:
        yield gateway


def shake(gateway: Gateway, context: ssl.SSLContext) -> tuple[str, str]:
    """What client and gateway agreed on."""
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        cipher = tls.cipher()
        assert cipher
        return str(tls.version()), cipher[0]


def count(gateway: Gateway, line: str) -> float:
    return sum(float(each.split()[-1]) for each in gateway.metrics().splitlines() if each.startswith(line))


def test_handshakes_are_counted_by_version_and_cipher(gateway: Gateway) -> None:
    old = gateway.context
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    for _ in range(4):
        assert shake(gateway, old) == ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305")
    version, cipher = shake(gateway, gateway.context)
    line = 'gateway_tls_handshakes_total{cipher="%s",version="%s"}'
    until(lambda: count(gateway, line % ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLSv1.2")) == 4, "the count of TLS 1.2")
    until(lambda: count(gateway, line % (cipher, version)) == 1, "the count of TLS 1.3")
    assert count(gateway, "gateway_tls_handshake_failures_total{") == 0


def test_failures_are_counted_once_each_by_their_reason(gateway: Gateway) -> None:
    weak = gateway.context
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA")
    for _ in range(3):
        with pytest.raises(ssl.SSLError):
            shake(gateway, weak)
    line = 'gateway_tls_handshake_failures_total{reason="%s"}'
    until(lambda: count(gateway, line % "no_shared_cipher") == 3, "the count of those without a common cipher")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        raw.recv(100)
    until(lambda: count(gateway, line % "http_request") == 1, "the count of plain HTTP")
