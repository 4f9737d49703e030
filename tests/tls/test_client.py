import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.config.settings import TLSSettings, UpstreamTLS
from gateway.tls.client import UpstreamContexts, upstream_context
from gateway.tls.context import server_context
from tests.tls.makers import make, make_authority, trust
from tests.tls.servers import Seen, serving, shake


def seen(folder: Path, client: ssl.SSLContext, host: str = "a.test", **server: Any) -> Seen:
    """A handshake with a model server of `a.test`."""
    make("a.test").write(folder, "server")
    context = server_context(TLSSettings())
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    for name, value in server.items():
        setattr(context, name, value)
    if "verify_mode" in server:
        context.load_verify_locations(trust(folder))

    async def main() -> Seen:
        async with serving(context) as port:
            return await shake(port, client, host)

    return asyncio.run(main())


def test_a_server_of_a_trusted_ca_is_talked_to_in_http_1_1(tmp_path: Path) -> None:
    assert seen(tmp_path, upstream_context(ca=trust(tmp_path))).alpn == "http/1.1"


def test_a_server_of_an_unknown_ca_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        seen(tmp_path, upstream_context())


def test_a_ca_is_trusted_instead_of_the_systems_not_besides(tmp_path: Path) -> None:
    assert upstream_context().cert_store_stats()["x509_ca"] != 1
    assert upstream_context(ca=trust(tmp_path)).cert_store_stats()["x509_ca"] == 1


def test_a_server_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'b.test'"):
        seen(tmp_path, upstream_context(ca=trust(tmp_path)), host="b.test")


def test_insecure_verifies_nothing(tmp_path: Path) -> None:
    assert seen(tmp_path, upstream_context(insecure=True), host="b.test").version == "TLSv1.3"


@pytest.mark.parametrize("is_one_file", [True, False])
def test_a_client_certificate_is_shown_to_a_server_that_asks(tmp_path: Path, is_one_file: bool) -> None:
    made = make("gateway.test", usage=ExtendedKeyUsageOID.CLIENT_AUTH).write(tmp_path, "client")
    (tmp_path / "both.pem").write_bytes(made.chain + made.key)
    own = (tmp_path / "both.pem", None) if is_one_file else (tmp_path / "client.crt", tmp_path / "client.key")
    client = upstream_context(trust(tmp_path), client_cert=own[0], client_key=own[1])
    assert seen(tmp_path, client, verify_mode=ssl.CERT_REQUIRED).version == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        seen(tmp_path, upstream_context(trust(tmp_path)), verify_mode=ssl.CERT_REQUIRED)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    garbage, absent = tmp_path / "garbage.pem", tmp_path / "absent.pem"
    garbage.write_text("garbage")
    make("a.test").encrypted(b"secret").write(tmp_path, "locked")
    for bad in (garbage, absent):
        with pytest.raises(ValueError, match=f"^{bad}: not a file of PEM certificates"):
            upstream_context(ca=bad)
        with pytest.raises(ValueError, match=f"^{bad}, {bad}: not a certificate with its key"):
            upstream_context(client_cert=bad)
    with pytest.raises(ValueError, match=r"locked\.key: not a certificate with its key, not encrypted"):
        upstream_context(client_cert=tmp_path / "locked.crt", client_key=tmp_path / "locked.key")


def test_contexts_are_shared_until_their_files_change_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    contexts, ca = UpstreamContexts(), trust(tmp_path)
    settings = UpstreamTLS(ca=ca)
    first = contexts.of(settings)
    assert contexts.of(UpstreamTLS(ca=ca)) is first
    assert contexts.of(UpstreamTLS(ca=ca, server_name="a.test")) is not first
    ca.write_text("garbage")
    assert contexts.of(settings) is first
    ca.write_bytes(make_authority("Another").pem * 2)
    assert contexts.of(settings) is not first


def test_a_file_that_never_could_be_used_makes_a_context_that_trusts_nobody(tmp_path: Path) -> None:
    context = UpstreamContexts().of(UpstreamTLS(ca=tmp_path / "absent.pem"))
    with pytest.raises(ssl.SSLCertVerificationError):
        seen(tmp_path, context)
