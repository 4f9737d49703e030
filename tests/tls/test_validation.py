"""How a CA that proves domains by tls-alpn-01 (RFC 8737) is answered, on both event loops; nobody else notices."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from gateway.config.settings import AcmeSettings, ClientCA, TLSSettings
from gateway.tls.store import CertificateStore
from gateway.tls.validation import ANSWERS, answer_file, write_answer
from tests.tls.makers import AUTHORITY, make, trust
from tests.tls.servers import LOOPS, run_on, serving, shake

HOST, DIGEST = "proved.test", bytes(range(32))


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def store_in(folder: Path, challenge: str = "tls-alpn-01", **more: Any) -> CertificateStore:
    make("a.test", "127.0.0.1").write(folder, "a")
    (folder / ANSWERS).mkdir(parents=True)
    settings = TLSSettings(acme=AcmeSettings(domains=[HOST, "other.test"], challenge=challenge), **more)
    store = CertificateStore(folder, settings)
    assert store.reload() == []
    return store


def look(port: int, host: str, protocols: list[str], version: ssl.TLSVersion) -> tuple[bytes, str | None, bytes]:
    """-> the certificate, the protocol, and all that is answered to a request."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    context.set_alpn_protocols(protocols)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=host) as tls,
    ):
        shown = tls.getpeercert(binary_form=True) or b""
        answer = b""
        try:
            tls.sendall(b"hello\n")
            answer = tls.recv(100)
        except OSError:
            pass
        return shown, tls.selected_alpn_protocol(), answer


def ask(loop: str, store: CertificateStore, *visits: tuple[str, list[str]], version: Any = None) -> list[Any]:
    async def main() -> list[Any]:
        async with serving(store.server_context()) as port:
            wanted = version or ssl.TLSVersion.TLSv1_3
            return [await asyncio.to_thread(look, port, *visit, wanted) for visit in visits]

    found: list[Any] = run_on(loop, main)  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_ca_is_shown_the_proof_and_nothing_is_served_behind_it(
    loop: str, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    store = store_in(tmp_path)
    write_answer(tmp_path / ANSWERS, HOST, DIGEST)
    ((shown, protocol, answer),) = ask(loop, store, (HOST, ["acme-tls/1"]), version=version)
    certificate = x509.load_der_x509_certificate(shown)
    assert protocol == "acme-tls/1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(HOST)]
    proof = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert proof.critical
    assert proof.value.value == b"\x04\x20" + DIGEST  # type: ignore[attr-defined]
    assert answer == b""


def test_nobody_else_is_shown_it(loop: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    proof = write_answer(tmp_path / ANSWERS, HOST, DIGEST).read_bytes()
    usual = [(HOST, ["http/1.1"]), (HOST, ["h2", "acme-tls/1"]), ("other.test", ["acme-tls/1"]), ("a.test", [])]
    for shown, protocol, answer in ask(loop, store, *usual, ("x.test", ["acme-tls/1"])):
        assert ssl.DER_cert_to_PEM_cert(shown).encode() not in proof
        assert protocol in ("http/1.1", None)
        assert answer == b"hello\n"


def test_without_a_proof_to_give_a_ca_is_served_as_anybody_is(loop: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert [seen[1:] for seen in ask(loop, store, (HOST, ["acme-tls/1"]))] == [(None, b"hello\n")]
    answer_file(tmp_path / ANSWERS, HOST).write_text("half a file")
    assert [seen[1:] for seen in ask(loop, store, (HOST, ["acme-tls/1"]))] == [(None, b"hello\n")]


def test_where_domains_are_proved_otherwise_no_hello_is_looked_at(tmp_path: Path) -> None:
    assert store_in(tmp_path, "http-01").server_context().choose is None


def test_a_ca_needs_no_client_certificate(loop: str, tmp_path: Path) -> None:
    ca = tmp_path / "clients.pem"
    ca.write_bytes(AUTHORITY.pem)
    store = store_in(tmp_path, client_ca={"all": ClientCA(file=ca, require=True)})
    write_answer(tmp_path / ANSWERS, HOST, DIGEST)
    assert [seen[1:] for seen in ask(loop, store, (HOST, ["acme-tls/1"]))] == [("acme-tls/1", b"")]


def test_usual_clients_are_verified_meanwhile(loop: str, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    write_answer(tmp_path / ANSWERS, HOST, DIGEST)
    context = ssl.create_default_context(cafile=str(trust(tmp_path)))

    async def main() -> str:
        async with serving(store.server_context()) as port:
            return (await shake(port, context, "a.test")).version

    assert run_on(loop, main) == "TLSv1.3"


def test_only_its_owner_reads_the_proofs_key(tmp_path: Path) -> None:
    assert write_answer(tmp_path, HOST, DIGEST).stat().st_mode & 0o777 == 0o600
