"""The client's side of TLS: toward model servers, and for `gateway certs check`."""

import ssl
from pathlib import Path

from gateway.tls.context import ALPN


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
