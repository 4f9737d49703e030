"""What a failed connection means to a client, said once."""

import ssl

# X509_verify_cert_error_string(3), in words that tell a stranger nothing of the inside.
_WHY = {
    9: "is not yet valid",
    10: "has expired",
    18: "is self-signed",
    19: "is of a CA that is not trusted",
    20: "is of a CA that is not trusted",
    21: "is of a CA that is not trusted",
    23: "has been revoked",
    62: "is for another name",
    64: "is for another address",
}

# What it says of ours (RFC 8446, 6.2), as OpenSSL spells it behind `TLSV1_ALERT_` and the like.
_ALERTS = {
    "CERTIFICATE_REQUIRED": "asks for a client certificate",
    "UNKNOWN_CA": "does not trust the CA of the gateway's certificate",
    "BAD_CERTIFICATE": "does not accept the gateway's certificate",
    "CERTIFICATE_UNKNOWN": "does not accept the gateway's certificate",
    "UNSUPPORTED_CERTIFICATE": "does not accept the gateway's certificate",
    "CERTIFICATE_REVOKED": "says that the gateway's certificate has been revoked",
    "CERTIFICATE_EXPIRED": "says that the gateway's certificate has expired",
}


def why_refused(error: ssl.SSLError) -> str:
    """A sentence about a model server's TLS, for its client."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The model server's certificate {_WHY.get(error.verify_code, 'cannot be trusted')}."
    return why_unwanted(error) or "The model server and the gateway found no common TLS."


def why_unwanted(error: Exception | None) -> str | None:
    """The same, if what ended a connection is a model server's word about our certificate. In TLS 1.3 it says so when
    to us the handshake is over and the request is sent; it has read none of that."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    said = _ALERTS.get((reason or "").rpartition("_ALERT_")[2])
    return f"The model server {said}." if said else None
