"""Looking at certificates: those in the folder, and the one that a server shows."""

import socket
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from gateway.config.settings import TLSSettings
from gateway.tls.authority import is_without_pairs
from gateway.tls.client import upstream_context
from gateway.tls.pair import Pair, Problem
from gateway.tls.store import CertificateStore

DAY = 86400.0


def problems(folder: Path, settings: TLSSettings | None = None) -> list[Problem]:
    """What is wrong with the certificates of `folder`, for `gateway check`; nothing is changed. Those of clients' CAs
    are no part of it."""
    if is_without_pairs(folder):
        return [Problem(str(folder), "holds no certificate: a start makes one for development", is_error=False)]
    try:
        store = CertificateStore(folder, settings and settings.model_copy(update={"client_ca": {}}))
    except ValueError as error:
        return [Problem("routes.yaml", str(error))]
    found = store.reload()
    return [*found, *(problem for pair in store.pairs for problem in _open_to_all(folder, pair))]


def read(folder: Path) -> tuple[tuple[Pair, ...], list[Problem]]:
    """-> the pairs that would be served, and what is wrong."""
    store = CertificateStore(folder)
    found = store.reload()
    return store.pairs, found


def _open_to_all(folder: Path, pair: Pair) -> list[Problem]:
    path = folder / f"{pair.name}.key"
    try:
        mode = path.stat().st_mode
    except OSError:
        return []
    is_open = bool(mode & stat.S_IROTH)
    return [Problem(path.name, "every user can read this key: chmod 600", is_error=False)] if is_open else []


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server showed in a handshake whose chain and name were verified."""

    version: str
    cipher: str
    hosts: tuple[str, ...]
    issuer: str
    not_after: float  # seconds since 1970

    def days_left(self, now: float | None = None) -> float:
        return (self.not_after - (time.time() if now is None else now)) / DAY


class CheckFailed(Exception):
    """No verified handshake; the message is one line for a person."""


def shown_by(address: tuple[str, int], *, name: str = "", ca: Path | None = None, timeout: float = 10.0) -> Shown:
    """Shake hands with a server, for `name` if it is another than the address's host; `timeout` in seconds.

    Raises CheckFailed.
    """
    host = name or address[0]
    try:
        context = upstream_context(ca)
        with (
            socket.create_connection(address, timeout=timeout) as raw,
            context.wrap_socket(raw, server_hostname=host) as tls,
        ):
            leaf = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
            cipher = tls.cipher()
            return Shown(
                version=tls.version() or "",
                cipher=cipher[0] if cipher else "",
                hosts=_names(leaf),
                issuer=leaf.issuer.rfc4514_string(),
                not_after=leaf.not_valid_after_utc.timestamp(),
            )
    except (OSError, ValueError) as error:
        raise CheckFailed(_why(error)) from None


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _why(error: OSError | ValueError) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate is not to be trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"no TLS handshake: {(error.reason or str(error)).lower().replace('_', ' ')}"
        case socket.gaierror():
            return "the name does not resolve"
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return f"no connection: {error.strerror or error}"
        case _:
            return str(error)
