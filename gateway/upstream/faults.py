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


def why_refused(error: ssl.SSLError) -> str:
    """A sentence about a model server's TLS, for its client."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The model server's certificate {_WHY.get(error.verify_code, 'cannot be trusted')}."
    return "The model server and the gateway found no common TLS."
