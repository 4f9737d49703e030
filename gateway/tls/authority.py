"""A certificate authority for development: a gateway that has no certificate yet still speaks HTTPS.

The CA is kept in FOLDER/dev-ca/, below the folder that is served, so that it is never offered to a client. Its
certificates satisfy what browsers, curl and Python's VERIFY_X509_STRICT ask for (RFC 5280; CA/Browser Forum BR 7.1).
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.tls.files import locked, write_whole

FOLDER = "dev-ca"
CA_DAYS = 3650
DAYS = 365  # Mozilla's guideline 6.0 allows 366, the CA/Browser Forum 398 until 2026
RENEW_BEFORE = timedelta(days=30)
BACKDATED = timedelta(hours=1)  # for clients whose clock is behind

_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*", re.ASCII)
_PEM = serialization.Encoding.PEM
_Key = ec.EllipticCurvePrivateKey
_Extensions = list[tuple[x509.ExtensionType, bool]]


@dataclass(frozen=True, slots=True)
class Created:
    """A certificate that was made, and the CA to trust for it."""

    certificate: Path
    key: Path
    ca: Path
    names: tuple[str, ...]

    def how_to_trust(self, port: int = 8443) -> str:
        """Lines to print."""
        return how_to_trust(self.ca, self.names[0], port)


class CannotIssue(Exception):
    """A certificate was not made; the message is one line for a person."""


def how_to_trust(ca: Path, host: str = "localhost", port: int = 8443) -> str:
    """Lines to print: how a client comes to trust a CA."""
    return "\n".join(
        (
            f"{ca} is a CA of this machine, for development. To trust it:",
            f"  curl --cacert {ca} https://{host}:{port}/",
            f"  export SSL_CERT_FILE={ca.absolute()}   # Python, Go, OpenSSL",
            "  # Debian, Ubuntu:",
            f"  sudo cp {ca} /usr/local/share/ca-certificates/gateway-dev.crt && sudo update-ca-certificates",
        )
    )


def ensure(folder: Path) -> Created | None:
    """Make a `localhost` certificate, and the CA before it, if `folder` has no pair; renew ours before it expires.

    None if there was nothing to do. Safe to call at every start, by several processes at once. Raises OSError if the
    folder cannot be written, CannotIssue if the CA in it is unusable.
    """
    if not _is_needed(folder):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _issue(folder, local_names()) if _is_needed(folder) else None


def issue(folder: Path, names: Sequence[str], *, days: int = DAYS) -> Created:
    """Make (or make anew) a certificate for `names` (hosts, wildcards, IP addresses), signed by the CA of `folder`.

    Its file is named for the first of them; a key that is there is kept, so that there is no moment without a pair.
    Raises CannotIssue, also where a certificate of another issuer is in the way; OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _issue(folder, names, days)


def local_names() -> tuple[str, ...]:
    """How this machine is called by itself and by its neighbours."""
    hostname = socket.gethostname().lower()
    known = ("localhost", "*.localhost", "127.0.0.1", "::1")
    return (*known, hostname) if _HOST.fullmatch(hostname) and hostname not in known else known


def file_name(host: str) -> str:
    """The NAME of NAME.crt: `*` and `:` are no names of files everywhere."""
    return host.replace("*", "_").replace(":", "_")


def is_without_pairs(folder: Path) -> bool:
    """True where `ensure` makes the first certificate."""
    return not any(path.with_suffix(".key").exists() for path in folder.glob("*.crt"))


def _is_needed(folder: Path) -> bool:
    """True without any pair, or where our own `localhost` is about to expire."""
    if is_without_pairs(folder):
        return True
    ca, leaf = _certificate(folder / FOLDER / "ca.crt"), _certificate(folder / "localhost.crt")
    if ca is None or leaf is None or not _is_signed_by(leaf, ca):
        return False
    return datetime.now(UTC) >= leaf.not_valid_after_utc - RENEW_BEFORE


def _issue(folder: Path, names: Sequence[str], days: int = DAYS) -> Created:
    wanted = tuple(dict.fromkeys(_general_name(name) for name in names))
    ca, ca_key = _authority(folder / FOLDER)
    stem = file_name(names[0].lower())
    created = Created(folder / f"{stem}.crt", folder / f"{stem}.key", folder / FOLDER / "ca.crt", tuple(names))
    if created.certificate.exists() and not _is_ours(created.certificate, ca):
        raise CannotIssue(f"{created.certificate} was not signed by {created.ca}: it is not overwritten")
    key = _private_key(created.key)
    if key is None:
        if created.key.exists():
            raise CannotIssue(f"{created.key} is not an ECDSA key without a password: it is not overwritten")
        key = ec.generate_private_key(ec.SECP256R1())
        write_whole(created.key, _key_pem(key), 0o600)
    leaf = _sign_leaf(key, wanted, days, ca, ca_key)
    write_whole(created.certificate, leaf.public_bytes(_PEM) + ca.public_bytes(_PEM), 0o644)
    return created


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _HOST.fullmatch(name.lower()) or len(name) > 253:
            raise CannotIssue(f"{name!r} is neither a host name nor an IP address") from None
        return x509.DNSName(name.lower())


def _authority(folder: Path) -> tuple[x509.Certificate, _Key]:
    """The CA in `folder`, made if there is none; -> certificate, key."""
    certificate_path, key_path = folder / "ca.crt", folder / "ca.key"
    if not certificate_path.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        ca = _sign_ca(key)
        # The key first: a CA without its key would be in the way for good.
        write_whole(key_path, _key_pem(key), 0o600)
        write_whole(certificate_path, ca.public_bytes(_PEM), 0o644)
        return ca, key
    existing = _certificate(certificate_path)
    key_of_it = _private_key(key_path)
    if existing is None or key_of_it is None or key_of_it.public_key() != existing.public_key():
        raise CannotIssue(f"{certificate_path} and {key_path} are not a CA with its key; remove both to make a new one")
    if datetime.now(UTC) >= existing.not_valid_after_utc:
        raise CannotIssue(f"{certificate_path} has expired; remove it and {key_path} to make a new one")
    return existing, key_of_it


def _sign_ca(key: _Key) -> x509.Certificate:
    start = datetime.now(UTC) - BACKDATED
    serial = x509.random_serial_number()
    # The serial number in its name tells the CAs of two folders apart in a trust store.
    name = _name(f"Gateway development CA {serial:x}"[:40])
    extensions: _Extensions = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(is_ca=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    builder = _builder(name, name, key, serial, extensions)
    return _during(builder, start, start + timedelta(days=CA_DAYS)).sign(key, hashes.SHA256())


def _sign_leaf(
    key: _Key, names: Sequence[x509.GeneralName], days: int, ca: x509.Certificate, ca_key: _Key
) -> x509.Certificate:
    start = datetime.now(UTC) - BACKDATED
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    extensions: _Extensions = [
        (x509.SubjectAlternativeName(names), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(is_ca=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
    ]
    # The subject is for people: clients look at the subjectAltName alone (RFC 9525, 2).
    subject = _name(str(names[0].value)[:64])
    builder = _builder(subject, ca.subject, key, x509.random_serial_number(), extensions)
    end = min(start + timedelta(days=days), ca.not_valid_after_utc)
    return _during(builder, start, end).sign(ca_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: _Key, serial: int, extensions: _Extensions
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
    builder = builder.public_key(key.public_key()).serial_number(serial)
    for extension, is_critical in extensions:
        builder = builder.add_extension(extension, critical=is_critical)
    return builder


def _during(builder: x509.CertificateBuilder, start: datetime, end: datetime) -> x509.CertificateBuilder:
    return builder.not_valid_before(start).not_valid_after(end)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _is_ours(path: Path, ca: x509.Certificate) -> bool:
    certificate = _certificate(path)
    return certificate is not None and _is_signed_by(certificate, ca)


def _is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _certificate(path: Path) -> x509.Certificate | None:
    """The first certificate of a file; None if there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _private_key(path: Path) -> _Key | None:
    try:
        key: PrivateKeyTypes = serialization.load_pem_private_key(path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _key_pem(key: _Key) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
