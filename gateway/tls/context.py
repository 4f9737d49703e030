"""What is spoken on the public entry point: versions, cipher suites, groups, tickets.

The profiles are Mozilla's guideline 6.0 (wiki.mozilla.org/Security/Server_Side_TLS). A context made here has no
certificate: `store.py` adds one.
"""

import _ssl
import ctypes
import functools
import logging
import ssl
from typing import Any

from gateway.config.settings import TLSSettings
from gateway.tls.alert import AlertingContext
from gateway.tls.files import as_path

logger = logging.getLogger(__name__)

ALPN = ["http/1.1"]

INTERMEDIATE_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for key in ("ECDSA", "RSA")
)
GROUPS = ["X25519", "P-256", "P-384"]
POST_QUANTUM_GROUPS = ["X25519MLKEM768"]  # draft-ietf-tls-ecdhe-mlkem, in OpenSSL from 3.5

_HAS_SET_GROUPS = hasattr(ssl.SSLContext, "set_groups")  # Python 3.15
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(settings: TLSSettings) -> AlertingContext:
    """A context for the public entry point, as yet without a certificate.

    Raises ValueError if OpenSSL knows none of `settings.ciphers`.
    """
    limit_groups()
    context = AlertingContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS["1.3" if settings.profile == "modern" else settings.min_version]
    try:
        context.set_ciphers(settings.ciphers or INTERMEDIATE_CIPHERS)
    except ssl.SSLError:
        raise ValueError(f"tls.ciphers: OpenSSL knows no suite of {settings.ciphers!r}") from None
    # Every suite is safe, so the client, which knows whether it has AES in hardware, chooses (the guideline's choice).
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN)
    if not settings.session_tickets:
        context.options |= ssl.OP_NO_TICKET  # TLS 1.2; in 1.3 it makes tickets stateful, hence:
        context.num_tickets = 0
    _set_groups(context)
    return context


def groups() -> list[str]:
    """The key exchanges offered, best first; those that this OpenSSL has."""
    return (POST_QUANTUM_GROUPS if ssl.OPENSSL_VERSION_INFO >= (3, 5) else []) + GROUPS


def _set_groups(context: Any) -> None:
    if _HAS_SET_GROUPS:
        context.set_groups(":".join(groups()))


@functools.cache
def limit_groups() -> bool:
    """Make `groups()` the groups of every SSLContext that this process and its children create from now on.

    Before 3.15 Python can give a context one curve, not a list (`set_ecdh_curve`), and OpenSSL's defaults add P-521,
    X448 and finite fields. OpenSSL takes a list for all contexts from its configuration (config(5), `system_default`).
    It reads OPENSSL_CONF once, on the first import of `hashlib`, `ssl` or `cryptography`, but its public function
    CONF_modules_load_file works at any time. False where `_ssl` hides it (OpenSSL linked into Python): then start the
    gateway with OPENSSL_CONF naming a file of `openssl_conf()`; until then handshakes are sound, with more groups.
    """
    if _HAS_SET_GROUPS:
        return True
    try:
        load = ctypes.CDLL(getattr(_ssl, "__file__", None)).CONF_modules_load_file
    except (OSError, AttributeError):
        logger.warning("TLS key exchange groups: OpenSSL's default, unless OPENSSL_CONF limits them")
        return False
    load.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong]
    load.restype = ctypes.c_int
    with as_path(openssl_conf().encode()) as path:
        return bool(load(path.encode(), None, 0) == 1)


def openssl_conf() -> str:
    """OpenSSL's configuration, with `groups()` for every context (config(5), SSL_CONF_cmd(3))."""
    return f"openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nGroups = {':'.join(groups())}\n"
