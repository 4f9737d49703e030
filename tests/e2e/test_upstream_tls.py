"""Model servers behind https: proved before anything is sent to them, and the gateway to them."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.config.settings import TLSSettings
from gateway.tls.context import server_context
from tests.e2e.harness import Gateway, served, temporary_folder, until
from tests.e2e.harness_upstream import Connection, RawUpstream, Script
from tests.tls.makers import AUTHORITY, Leaf, Made, make, make_authority, sign, trust

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def obliging(connection: Connection) -> None:
    while True:
        connection.read_request()
        connection.sock.sendall(ANSWER)


def server_tls(folder: Path, made: Made, **attributes: Any) -> ssl.SSLContext:
    """A model server's context."""
    made.write(folder, "server")
    context = server_context(TLSSettings())
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    for name, value in attributes.items():
        setattr(context, name, value)
    if attributes:
        context.load_verify_locations(trust(folder))
    return context


@contextmanager
def serving(context: ssl.SSLContext, script: Script = obliging) -> Iterator[RawUpstream]:
    """It ends each connection when its peer does, so what a script meets then is no failure."""
    upstream = RawUpstream(script, context=context)
    try:
        yield upstream
    finally:
        upstream.refuse()


@pytest.fixture(scope="module")
def folder() -> Path:
    return temporary_folder("upstream-tls-")


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway({}) as gateway:
        yield gateway


def model(upstream: RawUpstream, **tls: Any) -> dict[str, Any]:
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in tls.items()}
    return {"m": served([upstream.url], auth=[], upstream_tls=plain)}


def ask(gateway: Gateway) -> tuple[int, str]:
    with gateway.client() as client:
        answer = client.get("/models/m/x")
    return answer.status_code, answer.json()["error"]["message"] if answer.status_code != 200 else answer.text


@pytest.mark.parametrize(
    ("leaf", "authority", "kind"),
    [
        (Leaf(["127.0.0.1"]), make_authority("Stranger"), "is of a CA that is not trusted"),
        (Leaf(["127.0.0.1"], start=-9, days=8), AUTHORITY, "has expired"),
        (Leaf(["127.0.0.1"], start=2), AUTHORITY, "is not yet valid"),
        (Leaf(["127.0.0.2"]), AUTHORITY, "is for another address"),
    ],
)
def test_a_certificate_that_proves_nothing_is_a_502_that_says_why(
    gateway: Gateway, folder: Path, leaf: Leaf, authority: Any, kind: str
) -> None:
    with serving(server_tls(folder, sign(leaf, authority))) as upstream:
        assert gateway.reload(model(upstream, ca=trust(folder))) == []
        assert ask(gateway) == (502, f"The model server's certificate {kind}.")
        assert upstream.requests == []


def test_a_server_that_asks_for_a_certificate_or_does_not_trust_ours_is_a_502_that_says_so(
    gateway: Gateway, folder: Path
) -> None:
    """In TLS 1.3 it says so behind the handshake: that was a server that closed the connection without an answer."""
    with serving(server_tls(folder, make("127.0.0.1"), verify_mode=ssl.CERT_REQUIRED)) as upstream:
        assert gateway.reload(model(upstream, ca=trust(folder))) == []
        assert ask(gateway) == (502, "The model server asks for a client certificate.")
        sign(Leaf(["gateway"], usage=CLIENT), make_authority("Stranger")).write(folder, "strange")
        mine = {"client_cert": folder / "strange.crt", "client_key": folder / "strange.key"}
        assert gateway.reload(model(upstream, ca=trust(folder), **mine)) == []
        assert ask(gateway) == (502, "The model server does not trust the CA of the gateway's certificate.")
        assert upstream.requests == []


def test_a_body_that_streams_in_is_not_sent_elsewhere_when_its_beginning_went_to_a_server_that_wants_a_certificate(
    gateway: Gateway, folder: Path
) -> None:
    demanding = server_tls(folder, make("127.0.0.1"), verify_mode=ssl.CERT_REQUIRED)
    with serving(demanding) as first, serving(server_tls(folder, make("127.0.0.1"))) as second:
        tls = {"ca": str(trust(folder))}
        models = {"m": served([first.url, second.url], auth=[], upstream_tls=tls, balance={"policy": "first"})}
        assert gateway.reload(models) == []
        with gateway.raw() as client:
            client.send(b"POST /models/m/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
            client.read_response()
        assert [request.body for request in second.requests] == []


def test_a_client_that_leaves_in_a_handshake_upstream_is_no_error_of_ours(gateway: Gateway, folder: Path) -> None:
    with serving(server_tls(folder, make("127.0.0.1"))) as upstream:
        assert gateway.reload(model(upstream, insecure=True)) == []
        for _ in range(30):
            with gateway.raw() as client:
                client.send(b"POST /models/m/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        until(lambda: gateway.in_flight() == 0, "the end of every lease")
    assert "Fatal error" not in gateway.output


def test_without_a_word_about_it_the_systems_cas_decide(gateway: Gateway, folder: Path) -> None:
    with serving(server_tls(folder, make("127.0.0.1"))) as upstream:
        gateway.reload(model(upstream))
        assert ask(gateway)[0] == 502
        gateway.reload(model(upstream, insecure=True))
        assert ask(gateway) == (200, "ok")
        assert "upstream_tls.insecure: whoever answers for endpoints of m@v1 is believed" in gateway.output


def test_a_server_is_asked_for_and_verified_by_the_name_that_is_set(gateway: Gateway, folder: Path) -> None:
    names: list[str | None] = []
    context = server_tls(folder, make("llama.test"))
    context.sni_callback = lambda tls, name, _: names.append(name)
    with serving(context) as upstream:
        gateway.reload(model(upstream, ca=trust(folder), server_name="llama.test"))
        assert ask(gateway) == (200, "ok")
        assert set(names) == {"llama.test"}
        gateway.reload(model(upstream, ca=trust(folder), server_name="other.test"))
        assert ask(gateway) == (502, "The model server's certificate is for another name.")


def test_connections_are_kept_and_a_new_client_certificate_is_shown_without_a_restart(
    gateway: Gateway, folder: Path
) -> None:
    context = server_tls(folder, make("127.0.0.1"), verify_mode=ssl.CERT_REQUIRED)
    first, second = (sign(Leaf(["gateway.test"], usage=CLIENT)) for _ in range(2))
    first.write(folder, "client")
    files = {"client_cert": folder / "client.crt", "client_key": folder / "client.key"}

    shown: list[bytes | None] = []

    def looking(connection: Connection) -> None:
        shown.append(connection.sock.getpeercert(binary_form=True))  # type: ignore[attr-defined]
        obliging(connection)

    with serving(context, looking) as upstream:
        gateway.reload(model(upstream, ca=trust(folder), **files))
        assert [ask(gateway) for _ in range(3)] == [(200, "ok")] * 3
        assert shown == [first.der]
        second.write(folder, "client")

        def is_live() -> bool:
            assert ask(gateway) == (200, "ok")
            return len(shown) > 1

        until(is_live, "a connection with the new certificate")
        assert shown == [first.der, second.der]


def test_a_file_that_cannot_be_used_changes_nothing(gateway: Gateway, folder: Path) -> None:
    with serving(server_tls(folder, make("127.0.0.1"))) as upstream:
        assert gateway.reload(model(upstream, ca=trust(folder))) == []
        absent = folder / "absent.pem"
        (problem,) = gateway.reload(model(upstream, ca=absent))
        assert "models.m.upstream_tls" in problem
        assert str(absent) in problem
        assert ask(gateway) == (200, "ok")


def test_probes_prove_the_server_as_requests_do(gateway: Gateway, folder: Path) -> None:
    health = {"path": "/ready", "interval": "50ms", "rise": 1, "fall": 1}
    with serving(server_tls(folder, make("llama.test"))) as upstream:
        tls: dict[str, Any] = {"ca": str(trust(folder)), "server_name": "llama.test"}
        gateway.reload({"m": served([upstream.url], auth=[], health=health, upstream_tls=tls)})
        until(lambda: upstream.requests and ask(gateway) == (200, "ok"), "a good probe")
        assert upstream.requests[0].start == b"GET /ready HTTP/1.1"
        tls["server_name"] = "other.test"
        gateway.reload({"m": served([upstream.url], auth=[], health=health, upstream_tls=tls)})
        until(lambda: ask(gateway)[0] == 503, "the endpoint's fall")
