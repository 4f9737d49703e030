"""Whom the gateway lets in before a byte of HTTP: how many, from where, and for whom a trusted proxy speaks."""

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx2
import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import RawUpstream, answering
from tests.e2e.harness_wire import Wire

GET = b"GET /m/x HTTP/1.1\r\nHost: a\r\n\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes([198, 51, 100, 7, 203, 0, 113, 7]) + struct.pack("!HH", 7, 443)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering()) as upstream:
        yield upstream


def gateway_of(upstream: RawUpstream, **settings: object) -> Gateway:
    return Gateway({"m": served([upstream.url], auth=[], match=[{"prefix": "/m"}])}, {"gateway": settings})


def dial(gateway: Gateway, source: str = "127.0.0.1") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", gateway.port), 10, source_address=(source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def over_tls(gateway: Gateway, sock: socket.socket) -> Wire:
    return Wire(gateway.context.wrap_socket(sock, server_hostname="localhost"))


def is_closed(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


# --- the PROXY protocol ---


@pytest.fixture(scope="module")
def proxied(upstream: RawUpstream) -> Iterator[Gateway]:
    """127.0.0.1 is a proxy, 127.0.0.2 is not."""
    settings = {"trusted_proxies": ["127.0.0.1/32"], "proxy_protocol": True, "limits": {"connections_per_address": 3}}
    with gateway_of(upstream, **settings) as gateway:
        yield gateway


HEADERS = {
    "version 1": (b"PROXY TCP4 198.51.100.7 203.0.113.7 7 443\r\n", "198.51.100.7"),
    "version 1, IPv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 7 443\r\n", "2001:db8::7"),
    "version 1, unknown": (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    "version 2": (V2, "198.51.100.7"),
    "version 2, local": (LOCAL, "127.0.0.1"),
}


@pytest.mark.parametrize("is_dripped", [False, True])
@pytest.mark.parametrize("name", HEADERS)
def test_a_trusted_proxy_says_who_the_client_is(
    proxied: Gateway, upstream: RawUpstream, name: str, is_dripped: bool
) -> None:
    header, client = HEADERS[name]
    sock = dial(proxied)
    if is_dripped:
        for byte in header:
            sock.sendall(bytes([byte]))
            time.sleep(0.001)
    else:
        sock.sendall(header)
    with over_tls(proxied, sock) as wire:
        wire.send(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.99\r\n\r\n"))
        assert wire.read_response().status == 200
    forwarded = upstream.requests[-1].get("x-forwarded-for")
    # Only where the connection is the proxy's own may its X-Forwarded-For speak for somebody else.
    assert forwarded == ("192.0.2.99, 127.0.0.1" if client == "127.0.0.1" else client)
    expected = "192.0.2.99" if client == "127.0.0.1" else client
    until(lambda: [line["client"] for line in proxied.access_log()[-1:]] == [expected], "the log line")


def test_the_header_and_the_handshake_may_come_in_one_segment(proxied: Gateway, upstream: RawUpstream) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = proxied.context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    with dial(proxied) as sock:
        sock.sendall(V2 + outgoing.read())
        incoming.write(sock.recv(65536))
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        assert tls.version() is not None


@pytest.mark.parametrize("first", [b"\x16\x03\x01\x02\x00\x01", b"PROXY TCP4 a b 1 2\r\n", b"PROXY " + b"x" * 200])
def test_a_trusted_proxy_that_announces_nothing_is_not_served(proxied: Gateway, first: bytes) -> None:
    with dial(proxied) as sock:
        sock.sendall(first)
        assert is_closed(sock)
    until(lambda: 'connections_refused_total{reason="announcement"}' in proxied.metrics(), "the count")


def test_who_is_no_trusted_proxy_cannot_say_who_it_is(proxied: Gateway, upstream: RawUpstream) -> None:
    with dial(proxied, "127.0.0.2") as sock:
        sock.sendall(V2)
        assert is_closed(sock), "that is no TLS"
    with over_tls(proxied, dial(proxied, "127.0.0.2")) as wire:
        wire.send(GET)
        assert wire.read_response().status == 200
    assert upstream.requests[-1].get("x-forwarded-for") == "127.0.0.2"


def test_the_limit_of_an_address_counts_announced_clients_and_not_the_proxy(proxied: Gateway) -> None:
    with ExitStack() as stack:
        for host in (b"198.51.100.20", b"198.51.100.21"):
            for _ in range(3):
                sock = dial(proxied)
                sock.sendall(b"PROXY TCP4 %b 203.0.113.7 7 443\r\n" % host)
                stack.enter_context(over_tls(proxied, sock))
        extra = stack.enter_context(dial(proxied))
        extra.sendall(b"PROXY TCP4 198.51.100.20 203.0.113.7 7 443\r\n")
        assert is_closed(extra)


# --- how many ---


def test_an_address_has_so_many_connections_over_all_workers_and_gets_places_back(upstream: RawUpstream) -> None:
    with gateway_of(upstream, workers=2, limits={"connections_per_address": 5}) as gateway:
        held = [over_tls(gateway, dial(gateway, "127.0.0.3")) for _ in range(5)]
        with dial(gateway, "127.0.0.3") as extra:
            assert is_closed(extra)
        with over_tls(gateway, dial(gateway, "127.0.0.4")) as other:
            other.send(GET)
            assert other.read_response().status == 200
        assert 'gateway_connections_refused_total{reason="address"} 1.0' in gateway.metrics()
        held.pop().close()
        until(lambda: may_enter(gateway, "127.0.0.3"), "a place for another")
        for wire in held:
            wire.close()


def may_enter(gateway: Gateway, source: str) -> bool:
    try:
        over_tls(gateway, dial(gateway, source)).close()
    except OSError:
        return False
    return True


def test_at_the_limit_of_all_connections_idle_ones_make_room_and_busy_ones_do_not(upstream: RawUpstream) -> None:
    with gateway_of(upstream, limits={"connections": 10, "headers_timeout": "2s"}) as gateway:
        idle = [over_tls(gateway, dial(gateway)) for _ in range(5)]
        for wire in idle:
            wire.send(GET)
            wire.read_response()
        busy = [over_tls(gateway, dial(gateway)) for _ in range(5)]
        for wire in busy:
            wire.send(GET[:-2])
        with over_tls(gateway, dial(gateway)) as new:
            new.send(GET)
            assert new.read_response().status == 200
        assert any(wire.wait_closed(1.0) for wire in idle)
        for wire in busy:
            wire.send(b"\r\n")
            assert wire.read_response().status in (200, 408)
        for wire in idle + busy:
            wire.close()


def test_without_room_new_connections_wait_until_there_is(upstream: RawUpstream) -> None:
    with gateway_of(upstream, limits={"connections": 3, "headers_timeout": "1s"}) as gateway:
        stalled = [over_tls(gateway, dial(gateway)) for _ in range(3)]
        for wire in stalled:
            wire.send(b"GET")
        with over_tls(gateway, dial(gateway)) as patient:
            patient.send(GET)
            assert patient.read_response().status == 200
        assert "new ones wait" in gateway.output
        for wire in stalled:
            wire.close()


def test_a_gateway_with_few_file_descriptors_goes_on_serving(upstream: RawUpstream) -> None:
    """Its processes may open 200 files each; 400 clients come at once and say nothing."""
    models = {"m": served([upstream.url], auth=[], match=[{"prefix": "/m"}])}
    settings = {"gateway": {"limits": {"headers_timeout": "2s"}}, "tls": {"handshake_timeout": "2s"}}
    with Gateway(models, settings, prefix=["prlimit", "--nofile=200:200"]) as gateway:
        crowd = [dial(gateway) for _ in range(400)]
        assert httpx2.get(f"{gateway.admin_url}/healthz").status_code == 200
        until(lambda: "gateway_accept_pauses_total 0.0" not in gateway.metrics(), "a pause")
        for _ in range(2):
            latest = dial(gateway)
            latest.settimeout(60)  # those before it get their two seconds each, some 100 at one time
            with over_tls(gateway, latest) as wire:
                wire.send(GET)
                assert wire.read_response().status == 200
            for sock in crowd:
                sock.close()
        assert "Traceback" not in gateway.output
