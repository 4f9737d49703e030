"""What is spoken, seen by clients; tests/e2e/test_tls_profile.py asks sslyze too."""

import asyncio
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.settings import TLSSettings
from gateway.tls import context as context_module
from gateway.tls.alert import AlertingContext
from gateway.tls.context import groups, openssl_conf, server_context
from tests.tls.makers import make, trust
from tests.tls.servers import Seen, client_context, serving, shake

MOZILLA = json.loads((Path(__file__).parent / "mozilla_6.0_intermediate.json").read_text())
TLS12 = {"maximum_version": ssl.TLSVersion.TLSv1_2}
OURS = {"X25519": "X25519", "P-256": "prime256v1", "P-384": "secp384r1"}


@pytest.fixture
def shaken(tmp_path: Path) -> Any:
    """A function that shakes hands: the server's settings, then what is set on the client."""
    ca = trust(tmp_path)
    for kind in ("ecdsa", "rsa"):
        make("a.test", kind=kind).write(tmp_path, kind)

    def shaken(settings: dict[str, Any], **client: Any) -> Seen:
        context = server_context(TLSSettings(**settings))
        for kind in ("ecdsa", "rsa"):
            context.load_cert_chain(tmp_path / f"{kind}.crt", tmp_path / f"{kind}.key")

        async def main() -> Seen:
            async with serving(context) as port:
                return await shake(port, client_context(ca, **client), "a.test")

        return asyncio.run(main())

    return shaken


def test_the_suites_are_those_of_mozillas_guideline() -> None:
    suites = server_context(TLSSettings()).get_ciphers()
    tls13 = {suite["name"] for suite in suites if suite["protocol"] == "TLSv1.3"}
    assert [suite["name"] for suite in suites if suite["protocol"] == "TLSv1.2"] == MOZILLA["ciphers"]["openssl"]
    assert tls13 == set(MOZILLA["ciphersuites"])


def test_tls_1_3_is_spoken_and_1_2_where_the_client_has_no_more(shaken: Any) -> None:
    assert shaken({}).version == "TLSv1.3"
    assert shaken({}, **TLS12).version == "TLSv1.2"


@pytest.mark.parametrize("settings", [{"profile": "modern"}, {"min_version": "1.3"}])
def test_tls_1_2_is_refused_where_the_settings_say_so(shaken: Any, settings: dict[str, Any]) -> None:
    assert shaken(settings).version == "TLSv1.3"
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        shaken(settings, **TLS12)


def test_no_version_before_1_2_is_spoken() -> None:
    assert server_context(TLSSettings()).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"])
def test_suites_without_forward_secrecy_or_aead_or_elliptic_curves_are_refused(shaken: Any, cipher: str) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        shaken({}, ciphers=cipher, **TLS12)


def test_custom_ciphers_are_spoken_alone(shaken: Any) -> None:
    settings = {"profile": "custom", "ciphers": "ECDHE-RSA-AES256-GCM-SHA384"}
    assert shaken(settings, **TLS12).cipher == "ECDHE-RSA-AES256-GCM-SHA384"
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        shaken(settings, ciphers="ECDHE-RSA-AES128-GCM-SHA256", **TLS12)


def test_the_clients_order_of_suites_counts(shaken: Any) -> None:
    for suite in MOZILLA["ciphers"]["openssl"]:
        others = [other for other in MOZILLA["ciphers"]["openssl"] if other != suite]
        assert shaken({}, ciphers=":".join([suite, *others]), **TLS12).cipher == suite


@pytest.mark.parametrize("settings", [{"ciphers": "ECDHE+AESGCM"}, {"profile": "custom"}])
def test_custom_and_ciphers_need_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="need each other"):
        TLSSettings(**settings)


def may_name(curve: str) -> bool:
    """Whether the client of this Python can ask for that curve alone: some know the older ones only."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ecdh_curve(curve)
    except ssl.SSLError:
        return False
    return True


def test_our_groups_are_spoken_and_no_other(shaken: Any) -> None:
    spoken = [curve for curve in OURS.values() if may_name(curve)]
    assert "prime256v1" in spoken
    for curve in spoken:
        assert shaken({}, curve=curve).version == "TLSv1.3"
        assert shaken({}, curve=curve, **TLS12).version == "TLSv1.2"
    for curve in filter(may_name, ("secp521r1", "X448")):
        for client in ({}, TLS12):
            with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
                shaken({}, curve=curve, **client)


def test_our_groups_are_those_of_mozillas_guideline_that_this_openssl_has() -> None:
    names = [OURS.get(group, group) for group in groups()]
    expected = MOZILLA["tls_curves"] if ssl.OPENSSL_VERSION_INFO >= (3, 5) else MOZILLA["tls_curves"][1:]
    assert names == expected


CURVES = """
import ssl, sys
import {first}
from gateway.config.settings import TLSSettings
from gateway.tls.context import limit_groups, server_context
server, client = server_context(TLSSettings()), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
server.load_cert_chain(sys.argv[1], sys.argv[2])
client.load_verify_locations(sys.argv[3])
client.set_ecdh_curve("secp521r1")
to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
ends = [client.wrap_bio(to_client, to_server, server_hostname="a.test")]
ends.append(server.wrap_bio(to_server, to_client, server_side=True))
try:
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
except ssl.SSLError:
    print("refused")
else:
    print("spoken")
"""


@pytest.mark.parametrize("first", ["hashlib", "ssl", "uvloop", "cryptography.x509"])
def test_the_groups_are_limited_whatever_was_imported_before(tmp_path: Path, first: str) -> None:
    make("a.test").write(tmp_path, "a")
    script = [sys.executable, "-c", CURVES.format(first=first)]
    files = [tmp_path / "a.crt", tmp_path / "a.key", trust(tmp_path)]
    done = subprocess.run([*script, *files], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_where_openssl_is_hidden_its_configuration_file_limits_the_groups(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "a")
    (tmp_path / "openssl.cnf").write_text(openssl_conf())
    hidden = CURVES.format(first="gateway.tls.context").replace(
        "server, client",
        "gateway.tls.context.ctypes.CDLL = lambda _: object()\nassert not limit_groups()\nserver, client",
    )
    files = [str(tmp_path / "a.crt"), str(tmp_path / "a.key"), str(trust(tmp_path))]
    for environment, expected in (({}, "spoken\n"), ({"OPENSSL_CONF": str(tmp_path / "openssl.cnf")}, "refused\n")):
        command = [sys.executable, "-c", hidden, *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == expected


def test_http_1_1_is_agreed_upon_and_nothing_else(shaken: Any, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(tmp_path / "trusted.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    server = server_context(TLSSettings())
    server.load_cert_chain(tmp_path / "ecdsa.crt", tmp_path / "ecdsa.key")

    async def main() -> str | None:
        async with serving(server) as port:
            return (await shake(port, context, "a.test")).alpn

    assert asyncio.run(main()) == "http/1.1"
    assert shaken({}).alpn is None


@pytest.mark.parametrize("option", [ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION])
def test_compression_and_renegotiation_are_off(option: ssl.Options) -> None:
    assert server_context(TLSSettings()).options & option


def test_a_python_that_can_set_groups_sets_them_on_each_context(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(context_module, "_HAS_SET_GROUPS", True)
    monkeypatch.setattr(AlertingContext, "set_groups", lambda _, names: asked.append(names), raising=False)
    server_context(TLSSettings())
    assert asked == [":".join(groups())]
