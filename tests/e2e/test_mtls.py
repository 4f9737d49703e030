"""Callers that prove themselves by a TLS certificate: who may call what, what the model server is told, and that
neither a header nor another host's door makes anybody somebody else."""

import base64
import http.client
import json
import socket
import ssl
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.e2e.harness import Gateway, gateway_command, served, temporary_folder, until
from tests.e2e.harness_upstream import RawUpstream, answering
from tests.tls.makers import Leaf, Made, make, make_authority, revoke, sign, trust

CLIENTS, PARTNERS = make_authority("Clients CA"), make_authority("Partners CA")
OPEN, TEAM, PARTNER = "open.test", "team.test", "partner.test"


def certificate(name: str, *more: str, authority: Any = CLIENTS, subject: str = "") -> Made:
    leaf = Leaf([name, *more], usage=ExtendedKeyUsageOID.CLIENT_AUTH, subject=subject or f"CN={name}")
    return sign(leaf, authority)


ALICE = certificate("alice.batch.test", "spiffe://test/alice", subject='CN=alice,OU=a\\"b,O=Example')
BOB, MALLORY = certificate("bob.other.test"), certificate("alice.batch.test", authority=PARTNERS)


class Connection:
    """One connection to `host`, with a certificate or without."""

    def __init__(self, gateway: Gateway, host: str, made: Made | None) -> None:
        context = ssl.create_default_context(cafile=str(trust(gateway.folder)))
        if made is not None:
            pem = gateway.folder / "client.pem"
            pem.write_bytes(made.key + made.chain)
            context.load_cert_chain(pem)
        raw = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
        self.http = http.client.HTTPConnection(host)
        self.http.sock = context.wrap_socket(raw, server_hostname=host)

    def ask(self, path: str = "/models/m/x", **headers: str) -> tuple[int, Any]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.http.request("GET", path, headers=fields)
        answer = self.http.getresponse()
        body = answer.read()
        return answer.status, json.loads(body)["error"]["code"] if answer.status >= 400 else body.decode()

    def close(self) -> None:
        self.http.close()


def ask(gateway: Gateway, door: str, made: Made | None, path: str = "/models/m/x", **headers: str) -> tuple[int, Any]:
    connection = Connection(gateway, door, made)
    try:
        return connection.ask(path, **headers)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering()) as upstream:
        yield upstream


def files(folder: Path) -> Path:
    (folder / "certs").mkdir()
    make(OPEN, TEAM, PARTNER).write(folder / "certs", "all")
    (folder / "clients.pem").write_bytes(CLIENTS.pem)
    (folder / "partners.pem").write_bytes(PARTNERS.pem)
    (folder / "clients.crl").write_bytes(revoke(CLIENTS))
    return folder


def settings(*rules: dict[str, Any]) -> dict[str, Any]:
    team = {"file": "clients.pem", "crl": "clients.crl", "hosts": [TEAM]}
    partners = {"file": "partners.pem", "require": True, "hosts": [PARTNER]}
    return {"tls": {"client_ca": {"team": team, "partners": partners}}, "auth": {"mtls": list(rules)}}


RULES = [
    {"ca": "team", "san": "DNS:*.batch.test", "models": ["m"]},
    {"ca": "team", "subject": "CN=bob*", "name": "bob", "models": ["n@v9"]},
    {"ca": "partners", "name": "a partner", "models": ["n", "chained"]},
]


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    by_certificate = served([upstream.url], auth=["mtls"], pass_certificate=["client-cert", "x-client-cert",
                                                                            "x-forwarded-client-cert"])  # fmt: skip
    models = {
        "m": by_certificate,
        "n": served([upstream.url], auth=["mtls", "key"]),
        "public": served([upstream.url], auth=[]),
        "told": served([upstream.url], auth=["key"], pass_certificate=["client-cert"]),
        "chained": served([upstream.url], auth=["mtls"], pass_certificate=["client-cert", "client-cert-chain"]),
    }
    with Gateway(models, settings(*RULES) | {}, folder=files(temporary_folder("mtls-"))) as gateway:
        gateway.key = gateway.create_key("carol", "n", "told")
        yield gateway


def test_a_certificate_is_a_caller_with_its_own_grants(gateway: Gateway) -> None:
    assert ask(gateway, TEAM, ALICE) == (200, "ok")
    assert ask(gateway, TEAM, ALICE, "/models/n/x") == (403, "forbidden")
    assert ask(gateway, TEAM, BOB) == (403, "forbidden")
    assert ask(gateway, PARTNER, MALLORY, "/models/n/x") == (200, "ok")
    assert ask(gateway, PARTNER, MALLORY) == (403, "forbidden"), "the same name, of another CA"
    wanted = {("mtls|team|alice.batch.test", 200), ("mtls|partners|a partner", 200)}
    until(lambda: wanted <= {(each["principal"], each["status"]) for each in gateway.access_log()}, "the log's lines")


def test_without_a_certificate_there_is_no_caller_unless_a_key_will_do(gateway: Gateway) -> None:
    assert ask(gateway, TEAM, None) == (401, "invalid_credentials")
    assert ask(gateway, OPEN, ALICE) == (401, "invalid_credentials"), "nobody asked for it there"
    key = f"Bearer {gateway.key}"
    assert ask(gateway, TEAM, None, "/models/n/x", authorization=key) == (200, "ok")
    assert ask(gateway, OPEN, None, "/models/n/x", authorization=key) == (200, "ok")
    assert ask(gateway, TEAM, BOB, "/models/n/x", authorization=key) == (200, "ok"), "who offers a key is judged by it"
    assert ask(gateway, TEAM, BOB, "/models/n/x", authorization="Bearer gw_wrong") == (401, "invalid_credentials")
    assert ask(gateway, TEAM, None, authorization=key) == (401, "invalid_credentials"), "no key opens m"


def test_a_certificate_that_no_rule_is_about_is_nobody(gateway: Gateway) -> None:
    stranger = certificate("stranger.test")
    assert ask(gateway, TEAM, stranger) == (403, "forbidden")
    assert ask(gateway, TEAM, stranger, "/models/public/x") == (200, "ok")


def test_handshakes_of_wrong_and_missing_certificates_fail(gateway: Gateway) -> None:
    for host, made in ((PARTNER, None), (PARTNER, ALICE), (TEAM, MALLORY)):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
            ask(gateway, host, made)
    reasons = gateway.metrics()
    assert 'reason="peer_did_not_return_a_certificate"' in reasons
    assert 'reason="certificate_verify_failed"' in reasons


@pytest.mark.parametrize(("door", "made", "host"), [(OPEN, None, TEAM), (OPEN, None, PARTNER), (TEAM, ALICE, PARTNER)])
def test_one_hosts_door_does_not_lead_to_another(gateway: Gateway, door: str, made: Made | None, host: str) -> None:
    assert ask(gateway, door, made, "/models/public/x", host=host) == (421, "misdirected_request")
    assert ask(gateway, door, made, "/models/public/x", host=f"{door.upper()}:8443")[0] == 200


def test_the_model_server_is_told_of_the_certificate_in_the_ways_asked_for(
    gateway: Gateway, upstream: RawUpstream
) -> None:
    assert ask(gateway, TEAM, ALICE, authorization="Bearer something-else") == (200, "ok")
    told = upstream.requests[-1]
    assert told.get("authorization") is None
    assert base64.b64decode((told.get("client-cert") or "").strip(":")) == ALICE.der
    pem = urllib.parse.unquote(told.get("x-client-cert") or "")
    assert x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER) == ALICE.der
    facts = told.get("x-forwarded-client-cert") or ""
    assert r'Subject="CN=alice,OU=a\\\"b,O=Example"' in facts
    assert facts.endswith('DNS="alice.batch.test";URI="spiffe://test/alice"')


def test_the_model_server_is_told_what_a_client_sent_behind_its_certificate(
    gateway: Gateway, upstream: RawUpstream
) -> None:
    below = make_authority("Below the Partners CA", PARTNERS)
    carol = sign(Leaf(["carol.test"], usage=ExtendedKeyUsageOID.CLIENT_AUTH, subject="CN=carol"), below)
    assert ask(gateway, PARTNER, carol, "/models/chained/x", client_cert_chain=":bGll:") == (200, "ok")
    told = upstream.requests[-1]
    assert base64.b64decode((told.get("client-cert") or "").strip(":")) == carol.der
    sent = [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(carol.chain)[1:]]
    assert told.get("client-cert-chain") == ", ".join(f":{base64.b64encode(each).decode()}:" for each in sent)
    assert sent
    alone = replace(MALLORY, chain=ssl.DER_cert_to_PEM_cert(MALLORY.der).encode())
    assert ask(gateway, PARTNER, alone, "/models/chained/x", client_cert_chain=":bGll:") == (200, "ok")
    told = upstream.requests[-1]
    assert told.get("client-cert") is not None
    assert told.get("client-cert-chain") is None, "it sent none"


LIES = ("client-cert", "client-cert-chain", "x-client-cert", "X_Client_Cert", "x-forwarded-client-cert")


def test_no_client_may_tell_of_a_certificate_itself(gateway: Gateway, upstream: RawUpstream) -> None:
    key = f"Bearer {gateway.key}"
    visits: list[tuple[str, Made | None, str, dict[str, str]]] = [
        (OPEN, None, "/models/public/x", {}),
        (OPEN, None, "/models/n/x", {"authorization": key}),
        (PARTNER, MALLORY, "/models/n/x", {}),
        (TEAM, ALICE, "/models/m/x", {}),
    ]
    for host, made, path, headers in visits:
        connection = Connection(gateway, host, made)
        assert connection.http.request("GET", path, headers=headers | dict.fromkeys(LIES, "a lie")) is None
        assert connection.http.getresponse().read() == b"ok"
        connection.close()
        told = upstream.requests[-1]
        assert b"a lie" not in b"".join(value for _, value in told.fields)
        assert (told.get("client-cert") is not None) == (path == "/models/m/x")


def test_the_models_that_a_certificate_may_call_are_listed(gateway: Gateway) -> None:
    def listed(host: str, made: Made | None) -> list[str]:
        status, body = ask(gateway, host, made, "/v1/models")
        assert status == 200
        return [entry["id"] for entry in json.loads(body)["data"]]

    assert listed(TEAM, ALICE) == ["m", "public"]
    assert listed(PARTNER, MALLORY) == ["n", "public", "chained"]
    assert listed(TEAM, None) == ["public"]


def test_a_revoked_certificate_is_refused_within_a_second_and_on_open_connections_too(gateway: Gateway) -> None:
    eve = certificate("eve.batch.test")
    connection = Connection(gateway, TEAM, eve)
    assert connection.ask() == (200, "ok")
    (gateway.folder / "clients.crl").write_bytes(revoke(CLIENTS, eve))
    until(lambda: connection.ask() == (401, "invalid_credentials"), "the new list")

    def is_refused() -> bool:
        try:
            ask(gateway, TEAM, eve)
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            return True
        return False

    until(is_refused, "the new list in handshakes")
    assert ask(gateway, TEAM, ALICE) == (200, "ok")
    connection.close()


def test_no_model_server_is_told_of_a_certificate_that_was_revoked_since_whatever_lets_its_caller_in(
    gateway: Gateway, upstream: RawUpstream
) -> None:
    mike = certificate("mike.batch.test")
    connection = Connection(gateway, TEAM, mike)
    with_key = {"authorization": f"Bearer {gateway.key}"}
    assert connection.ask("/models/told/x", **with_key) == (200, "ok")
    assert upstream.requests[-1].get("client-cert") is not None
    (gateway.folder / "clients.crl").write_bytes(revoke(CLIENTS, mike))
    until(lambda: connection.ask() == (401, "invalid_credentials"), "the new list")
    assert connection.ask("/models/told/x", **with_key) == (200, "ok")
    assert upstream.requests[-1].get("client-cert") is None
    connection.close()


def test_rules_change_live_on_open_connections_too(gateway: Gateway) -> None:
    connection = Connection(gateway, TEAM, ALICE)
    assert connection.ask() == (200, "ok")
    assert gateway.reload(settings={"auth": {"mtls": []}}) == []
    assert connection.ask("/models/n/x") == (200, "ok"), "without rules, whoever is verified may call all"
    assert gateway.reload(settings={"auth": {"mtls": RULES}}) == []
    assert connection.ask("/models/n/x") == (403, "forbidden")
    connection.close()


def test_a_file_of_cas_that_becomes_bad_is_reported_and_changes_nothing(gateway: Gateway) -> None:
    good = (gateway.folder / "clients.pem").read_bytes()
    (gateway.folder / "clients.pem").write_text("no certificates")
    try:
        until(lambda: "clients.pem: not a file of PEM certificates" in gateway.output, "the log's line")
        assert any("clients.pem" in problem for problem in gateway.reload())
        assert ask(gateway, TEAM, ALICE) == (200, "ok")
        shown = {each["name"]: each["problem"] for each in gateway.status()["certificates"]}
        assert "not a file of PEM certificates" in shown[str(gateway.folder / "clients.pem")]
    finally:
        (gateway.folder / "clients.pem").write_bytes(good)
    until(lambda: gateway.reload() == [], "the good file")


def test_check_tells_of_bad_and_outdated_files(gateway: Gateway, tmp_path: Path) -> None:
    folder = files(tmp_path / "gateway") if (tmp_path / "gateway").mkdir() is None else tmp_path
    (folder / "routes.yaml").write_text(json.dumps(settings() | {"models": {"m": served(["http://127.0.0.1:1"])}}))
    (folder / "clients.crl").write_bytes(revoke(CLIENTS, days=-3))

    def check() -> tuple[int, str]:
        done = subprocess.run(gateway_command("check"), cwd=folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    code, said = check()
    assert code == 0
    assert "clients.crl: warning: the list of CN=Clients CA expired 3 days ago" in said
    (folder / "partners.pem").unlink()
    code, said = check()
    assert code == 1
    assert "tls.client_ca.partners" in said
    assert "partners.pem: cannot be read" in said
