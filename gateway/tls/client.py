"""The client's side of TLS: toward model servers, and for `gateway certs check`."""

import logging
import ssl
from pathlib import Path

from gateway.config.settings import UpstreamTLS
from gateway.tls.context import ALPN

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int] | None, ...]


class UpstreamContexts:
    """One context for all endpoints with the same settings: the system's CAs take 50 ms and 2 MB to load each time.

    A change of the files is seen by the next `of`; a context is never changed, so that whoever holds one can tell.
    """

    def __init__(self) -> None:
        self._known: dict[UpstreamTLS, tuple[_Stamp, ssl.SSLContext]] = {}

    def of(self, settings: UpstreamTLS) -> ssl.SSLContext:
        """With a file that cannot be used, the last good context; without any, one that trusts nobody."""
        stamp = _stamp(settings)
        known = self._known.get(settings)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            context = context_of(settings)
        except ValueError as error:
            _log.error("upstream_tls: %s", error)
            context = known[1] if known else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._known[settings] = stamp, context
        return context

    def retain(self, wanted: set[UpstreamTLS]) -> None:
        """Forget, with their keys, the contexts of other settings."""
        self._known = {settings: known for settings, known in self._known.items() if settings in wanted}


def context_of(settings: UpstreamTLS) -> ssl.SSLContext:
    """Raises ValueError that names the file which cannot be used."""
    return upstream_context(settings.ca, settings.insecure, settings.client_cert, settings.client_key)


def upstream_context(
    ca: Path | None = None,
    insecure: bool = False,
    client_cert: Path | None = None,
    client_key: Path | None = None,
) -> ssl.SSLContext:
    """A context that verifies the server's chain and name.

    `ca`: a PEM file (or a folder of hashed ones) trusted instead of the system's; `insecure`: verify nothing;
    `client_cert`: a PEM chain to show, `client_key` its key (absent: it is in the same file).
    Raises ValueError that names the file which cannot be used.
    """
    try:
        context = _trusting(ca)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ValueError(f"{ca}: not a file of PEM certificates ({_reason(error)})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client_cert is not None:
        try:
            # Without a password OpenSSL would ask the terminal, and wait.
            context.load_cert_chain(client_cert, client_key, password=lambda: "")
        except (OSError, ValueError) as error:
            files = f"{client_cert}, {client_key or client_cert}"
            raise ValueError(f"{files}: not a certificate with its key, not encrypted ({_reason(error)})") from None
    return context


def _stamp(settings: UpstreamTLS) -> _Stamp:
    return tuple(_state(path) for path in settings.files)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _trusting(ca: Path | None) -> ssl.SSLContext:
    if ca is None:
        return ssl.create_default_context()
    if ca.is_dir():
        return ssl.create_default_context(capath=str(ca))
    return ssl.create_default_context(cafile=str(ca))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
