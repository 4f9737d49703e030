"""Certificates as a test needs them: of any kind, for any names, good and bad."""

import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID, NameOID

PEM = serialization.Encoding.PEM
KEY_MAKERS = {
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": functools.cache(lambda: rsa.generate_private_key(65537, 2048)),
    "rsa1024": functools.cache(lambda: rsa.generate_private_key(65537, 1024)),
}


@dataclass(frozen=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    above: bytes = b""  # PEM of its own issuers

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)


@dataclass(frozen=True)
class Leaf:
    """What a certificate is asked to be; days are counted from now."""

    hosts: Sequence[str]
    kind: str = "ecdsa"
    start: float = -1
    days: float = 90
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
    subject: str = "CN=leaf"
    issuer_url: str = ""  # where its issuer's certificate can be had
    names: bytes = b""  # DER of a subjectAltName, instead of the hosts


@dataclass(frozen=True)
class Made:
    """A certificate with its key, as files would hold them."""

    chain: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.chain).public_bytes(serialization.Encoding.DER)

    def write(self, folder: Path, name: str) -> "Made":
        (folder / f"{name}.crt").write_bytes(self.chain)
        (folder / f"{name}.key").write_bytes(self.key)
        return self

    def encrypted(self, password: bytes) -> "Made":
        key = serialization.load_pem_private_key(self.key, None)
        encryption = serialization.BestAvailableEncryption(password)
        return replace(self, key=key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption))


def make_authority(name: str = "Test CA", above: Authority | None = None, kind: str = "ecdsa") -> Authority:
    key = KEY_MAKERS[kind]()
    subject = _name(name)
    issuer = above.certificate.subject if above else subject
    builder = _dated(x509.CertificateBuilder().subject_name(subject).issuer_name(issuer), -1, 900)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_usage(is_ca=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    if above:
        builder = builder.add_extension(_identifier(above), critical=False)
    certificate = builder.sign(above.key if above else key, hashes.SHA256())
    return Authority(certificate, key, above.pem + above.above if above else b"")


def make(*hosts: str, **wanted: object) -> Made:
    """A certificate of `AUTHORITY` for `hosts`; `wanted` is of `Leaf`."""
    return sign(Leaf(hosts, **wanted))  # type: ignore[arg-type]


def sign(leaf: Leaf, authority: Authority | None = None) -> Made:
    authority = authority or AUTHORITY
    key = KEY_MAKERS[leaf.kind]()
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(leaf.subject))
        .issuer_name(authority.certificate.subject)
    )
    builder = _dated(builder, leaf.start, leaf.days)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    if leaf.hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(h) for h in leaf.hosts]), critical=False)
    if leaf.names:
        raw = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, leaf.names)
        builder = builder.add_extension(raw, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(is_ca=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([leaf.usage]), critical=False)
    builder = builder.add_extension(_identifier(authority), critical=False)
    if leaf.issuer_url:
        place = x509.UniformResourceIdentifier(leaf.issuer_url)
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    chain = certificate.public_bytes(PEM) + (authority.pem + authority.above if authority is not AUTHORITY else b"")
    plain = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Made(chain, plain)


def revoke(authority: Authority, *revoked: Made, days: float = 30) -> bytes:
    """The authority's list of revoked certificates, in PEM; `days` until the next is due."""
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now - datetime.timedelta(days=40)).next_update(now + datetime.timedelta(days=days))
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())  # RFC 5280, 5.2.1
    builder = builder.add_extension(key_id, critical=False)
    for made in revoked:
        serial = x509.load_pem_x509_certificate(made.chain).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(PEM)


def with_sha1(made: Made) -> Made:
    """The certificate, of an RSA authority, as if it had been signed with SHA-1, which no library does any more."""
    der = made.der.replace(bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105"))
    return replace(made, chain=x509.load_der_x509_certificate(der).public_bytes(PEM))


def trust(folder: Path, authority: Authority | None = None) -> Path:
    path = folder / "trusted.pem"
    path.write_bytes((authority or AUTHORITY).pem)
    return path


def _general(host: str) -> x509.GeneralName:
    if "://" in host:
        return x509.UniformResourceIdentifier(host)
    if "@" in host:
        return x509.RFC822Name(host)
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _dated(builder: x509.CertificateBuilder, start: float, days: float) -> x509.CertificateBuilder:
    begin = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=start)
    return builder.not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=days))


def _identifier(authority: Authority) -> x509.AuthorityKeyIdentifier:
    identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    off = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, decipher_only=False, **off)


AUTHORITY = make_authority()
