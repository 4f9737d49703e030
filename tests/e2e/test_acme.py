"""Certificates from a real ACME server: Pebble, which refuses every second nonce."""

import json
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.tls.pair import read_pair
from tests.e2e.harness import Gateway, Process, material, served, temporary_folder, until
from tests.ports import free_port
from tests.tls.makers import make, trust
from tests.tls.servers import certificate_shown

pytestmark = pytest.mark.skipif(
    not (shutil.which("pebble") and shutil.which("pebble-challtestsrv")), reason="Debian package pebble is missing"
)

NAMES = ["models.example.com", "llama.example.com"]


class Pebble:
    """An ACME server, and a DNS server that says 127.0.0.1 to everything."""

    def __init__(self, http_port: int) -> None:
        self.folder = temporary_folder("pebble-")
        make("127.0.0.1").write(self.folder, "server")
        self.ca = trust(self.folder)
        self.port, self.management, dns, self.tls_port = (free_port() for _ in range(4))
        config: dict[str, Any] = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": "server.crt",
            "privateKey": "server.key",
            "httpPort": http_port,
            "tlsPort": self.tls_port,
        }
        (self.folder / "config.json").write_text(json.dumps({"pebble": config}))
        off = [f"-{each}=" for each in ("http01", "https01", "tlsalpn01")]
        self.dns = Process(
            "challtestsrv",
            [
                "pebble-challtestsrv",
                *off,
                "-defaultIPv6=",
                f"-dns01=127.0.0.1:{dns}",
                f"-management=127.0.0.1:{free_port()}",
            ],
            self.folder,
        )
        self.server = Process(
            "pebble",
            ["pebble", "-config", "config.json", "-strict", "-dnsserver", f"127.0.0.1:{dns}"],
            self.folder,
            {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "50", "PEBBLE_AUTHZREUSE": "0"},
        )

    @property
    def directory(self) -> str:
        return f"https://127.0.0.1:{self.port}/dir"

    def root(self) -> str:
        """The CA of what it issues, which is new at every start."""
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(f"https://127.0.0.1:{self.management}/roots/0", context=context) as answer:
            return str(answer.read().decode())

    def is_up(self) -> bool:
        self.server.check_alive()
        try:
            return bool(self.root())
        except OSError:
            return False


@pytest.fixture(scope="module")
def http_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def pebble(http_port: int) -> Iterator[Pebble]:
    pebble = Pebble(http_port)
    try:
        until(pebble.is_up, "Pebble's start")
        yield pebble
    finally:
        pebble.server.kill()
        pebble.dns.kill()


def settings(pebble: Pebble, http_port: int, **acme: Any) -> dict[str, Any]:
    own = {"domains": NAMES, "email": "ops@example.com", "directory": pebble.directory, "ca": str(pebble.ca)}
    return {"gateway": {"http": f"127.0.0.1:{http_port}", "workers": 2}, "tls": {"acme": own | acme}}


def served_by(gateway: Gateway, pebble: Pebble, port: int = 0) -> ssl.SSLContext:
    """A client that believes Pebble, once the gateway shows a certificate of it, at its `port` if not the usual one."""
    context = ssl.create_default_context(cadata=pebble.root())

    def is_served() -> bool:
        gateway.check_alive()
        try:
            certificate_shown(port or gateway.port, context, NAMES[0])
        except ssl.SSLError:
            return False
        return True

    until(is_served, "the certificate", 40)
    return context


def test_a_certificate_is_issued_at_the_start_and_renewed_under_load(pebble: Pebble, http_port: int) -> None:
    with Gateway({"m": served(["http://127.0.0.1:1"])}, settings(pebble, http_port)) as gateway:
        assert gateway.is_ready()  # with the certificate that was there
        context = served_by(gateway, pebble)
        certs = gateway.folder / "certs"
        first = read_pair(certs, f"acme-{NAMES[0]}")
        assert set(first.hosts) == set(NAMES)
        assert (certs / f"acme-{NAMES[0]}.key").stat().st_mode & 0o777 == 0o600
        assert (gateway.folder / ".gateway" / "acme-account.key").stat().st_mode & 0o777 == 0o600
        assert list((certs / ".acme" / "answers").iterdir()) == []
        gateway.stop()
        # One that is about to expire, of the same CA as far as the gateway is concerned.
        make(*NAMES, start=-9, days=10).write(certs, f"acme-{NAMES[0]}")
        old = read_pair(certs, f"acme-{NAMES[0]}")
    renew_under_load(gateway, pebble, http_port, context, old.leaf)


def renew_under_load(gateway: Gateway, pebble: Pebble, http_port: int, context: ssl.SSLContext, old: bytes) -> None:
    context.load_verify_locations(pebble.ca)
    failures: list[Exception] = []
    shown: set[bytes] = set()
    is_over = threading.Event()
    with Gateway({"m": served(["http://127.0.0.1:1"])}, settings(pebble, http_port), folder=gateway.folder) as again:

        def hammer() -> None:
            while not is_over.is_set():
                try:
                    shown.add(certificate_shown(again.port, context, NAMES[1]))
                except OSError as error:
                    failures.append(error)

        threads = [threading.Thread(target=hammer) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(shown) > 1, "the renewed certificate", 40)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
    assert failures == []
    assert ssl.PEM_cert_to_DER_cert(old.decode()) in shown
    assert len(shown) == 2


def test_domains_are_proved_in_a_handshake_while_others_are_served(pebble: Pebble, http_port: int) -> None:
    wanted = settings(pebble, http_port, challenge="tls-alpn-01")
    wanted["gateway"] = {"workers": 2, "https": f"127.0.0.1:{pebble.tls_port}"}
    failures: list[Exception] = []
    is_over = threading.Event()
    with Gateway({}, wanted) as gateway:

        def hammer() -> None:
            while not is_over.is_set():
                try:
                    certificate_shown(pebble.tls_port, gateway.context, "localhost")
                except OSError as error:
                    failures.append(error)

        thread = threading.Thread(target=hammer)
        thread.start()
        try:
            served_by(gateway, pebble, pebble.tls_port)
        finally:
            is_over.set()
            thread.join()
        assert failures == []
        assert list((gateway.folder / "certs" / ".acme" / "answers").iterdir()) == []
        assert "is not issued" not in gateway.output


def test_of_gateways_that_share_a_folder_one_asks_and_all_serve(pebble: Pebble, http_port: int) -> None:
    shared = temporary_folder("shared-")
    shutil.copytree(material()[0] / "certs", shared / "certs")
    wanted = settings(pebble, http_port)
    ports = [http_port, free_port(), free_port()]
    gateways: list[Gateway] = []
    try:
        for port in ports:  # whoever asks, the first is whom Pebble finds: it answers from the folder
            folder = temporary_folder("gateway-")
            (folder / "certs").symlink_to(shared / "certs")
            each = wanted | {"gateway": {"http": f"127.0.0.1:{port}", "workers": 1}}
            gateways.append(Gateway({}, each, folder=folder, wait=False))
        shown = set()
        for gateway in gateways:
            gateway.wait_ready()
            context = served_by(gateway, pebble)
            shown.add(certificate_shown(gateway.port, context, NAMES[0]))
        assert len(shown) == 1
        issued = [gateway.output.count(" issued for ") for gateway in gateways]
        assert sum(issued) == 1
    finally:
        for gateway in gateways:
            gateway.kill()


def test_a_domain_that_cannot_be_proved_is_told_and_the_old_certificates_are_served(
    pebble: Pebble, http_port: int
) -> None:
    wrong = settings(pebble, http_port)
    wrong["gateway"]["http"] = f"127.0.0.1:{free_port()}"  # where Pebble does not look
    with Gateway({}, wrong) as gateway:
        until(lambda: "is not issued" in gateway.output, "the failure's line", 40)
        assert NAMES[0] in gateway.output
        assert "again in" in gateway.output
        certificate_shown(gateway.port, gateway.context, "localhost")


def test_the_plain_listener_redirects_what_is_no_challenge(tmp_path: Path) -> None:
    port = free_port()
    with Gateway({}, {"gateway": {"http": f"127.0.0.1:{port}"}}) as gateway:
        answers = gateway.folder / "certs" / ".acme" / "answers"
        answers.mkdir(parents=True)
        (answers / "to-ken_1").write_text("to-ken_1.thumb")
        (answers.parent / "secret").write_text("no")
        (answers / "host.pem").write_text("a key")

        class Direct(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                return None

        def get(path: str) -> tuple[int, bytes]:
            try:
                with urllib.request.build_opener(Direct).open(f"http://127.0.0.1:{port}{path}") as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        base = "/.well-known/acme-challenge/"
        assert get(base + "to-ken_1") == (200, b"to-ken_1.thumb")
        for other in ("absent", "host.pem", "../secret", "..%2Fsecret", "", "to-ken_1/", "to-ken_1?x="):
            assert get(base + other)[0] == (200 if other.endswith("?x=") else 308), other
