"""Client certificates: which hosts ask for one, whose are believed, and which have been revoked.

OpenSSL verifies them, in the handshake. What it needs for that is kept here as it was last good; a file that cannot be
used changes nothing, and where there never was a good one nobody is believed.
"""

import _ssl
import logging
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from gateway.config.settings import ClientCA
from gateway.core.certificate import ClientCertificate, Peer
from gateway.tls.files import as_path
from gateway.tls.pair import UNREADABLE, Problem, one_line

_log = logging.getLogger(__name__)

LARGEST_CHAIN = 16 << 10  # bytes of what a client sends behind its certificate
LARGEST_FILE = 16 << 20  # bytes; a list of 400,000 revoked certificates

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class _Trusted:
    """What an entry's files hold. `revoked` is by issuer; `lists` is PEM."""

    content: tuple[bytes, bytes] | None  # of the files, to tell whether they have changed
    anchors: tuple[x509.Certificate, ...] = ()
    lists: tuple[x509.CertificateRevocationList, ...] = ()
    revoked: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def problems(self, settings: ClientCA, now: float) -> Iterator[Problem]:
        for anchor in self.anchors:
            name = anchor.subject.rfc4514_string()
            if anchor.not_valid_after_utc.timestamp() <= now:
                yield Problem(str(settings.file), f"{name} has expired: nobody is believed for it", is_error=False)
            if settings.crl is not None and name not in self.revoked:
                message = f"has no list of {name}: certificates that it signed itself are refused"
                yield Problem(str(settings.crl), message, is_error=False)
        for each in self.lists:
            until = each.next_update_utc
            if until is not None and until.timestamp() <= now:
                days = (now - until.timestamp()) / 86400
                message = (
                    f"the list of {each.issuer.rfc4514_string()} expired {days:.0f} days ago: its clients are refused"
                )
                yield Problem(str(settings.crl), message)


_NOBODY = _Trusted(None)


class ClientCAs:
    """The entries of `tls.client_ca`. Empty of trust until the first `reload`, which may run in a thread."""

    def __init__(self, settings: Mapping[str, ClientCA]) -> None:
        self._settings = settings
        self._by_host = {host: name for name, each in settings.items() for host in each.hosts}
        self._elsewhere = next((name for name, each in settings.items() if not each.hosts), "")
        self._trusted: dict[str, _Trusted] = dict.fromkeys(settings, _NOBODY)
        self.generation = 0  # raised by every change of what is believed

    def __bool__(self) -> bool:
        return bool(self._settings)

    @property
    def differ(self) -> bool:
        """Whether it depends on the host."""
        return bool(self._by_host)

    def asked_at(self, host: str | None) -> str:
        """The entry that asks clients of `host` (None: of no host) for a certificate; "" where none does."""
        if not self._by_host or host is None:
            return self._elsewhere
        host = host.lower().rstrip(".")
        return self._by_host.get(host) or self._by_host.get("*." + host.partition(".")[2]) or self._elsewhere

    def demand(self, name: str, context: ssl.SSLContext) -> None:
        """Have handshakes on `context` ask for a certificate as the entry `name` says."""
        trusted = self._trusted[name]
        context.verify_mode = ssl.CERT_REQUIRED if self._settings[name].require else ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the file may name an issuer without its root
        if self._settings[name].crl is not None:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        pem = [each.public_bytes(_PEM) for each in trusted.anchors] + [
            each.public_bytes(_PEM) for each in trusted.lists
        ]
        if pem:
            with as_path(b"".join(pem)) as path:
                context.load_verify_locations(path)

    def is_revoked(self, peer: Peer) -> bool:
        """By the newest list: for connections that are older than it."""
        found, trusted = peer.certificate, self._trusted.get(peer.ca, _NOBODY)
        return found is not None and found.serial in trusted.revoked.get(found.issuer, ())

    def reload(self, now: float) -> list[Problem]:
        """Take over what has changed in the files; -> what is wrong with them now."""
        problems = []
        for name, settings in self._settings.items():
            try:
                trusted = read(settings, self._trusted[name])
            except ValueError as error:
                file, _, message = str(error).partition(": ")
                problems.append(Problem(file, message))
                trusted = self._trusted[name]
            if trusted is not self._trusted[name]:
                self._trusted[name] = trusted
                self.generation += 1
            problems += trusted.problems(settings, now)
        return problems

    def __repr__(self) -> str:
        return f"<ClientCAs {', '.join(self._settings) or 'nobody is asked'}>"


def read(settings: ClientCA, before: _Trusted = _NOBODY) -> _Trusted:
    """`before` itself if the files are as they were. Raises ValueError that names the file which cannot be used."""
    crl = _content(settings.crl) if settings.crl is not None else b""
    content = _content(settings.file), crl
    if content == before.content:
        return before
    try:
        anchors = x509.load_pem_x509_certificates(content[0])
        strangers = [each.subject.rfc4514_string() for each in anchors if not _is_ca(each)]
    except UNREADABLE as error:
        raise ValueError(f"{settings.file}: not a file of PEM certificates ({one_line(error)})") from None
    if strangers:
        raise ValueError(f"{settings.file}: {strangers[0]} is not the certificate of a CA")
    lists: list[x509.CertificateRevocationList] = []
    revoked: dict[str, frozenset[int]] = {}
    if settings.crl is not None:
        try:
            lists = _lists(crl, anchors)
            for each in lists:
                issuer = each.issuer.rfc4514_string()
                revoked[issuer] = revoked.get(issuer, frozenset()) | {entry.serial_number for entry in each}
        except UNREADABLE as error:
            raise ValueError(f"{settings.crl}: {one_line(error)}") from None
    return _Trusted(content, tuple(anchors), tuple(lists), revoked)


def problems(settings: ClientCA) -> Iterator[Problem]:
    """What is wrong with files that can be read."""
    try:
        trusted = read(settings)
    except ValueError:
        return
    yield from trusted.problems(settings, time.time())


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _lists(content: bytes, anchors: Sequence[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    """Raises ValueError for a list that is not its issuer's, as far as the issuer is known here (else OpenSSL looks),
    and for two of one issuer. A CA that changes its key and keeps its name is two issuers meanwhile."""
    blocks = _CRL.findall(content)
    lists = [x509.load_pem_x509_crl(block) for block in blocks] if blocks else [x509.load_der_x509_crl(content)]
    signers = [(each.issuer.rfc4514_string(), _signer(each, anchors)) for each in lists]
    if len(set(signers)) != len(signers):
        raise ValueError("has two lists of one issuer")
    return lists


def _signer(crl: x509.CertificateRevocationList, anchors: Sequence[x509.Certificate]) -> bytes:
    """The key of it; b"" if none is known here, or it is of a kind that only OpenSSL verifies."""
    keys = [anchor.public_key() for anchor in anchors if anchor.subject.rfc4514_string() == crl.issuer.rfc4514_string()]
    for key in keys:
        if not isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey)):
            return b""
        if crl.is_signature_valid(key):
            return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if keys:
        raise ValueError(f"the list of {crl.issuer.rfc4514_string()} is not signed by it")
    return b""


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path}: is larger than {LARGEST_FILE} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


# --- a connection's --------------------------------------------------------------------------------------------------

_KINDS: dict[type[x509.GeneralName], str] = {
    x509.DNSName: "DNS",
    x509.UniformResourceIdentifier: "URI",
    x509.RFC822Name: "email",
    x509.IPAddress: "IP",
}


def peer_of(tls: object) -> Peer | None:
    """Who is at the other end, once hands were shaken; None where nobody was asked for a certificate."""
    ca = getattr(tls, "client_ca", "")
    if not ca or not isinstance(tls, ssl.SSLObject):
        return None
    der = tls.getpeercert(binary_form=True)
    try:
        return Peer(ca, read_certificate(der, _chain(tls)) if der else None)
    except UNREADABLE as error:  # what OpenSSL takes and `cryptography` does not: it proves nobody
        _log.warning("a client certificate that %s verified cannot be read: %s", ca, one_line(error))
        return Peer(ca, None)


def _chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """What the client sent behind its own certificate; () for more than is kept of one."""
    inner: Any = getattr(tls, "_sslobj", None)  # Python 3.13 has a method of its own for this
    sent: list[Any] = getattr(inner, "get_unverified_chain", list)()[1:]
    chain = tuple(each.public_bytes(_ssl.ENCODING_DER) for each in sent)
    return chain if sum(map(len, chain)) <= LARGEST_CHAIN else ()


def read_certificate(der: bytes, chain: tuple[bytes, ...] = ()) -> ClientCertificate:
    certificate = x509.load_der_x509_certificate(der)
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return ClientCertificate(
        der=der,
        subject=certificate.subject.rfc4514_string(),
        common_name=str(common[0].value) if common else "",
        names=tuple(_names(certificate)),
        issuer=certificate.issuer.rfc4514_string(),
        serial=certificate.serial_number,
        not_after=certificate.not_valid_after_utc.timestamp(),
        chain=chain,
    )


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in names:
        kind = _KINDS.get(type(name))
        if kind is not None:
            yield f"{kind}:{str(name.value).lower() if kind == 'DNS' else name.value}"
