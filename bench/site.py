"""What all contestants of a run share: one certificate, the same keys and tokens, the stand-in for model servers."""

import datetime
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from bench.processes import Running, free_ports
from bench.render import render_file
from gateway.stores.keyentry import Key
from gateway.stores.keyfile import KeyFile
from gateway.stores.keys import Pepper, mint

KEYS = 32  # one for each client of the load
_LARGE = 2**20  # bytes of the large answer
_PEPPER = "the pepper of the bench, which protects nothing"


@dataclass(frozen=True)
class Site:
    """A temporary folder and what is in it."""

    folder: Path
    keys_folder: Path
    upstream_ports: tuple[int, int]
    keys: Sequence[str]
    tokens: Sequence[str]  # RS256, an hour valid

    @property
    def certificate(self) -> Path:
        return self.folder / "certs" / "localhost.crt"

    def words(self) -> dict[str, object]:
        """For templates."""
        first, second = self.upstream_ports
        return {
            "certificates": self.folder / "certs",
            "pem": self.folder / "localhost.pem",
            "keys": self.keys_folder / "keys.yaml",
            "key_map": self.keys_folder / "keys.map",
            "nginx_keys": self.keys_folder / "keys.nginx",
            "public_key": self.folder / "issuer.pem",
            "certificate": self.certificate,
            "private_key": self.folder / "certs" / "localhost.key",
            "upstream_a": first,
            "upstream_b": second,
            # Its worker would become `nobody`, who cannot look into the folder.
            "user": "user root;" if os.geteuid() == 0 else "",
            "authentication": "",
            "filters": "",
            "generation": 1,
            "auth": "key",
            "rate": 1_000_000,  # never reached; the audit sets a low one
            "burst": 1_000_000,
            "buffering": "on",
            "workers": 1,
            "session_tickets": "false",  # of the gateway
            "tickets": "no-tls-tickets",  # of HAProxy
        }


def make(folder: Path) -> Site:
    """Fill an empty folder."""
    _write_certificate(folder)
    keys = write_keys(folder, KEYS)
    (folder / "large.bin").write_bytes(os.urandom(_LARGE))
    first, second = free_ports(2)
    return Site(folder, folder, (first, second), keys, _write_tokens(folder, KEYS))


def start_upstream(site: Site) -> Running:
    """nginx that answers everything at once."""
    config = site.folder / "upstream.conf"
    config.write_text(render_file("upstream/nginx.conf", {**site.words(), "folder": site.folder}))
    running = Running("the upstream", ["nginx", "-p", str(site.folder), "-c", str(config)], site.folder)
    running.wait_for_port(site.upstream_ports[1])
    return running


def write_keys(folder: Path, count: int) -> list[str]:
    """`count` keys, in the form of each contestant."""
    pepper = Pepper.of_text(_PEPPER)
    now = datetime.datetime.now(datetime.UTC)
    minted = [mint() for _ in range(count)]
    rows = [
        Key(id=name, name=f"caller-{number}", hash=pepper.digest(key.encode()).hex(), models=("*",), created=now)
        for number, (name, key) in enumerate(minted)
    ]
    (folder / "keys.yaml").write_text(KeyFile(pepper, _PEPPER, rows).render())
    (folder / "keys.map").write_text("".join(f"{key} {name}\n" for name, key in minted))
    indent = " " * 14
    (folder / "keys.envoy").write_text("".join(f"{indent}- {{key: {key}, client: {name}}}\n" for name, key in minted))
    (folder / "keys.nginx").write_text("".join(f'"Bearer {key}" {name};\n' for name, key in minted))
    return [key for _, key in minted]


def _write_tokens(folder: Path, count: int) -> list[str]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "issuer.pem").write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    now = int(time.time())
    claims = {"iss": "https://issuer.example/", "aud": "models", "iat": now, "exp": now + 3600, "scope": "infer"}
    return [
        jwt.encode({**claims, "sub": f"caller-{number}", "jti": f"{number:032x}"}, private, "RS256", {"kid": "1"})
        for number in range(count)
    ]


def _write_certificate(folder: Path) -> None:
    """ECDSA P-256, signed by itself: one signature and one certificate to send, for everybody."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "certs").mkdir()
    for path, content in (
        (folder / "certs" / "localhost.crt", text),
        (folder / "certs" / "localhost.key", private),
        (folder / "localhost.pem", text + private),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
