"""Client certificates in real handshakes, on both event loops: who is asked, who is believed, who is revoked."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.config.settings import ClientCA, TLSSettings
from gateway.core.certificate import Peer
from gateway.tls import alert
from gateway.tls import store as stores
from gateway.tls.clients import ClientCAs, peer_of, read, read_certificate
from gateway.tls.store import CertificateStore
from tests.tls.makers import Authority, Leaf, Made, make, make_authority, revoke, sign, trust
from tests.tls.servers import LOOPS, run_on

CLIENTS, STRANGERS = make_authority("Clients CA"), make_authority("Strangers CA")
Ask = Callable[..., list[Any]]


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def client(name: str = "alice.test", authority: Authority = CLIENTS, **wanted: Any) -> Made:
    own: dict[str, Any] = {"usage": ExtendedKeyUsageOID.CLIENT_AUTH, "subject": f"CN={name}"}
    return sign(Leaf([name], **(own | wanted)), authority)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def settings(folder: Path, **entries: dict[str, Any]) -> TLSSettings:
    for name in ("a.test", "b.test", "c.test"):
        make(name, "127.0.0.1").write(folder, name)
    ca = write(folder / "clients.pem", CLIENTS.pem)
    return TLSSettings(client_ca={name: ClientCA(**({"file": ca} | entry)) for name, entry in entries.items()})


def loaded(folder: Path, **entries: dict[str, Any]) -> CertificateStore:
    store = CertificateStore(folder, settings(folder, **entries))
    assert store.reload() == []
    return store


def talk(loop: str, store: CertificateStore, *visits: tuple[str | None, Made | None], **options: Any) -> list[Any]:
    """What each visitor (the host it asks for, its certificate) finds out: the common name that the server saw, None
    if it saw none, "nobody asked" if so, or the error. Between two visits `between` is called."""
    between = options.pop("between", None)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("ssl_object"))
        seen = "nobody asked" if peer is None else peer.certificate and peer.certificate.common_name
        writer.write(f"{seen}\n".encode())
        writer.close()

    async def main() -> list[Any]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=store.server_context())
        port = server.sockets[0].getsockname()[1]
        found = []
        for host, made in visits:
            found.append(await asyncio.to_thread(visit, port, store.folder, host, made, **options))
            if between is not None:
                between()
        server.close()
        return found

    result: list[Any] = run_on(loop, main)  # type: ignore[assignment]
    return result


def visit(port: int, folder: Path, host: str | None, made: Made | None, **attributes: Any) -> str:
    context = ssl.create_default_context(cafile=str(trust(folder)))
    context.check_hostname = host is not None
    for name, value in attributes.items():
        setattr(context, name, value)
    if made is not None:
        pem = write(folder / "visitor.pem", made.key + made.chain)
        context.load_cert_chain(pem)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=host) as tls,
        ):
            return tls.recv(100).decode().strip()
    except ssl.SSLError as error:
        return str(error.reason)
    except ConnectionError as error:
        return type(error).__name__


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_host_asks_as_its_entry_says_and_no_other_asks(loop: str, tmp_path: Path, version: ssl.TLSVersion) -> None:
    store = loaded(tmp_path, must={"hosts": ["a.test"], "require": True}, may={"hosts": ["b.test"]})
    alice = client()
    seen = talk(
        loop, store,
        ("a.test", alice), ("b.test", alice), ("b.test", None), ("c.test", alice), ("c.test", None), (None, alice),
        maximum_version=version,
    )  # fmt: skip
    assert seen == ["alice.test", "alice.test", "None", "nobody asked", "nobody asked", "nobody asked"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_without_a_certificate_is_told_that_it_needs_one(
    loop: str, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    store = loaded(tmp_path, must={"hosts": ["a.test"], "require": True})
    (seen,) = talk(loop, store, ("a.test", None), maximum_version=version)
    assert seen in ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE")


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize(
    ("made", "alert"),
    [
        (client(authority=STRANGERS), "TLSV1_ALERT_UNKNOWN_CA"),
        (client(start=-9, days=8), "SSLV3_ALERT_CERTIFICATE_EXPIRED"),
        (client(start=2), "SSLV3_ALERT_BAD_CERTIFICATE"),
        (client(usage=ExtendedKeyUsageOID.SERVER_AUTH), "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"),
    ],
    ids=["of a stranger", "expired", "not yet valid", "for servers"],
)
def test_a_certificate_that_proves_nobody_is_refused_even_where_none_is_needed(
    loop: str, tmp_path: Path, made: Made, alert: str, is_required: bool
) -> None:
    store = loaded(tmp_path, all={"require": is_required})
    assert talk(loop, store, ("a.test", made)) == [alert]


def test_an_issuer_is_enough_without_its_root_and_a_client_may_bring_the_chain(loop: str, tmp_path: Path) -> None:
    issuer = make_authority("Issuer", above=CLIENTS)
    made = client(authority=issuer)
    write(tmp_path / "issuer.pem", issuer.pem)
    only_issuer = loaded(tmp_path, all={"file": tmp_path / "issuer.pem", "require": True})
    assert talk(loop, only_issuer, ("a.test", made)) == ["alice.test"]
    only_root = loaded(tmp_path, all={"require": True})
    assert talk(loop, only_root, ("a.test", made)) == ["alice.test"]


def test_a_wildcard_asks_at_its_hosts_and_an_entry_without_hosts_everywhere_else(tmp_path: Path) -> None:
    file = write(tmp_path / "clients.pem", CLIENTS.pem)
    entries = {"wild": ["*.x.test"], "exact": ["y.x.test"], "rest": []}
    cas = ClientCAs({name: ClientCA(file=file, hosts=hosts) for name, hosts in entries.items()})
    hosts = ["a.x.test", "A.X.TEST.", "y.x.test", "x.test", "b.a.x.test", None]
    assert [cas.asked_at(host) for host in hosts] == ["wild", "wild", "exact", "rest", "rest", "rest"]


def test_a_revoked_certificate_is_refused_and_a_new_list_counts_at_once(loop: str, tmp_path: Path) -> None:
    alice, bob = client(), client("bob.test")
    crl = write(tmp_path / "clients.crl", revoke(CLIENTS, bob))
    store = loaded(tmp_path, all={"crl": crl, "require": True})
    peer = Peer("all", read_certificate(alice.der))
    assert not store.clients.is_revoked(peer)

    def revoke_both() -> None:
        write(crl, revoke(CLIENTS, alice, bob))
        assert store.reload() == []

    seen = talk(loop, store, ("a.test", bob), ("a.test", alice))
    assert seen == ["SSLV3_ALERT_CERTIFICATE_REVOKED", "alice.test"]
    seen = talk(loop, store, ("a.test", alice), ("a.test", alice), between=revoke_both)
    assert seen == ["alice.test", "SSLV3_ALERT_CERTIFICATE_REVOKED"]
    assert store.clients.is_revoked(peer)


def test_a_ca_that_changes_its_key_has_a_list_of_each(loop: str, tmp_path: Path) -> None:
    renewed = make_authority("Clients CA")
    alice, bob = client(), client("bob.test")
    anna, bert = client("anna.test", renewed), client("bert.test", renewed)
    crl = write(tmp_path / "clients.crl", revoke(CLIENTS, bob))
    store = CertificateStore(tmp_path, settings(tmp_path, all={"crl": crl, "require": True}))
    write(tmp_path / "clients.pem", CLIENTS.pem + renewed.pem)
    assert store.reload() == []
    write(crl, revoke(CLIENTS, bob) + revoke(renewed, bert))
    assert store.reload() == []
    seen = talk(loop, store, *(("a.test", made) for made in (alice, bob, anna, bert)))
    assert seen == ["alice.test", "SSLV3_ALERT_CERTIFICATE_REVOKED", "anna.test", "SSLV3_ALERT_CERTIFICATE_REVOKED"]
    known = [store.clients.is_revoked(Peer("all", read_certificate(made.der))) for made in (alice, bob, anna, bert)]
    assert known == [False, True, False, True]


def test_a_list_in_der_is_taken_as_well(loop: str, tmp_path: Path) -> None:
    bob = client("bob.test")
    der = x509.load_pem_x509_crl(revoke(CLIENTS, bob)).public_bytes(serialization.Encoding.DER)
    store = loaded(tmp_path, all={"crl": write(tmp_path / "clients.crl", der), "require": True})
    assert talk(loop, store, ("a.test", bob)) == ["SSLV3_ALERT_CERTIFICATE_REVOKED"]


def test_a_list_that_expired_refuses_its_clients_and_is_reported(loop: str, tmp_path: Path) -> None:
    crl = write(tmp_path / "clients.crl", revoke(CLIENTS, days=-1))
    store = CertificateStore(tmp_path, settings(tmp_path, all={"crl": crl, "require": True}))
    (problem,) = store.reload()
    assert problem.file == str(crl)
    assert "the list of CN=Clients CA expired 1 days ago" in problem.message
    assert talk(loop, store, ("a.test", client())) == ["SSLV3_ALERT_CERTIFICATE_EXPIRED"]


def test_a_ca_without_its_list_is_reported(tmp_path: Path) -> None:
    crl = write(tmp_path / "clients.crl", revoke(STRANGERS))
    (problem,) = CertificateStore(tmp_path, settings(tmp_path, all={"crl": crl})).reload()
    assert "has no list of CN=Clients CA" in problem.message


def test_a_bad_file_changes_nothing_and_is_reported(loop: str, tmp_path: Path) -> None:
    store = loaded(tmp_path, all={"require": True})
    ca = tmp_path / "clients.pem"
    for content, words in (
        (b"no certificate", "not a file of PEM certificates"),
        (client().chain, "is not the certificate of a CA"),
        (None, "cannot be read"),
    ):
        ca.unlink(missing_ok=True) if content is None else ca.write_bytes(content)
        (problem,) = store.reload()
        assert problem.file == str(ca)
        assert words in problem.message
        assert problem.is_error
    assert talk(loop, store, ("a.test", client())) == ["alice.test"]


def test_what_was_bad_from_the_start_believes_nobody(loop: str, tmp_path: Path) -> None:
    wanted = settings(tmp_path, all={})
    (tmp_path / "clients.pem").write_bytes(b"")
    store = CertificateStore(tmp_path, wanted)
    assert len(store.reload()) == 1
    assert talk(loop, store, ("a.test", client()), ("a.test", None)) == ["TLSV1_ALERT_UNKNOWN_CA", "None"]


@pytest.mark.parametrize("content", [revoke(CLIENTS) * 2, b"no list", b"", revoke(make_authority("Clients CA"))])
def test_lists_that_cannot_be_believed_are_refused(tmp_path: Path, content: bytes) -> None:
    entry = ClientCA(file=write(tmp_path / "ca.pem", CLIENTS.pem), crl=write(tmp_path / "crl", content))
    with pytest.raises(ValueError, match="crl: "):
        read(entry)


def test_another_ca_is_believed_from_the_next_handshake_on(loop: str, tmp_path: Path) -> None:
    store = loaded(tmp_path, all={"require": True})

    def replace() -> None:
        (tmp_path / "clients.pem").write_bytes(STRANGERS.pem)
        assert store.reload() == []

    stranger = client(authority=STRANGERS)
    seen = talk(loop, store, ("a.test", stranger), ("a.test", stranger), between=replace)
    assert seen == ["TLSV1_ALERT_UNKNOWN_CA", "alice.test"]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_hello_that_comes_in_pieces_is_waited_for(loop: str, tmp_path: Path, size: int) -> None:
    store = loaded(tmp_path, must={"hosts": ["a.test"], "require": True})

    async def main() -> tuple[bool, str]:
        served: list[ssl.SSLObject] = []

        async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(writer.get_extra_info("ssl_object"))
            writer.close()

        server = await asyncio.start_server(note, "127.0.0.1", 0, ssl=store.server_context())
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        context = ssl.create_default_context(cafile=str(trust(tmp_path)))
        pem = write(tmp_path / "visitor.pem", client().key + client().chain)
        made = client()
        pem.write_bytes(made.key + made.chain)
        context.load_cert_chain(pem)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="a.test")
        for _ in range(20):
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                data = outgoing.read()
                for at in range(0, len(data), size):
                    writer.write(data[at : at + size])
                    await asyncio.sleep(0)
                incoming.write(await reader.read(65536))
        writer.write(outgoing.read())
        while not served:
            await asyncio.sleep(0.01)
        writer.close()
        server.close()
        peer = peer_of(served[0])
        assert peer is not None
        assert peer.certificate is not None
        return True, peer.certificate.common_name

    assert run_on(loop, main) == (True, "alice.test")


def test_whoever_makes_openssl_read_another_host_than_was_looked_at_is_refused(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the two disagreed about a ClientHello: what was looked at asks for a host where nobody is asked."""
    store = loaded(tmp_path, must={"hosts": ["a.test"], "require": True})
    context = store.server_context()
    context.choose = lambda data: None
    monkeypatch.setattr(store, "server_context", lambda: context)
    assert talk(loop, store, ("a.test", client()), ("a.test", None)) == ["SSLV3_ALERT_HANDSHAKE_FAILURE"] * 2


def test_a_session_does_not_prove_a_client_to_another_host(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="session_tickets"):
        TLSSettings(session_tickets=True, client_ca={"all": {"file": tmp_path / "ca.pem"}})


def test_names_of_every_kind_are_read_of_a_certificate() -> None:
    made = client(subject="CN=alice,OU=Änderung\\, 2,O=Example")
    names = ["Alice.Test", "spiffe://test/a", "a@test.test", "10.0.0.1"]
    made = sign(Leaf(names, usage=ExtendedKeyUsageOID.CLIENT_AUTH, subject="CN=alice,OU=batch\\, night,O=Example"))
    found = read_certificate(made.der)
    assert found.names == ("DNS:alice.test", "URI:spiffe://test/a", "email:a@test.test", "IP:10.0.0.1")
    assert found.subject == "CN=alice,OU=batch\\, night,O=Example"
    assert found.common_name == "alice"


def test_a_certificate_that_only_openssl_can_read_proves_nobody(loop: str, tmp_path: Path) -> None:
    """Its subjectAltName is an x400Address: RFC 5280, 4.2.1.6 has it, and `cryptography` does not."""
    odd = sign(Leaf([], usage=ExtendedKeyUsageOID.CLIENT_AUTH, names=bytes.fromhex("3004a3023000")), CLIENTS)
    assert talk(loop, loaded(tmp_path, all={}), ("a.test", odd)) == ["None"]


def test_nobody_is_asked_on_a_connection_without_tls() -> None:
    assert peer_of(None) is None


def test_where_python_hides_what_the_choice_of_a_context_needs_nobody_starts_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alert.can_begin_elsewhere()
    monkeypatch.setattr(stores, "can_begin_elsewhere", lambda: False)
    CertificateStore(tmp_path, TLSSettings())
    with pytest.raises(ValueError, match=r"tls-alpn-01 cannot be had with the ssl module of Python 3"):
        CertificateStore(tmp_path, settings(tmp_path, all={}))
