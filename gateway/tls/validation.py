"""What an ACME CA looks for to prove a domain (RFC 8555, 8; RFC 8737). Whoever orders writes it to a folder that all
gateways share; whichever is asked answers from there."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config.settings import TLSSettings
from gateway.tls.alert import AlertingContext
from gateway.tls.context import server_context
from gateway.tls.files import write_whole

FOLDER = ".acme"  # in the folder of certificates
ANSWERS = Path(FOLDER) / "answers"
PROTOCOL = b"acme-tls/1"

_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # id-pe-acmeIdentifier
_PEM = serialization.Encoding.PEM


def answer_file(answers: Path, host: str) -> Path:
    """Of `tls-alpn-01`. A token of `http-01` has no dot, so that the plain listener never shows such a file."""
    return answers / f"{host}.pem"


def write_answer(answers: Path, host: str, digest: bytes) -> Path:
    """The certificate that proves `host`, with its key. `digest` is that of the key authorization (RFC 8737, 3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=True)
    proof = x509.UnrecognizedExtension(_IDENTIFIER, b"\x04\x20" + digest)  # an OCTET STRING of 32 bytes
    certificate = builder.add_extension(proof, critical=True).sign(key, hashes.SHA256())
    plain = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = answer_file(answers, host)
    write_whole(path, plain + certificate.public_bytes(_PEM), 0o600)
    return path


def validation_context(settings: TLSSettings, path: Path) -> AlertingContext | None:
    """The context for a CA that looks now; None if nothing is to be proved."""
    if not path.exists():
        return None
    context = server_context(settings)
    context.set_alpn_protocols([PROTOCOL.decode()])
    context.is_validation = True
    try:
        context.load_cert_chain(path, password=lambda: "")
    except (OSError, ssl.SSLError):  # gone by now
        return None
    return context
