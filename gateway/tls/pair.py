"""One certificate with its key, NAME.crt + NAME.key: read, judged, and kept in memory.

What is kept is what was judged: a handshake reads no file, so a file that is half written, or gone, harms nobody.
"""

import functools
import itertools
import os
import re
import ssl
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    ExtensionOID,
    PublicKeyAlgorithmOID,
)

from gateway.tls.files import as_path

ALARM = 14 * 86400.0  # seconds; of short-lived ones a sixth: those renewed at a third have failed half of that time
LARGEST_FILE = 1 << 20  # bytes; a chain of ten RSA 8192 certificates is 40 KiB

_PLAIN_KEY = b"-----BEGIN PRIVATE KEY-----"  # RFC 7468, 10
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_KINDS = {
    PublicKeyAlgorithmOID.EC_PUBLIC_KEY: "ECDSA",
    PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5: "RSA",
    PublicKeyAlgorithmOID.ED25519: "Ed25519",
}
_NO_KIND = "its key is neither ECDSA (P-256, P-384, P-521), RSA nor Ed25519"
_FOR_SERVERS = frozenset((ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))
_Extensions = Mapping[x509.ObjectIdentifier, x509.ExtensionType]
_BROKEN_HASHES = (hashes.SHA1, hashes.MD5)  # RFC 9155; browsers and OpenSSL's security level 2 refuse them
UNREADABLE = (  # what `cryptography` raises for bytes that somebody damaged, found by damaging them
    ValueError,
    InternalError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class Problem(NamedTuple):
    """Something about one file: an error (it is not served) or a warning (it is)."""

    file: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


class BadPair(Exception):
    """A pair that must not be served; says which file and why."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(f"{file}: {message}")
        self.problem = Problem(file, message)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A certificate that may be served. `hosts` are lower-case, wildcards included; times are seconds since 1970."""

    name: str
    leaf: bytes
    above: bytes  # the rest of the chain; one object for all the pairs that share it
    key: bytes  # PKCS #8, not encrypted
    hosts: tuple[str, ...]
    addresses: tuple[str, ...]  # IP addresses, which no client can ask for by SNI (RFC 6066, 3)
    kind: str  # ECDSA | RSA | Ed25519: a server has at most one certificate of each kind for a host
    not_before: float
    not_after: float
    remarks: tuple[str, ...]

    @property
    def key_type(self) -> str:
        """ECDSA P-256, RSA 2048, Ed25519 …"""
        return _judge_key(x509.load_pem_x509_certificate(self.leaf).public_key())

    @property
    def issuer(self) -> str:
        """Who signed it, in the notation of RFC 4514."""
        return x509.load_pem_x509_certificate(self.leaf).issuer.rfc4514_string()

    def is_valid_at(self, now: float) -> bool:
        return self.not_before <= now < self.not_after

    def is_same_as(self, other: "Pair") -> bool:
        return (self.leaf, self.above, self.key) == (other.leaf, other.above, other.key)

    def warnings(self, now: float) -> Iterator[Problem]:
        """What is no reason to refuse the pair, and yet wrong."""
        file = f"{self.name}.crt"
        if now >= self.not_after:
            yield Problem(file, f"expired {(now - self.not_after) / 86400:.0f} days ago", is_error=False)
        elif self.not_after - now < min(ALARM, (self.not_after - self.not_before) / 6):
            yield Problem(file, f"expires in {(self.not_after - now) / 86400:.0f} days", is_error=False)
        elif now < self.not_before:
            yield Problem(file, f"is not valid for another {(self.not_before - now) / 86400:.0f} days", is_error=False)
        if not self.hosts and not self.addresses:
            yield Problem(file, "its subjectAltName names no host: no client accepts it", is_error=False)
        for remark in self.remarks:
            yield Problem(file, remark, is_error=False)

    def prove(self) -> None:
        """What `read_pair` may leave for later. Raises BadPair."""
        file = f"{self.name}.crt"
        try:
            public = x509.load_pem_x509_certificate(self.leaf).public_key()
            _judge_key(public)
        except UNREADABLE as error:
            raise BadPair(file, one_line(error)) from None
        _check_match(self.name, public, _load_key(self.name, self.key, None))

    def load_into(self, context: ssl.SSLContext) -> None:
        """Raises ssl.SSLError if OpenSSL does not agree with our judgement, OSError without a free descriptor."""
        with as_path(b"\n".join((self.key, self.leaf, self.above))) as path:
            context.load_cert_chain(path, password=lambda: "")  # never ask a terminal

    def __repr__(self) -> str:
        return f"<Pair {self.name} {self.kind} {','.join(self.hosts)}>"


@dataclass(frozen=True, slots=True)
class _Above:
    """The chain above a leaf: the subject it starts with, and what is wrong with it."""

    pem: bytes
    subject: bytes
    remarks: tuple[str, ...]


def read_pair(folder: Path, name: str, *, is_quick: bool = False) -> Pair:
    """Read NAME.crt, NAME.key and, if the key is encrypted, NAME.pass.

    Raises BadPair: missing, unreadable, no PEM, weak (RSA under 2048 bits, SHA-1), or a key of another certificate.
    `is_quick`: what of that takes a look at the keys, two thirds of the time, is left to `Pair.prove`.
    """
    file = f"{name}.crt"
    blocks = _PEM.findall(_read(folder, file))
    if not blocks:
        raise BadPair(file, "no PEM certificate in it")
    try:
        leaf = x509.load_pem_x509_certificate(blocks[0])
        above = _judge_above(b"\n".join(blocks[1:]))
        kind = _kind(leaf)
        _judge_signature(leaf)
        extensions = {each.oid: each.value for each in leaf.extensions}  # each look-up by class is such a pass
        hosts, addresses = _names(extensions.get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME))
        remarks = (*_remarks(leaf, extensions, above), *above.remarks)
    except UNREADABLE as error:
        raise BadPair(file, one_line(error)) from None
    pair = Pair(
        name=name,
        leaf=blocks[0],
        above=above.pem,
        key=_plain_key(folder, name),
        hosts=hosts,
        addresses=addresses,
        kind=kind,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        remarks=remarks,
    )
    if not is_quick:
        pair.prove()
    return pair


def _read(folder: Path, file: str) -> bytes:
    try:
        descriptor = os.open(f"{folder}/{file}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not wait
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
                raise BadPair(file, f"is not a file of at most {LARGEST_FILE} bytes")
            return os.read(descriptor, status.st_size)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise BadPair(file, "is missing") from None
    except OSError as error:
        raise BadPair(file, f"cannot be read ({error.strerror})") from None


def _plain_key(folder: Path, name: str) -> bytes:
    """As PKCS #8, not encrypted; most are that and nothing else."""
    file = f"{name}.key"
    pem = _read(folder, file)
    if pem.startswith(_PLAIN_KEY) and pem.count(b"-----BEGIN") == 1:
        return pem
    password = None
    if b"ENCRYPTED" in pem:
        password = _read(folder, f"{name}.pass").rstrip(b"\r\n")
    return _load_key(name, pem, password).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(name: str, pem: bytes, password: bytes | None) -> PrivateKeyTypes:
    file = f"{name}.key"
    try:
        # The costly proof that RSA's numbers are consistent is left out: whoever writes this folder is trusted.
        return serialization.load_pem_private_key(pem, password, unsafe_skip_rsa_key_validation=True)
    except (TypeError, *UNREADABLE):
        if password is not None:
            raise BadPair(f"{name}.pass", f"does not open {file}") from None
        raise BadPair(file, "no PEM private key in it") from None


def _check_match(name: str, public: PublicKeyTypes, private: PrivateKeyTypes) -> None:
    if private.public_key() != public:
        raise BadPair(f"{name}.key", f"not the key of {name}.crt, whose first certificate must be the server's own")


def _kind(leaf: x509.Certificate) -> str:
    kind = _KINDS.get(leaf.public_key_algorithm_oid)
    if kind is None:
        raise ValueError(_NO_KIND)
    return kind


def _judge_key(public: PublicKeyTypes) -> str:
    """-> the type; raises ValueError for one that no client should accept (CA/Browser Forum BR 6.1.5)."""
    match public:
        case ec.EllipticCurvePublicKey() if public.curve.name in _CURVES:
            return f"ECDSA {_CURVES[public.curve.name]}"
        case rsa.RSAPublicKey() if public.key_size >= 2048:
            return f"RSA {public.key_size}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case rsa.RSAPublicKey():
            raise ValueError(f"an RSA key of {public.key_size} bits is too weak (2048 at least)")
        case _:
            raise ValueError(_NO_KIND)


def _judge_signature(certificate: x509.Certificate) -> None:
    if isinstance(certificate.signature_hash_algorithm, _BROKEN_HASHES):
        weak = certificate.signature_hash_algorithm.name.upper()
        raise ValueError(f"signed with {weak}, which is broken")  # noqa: TRY004


@functools.lru_cache(maxsize=256)  # thousands of certificates have a handful of chains above them
def _judge_above(pem: bytes) -> _Above:
    if not pem:
        return _Above(b"", b"", ())
    chain = x509.load_pem_x509_certificates(pem)
    for certificate in chain:
        _judge_key(certificate.public_key())
        if certificate.issuer != certificate.subject:  # nobody verifies what a root says of itself
            _judge_signature(certificate)
    broken = any(below.issuer != upper.subject for below, upper in itertools.pairwise(chain))
    remarks = ("the chain's certificates do not follow one another",) if broken else ()
    return _Above(pem, chain[0].subject.public_bytes(), remarks)


def _names(alternatives: x509.ExtensionType | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """-> hosts, addresses (RFC 9525: of the subjectAltName only; a wildcard is a whole leftmost label)."""
    if not isinstance(alternatives, x509.SubjectAlternativeName):
        return (), ()
    names = list(alternatives)
    hosts = dict.fromkeys(name.value.lower().rstrip(".") for name in names if type(name) is x509.DNSName)
    addresses = tuple(str(name.value) for name in names if type(name) is x509.IPAddress)
    return tuple(host for host in hosts if "*" not in host.removeprefix("*.")), addresses


def _remarks(leaf: x509.Certificate, extensions: _Extensions, above: _Above) -> Iterator[str]:
    if above.pem and leaf.issuer.public_bytes() != above.subject:
        yield "its issuer is not the next certificate of the chain"
    if not above.pem and _has_public_issuer(extensions.get(ExtensionOID.AUTHORITY_INFORMATION_ACCESS)):
        yield "its chain is missing: most clients refuse it without the certificate of its issuer"
    usage = extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    if isinstance(usage, x509.ExtendedKeyUsage) and _FOR_SERVERS.isdisjoint(usage):
        yield "is not meant for servers (extendedKeyUsage without serverAuth): clients refuse it"


def _has_public_issuer(access: x509.ExtensionType | None) -> bool:
    """It says where its issuer's certificate is, as those of public CAs must (CA/Browser Forum BR 7.1.2.7.7)."""
    if not isinstance(access, x509.AuthorityInformationAccess):
        return False
    return any(each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in access)


def one_line(error: Exception) -> str:
    """What it says, on one line that a log can afford; its type, if it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
