"""JWS in its compact form (RFC 7515): three parts, each in its one spelling, and a signature over the first two.

PyJWT has the algorithms; the reading is our own, because two readers may not see two different tokens: PyJWT 2.15 takes
padding, other alphabets' characters between the digits, and bits that no byte has a place for.
"""

import json
import re
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from typing import Any, NamedTuple, NoReturn

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)")  # RFC 7515, 3.1: no padding
_STANDARD = bytes.maketrans(b"-_", b"+/")


class Malformed(ValueError):
    """No token at all; the text says why, and nothing of what it holds."""


class Parts(NamedTuple):
    """A token as it was sent, nothing of it proved."""

    header: dict[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes

    def is_signed_by(self, key: jwt.PyJWK) -> bool:
        """`key` is bound to one algorithm, and is used for no other whatever the header says (RFC 8725, 3.1)."""
        if isinstance(key.key, RSAPublicKey) and len(self.signature) != (key.key.key_size + 7) // 8:
            return False  # RFC 8017, 8.1.2; OpenSSL's PSS takes one whose leading zero is missing, another spelling
        return key.Algorithm.verify(self.signed, key.key, self.signature)


def split(token: bytes) -> Parts:
    """Raises Malformed."""
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise Malformed("not three parts of base64url")
    header, payload, signature = (_decode(part) for part in match.groups())
    return Parts(read_object(header), payload, token[: match.end(2)], signature)


def read_object(text: bytes) -> dict[str, Any]:
    """A JSON object that has one reading: UTF-8, no name twice, no NaN (RFC 7515, 4; RFC 7519, 4). Raises Malformed."""
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(document, dict):
        raise Malformed("not a JSON object")
    return document


def _decode(part: bytes) -> bytes:
    """RFC 4648, 3.5: bits that are left over are 0, or many texts would be one value."""
    try:
        value = a2b_base64(part.translate(_STANDARD) + b"=" * (-len(part) % 4), strict_mode=True)
    except ValueError as error:
        raise Malformed("not base64url") from error
    if urlsafe_b64encode(value).rstrip(b"=") != part:
        raise Malformed("not base64url in its one spelling")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
