"""What Project Wycheproof's JWS vectors try and libraries let through: keys that are meant for something else (RFC
7517, 4.2 to 4.4) and other spellings of base64url (RFC 7515, 2). The signature is good each time."""

import json
from typing import Any

import pytest

from gateway.edge.tokens import Tokens
from gateway.errors import StoreUnavailable, Unauthenticated
from tests.edge.auth_makers import ISSUER, NOW, Entry, ec_key, jwk, make_tokens, rsa_key, rsa_token, token

EC, RSA = jwk(ec_key(), "ES256", kid="e1"), jwk(rsa_key(), "RS256", kid="r1")
DECOY = jwk(ec_key("decoy"), "ES256", kid="decoy")  # so that the issuer has keys at all


def verify(token: bytes, *members: dict[str, Any]) -> str:
    keys = json.dumps({"keys": [*members, DECOY]}).encode()
    return Tokens([Entry()], {ISSUER: keys}).verify(token, NOW).name


FIT: list[dict[str, Any]] = [
    {},
    {"use": "sig"},
    {"key_ops": ["verify"]},
    {"key_ops": ["sign", "verify"]},
    {"use": "sig", "key_ops": ["verify"]},
]
UNFIT: list[dict[str, Any]] = [
    {"use": "enc"},
    {"use": "SIG"},
    {"use": ""},
    {"use": None},
    {"use": ["sig"]},
    {"key_ops": []},
    {"key_ops": ["sign"]},
    {"key_ops": ["encrypt", "decrypt"]},
    {"key_ops": ["wrapKey"]},
    {"key_ops": ["Verify"]},
    {"key_ops": "verify"},
    {"key_ops": None},
    {"key_ops": {"verify": True}},
    {"use": "enc", "key_ops": ["verify"]},
    {"use": "sig", "key_ops": ["deriveKey"]},
    {"alg": "ECDH-ES"},
    {"alg": "RSA-OAEP"},
    {"alg": "PS256"},
    {"alg": "none"},
    {"alg": None},
    {"kty": "oct"},
]


@pytest.mark.parametrize("member", FIT, ids=str)
def test_a_key_for_verifying_verifies(member: dict[str, Any]) -> None:
    assert verify(token(), {**EC, **member}) == "alice"
    assert verify(rsa_token(), {**RSA, **member}) == "alice"


@pytest.mark.parametrize("member", UNFIT, ids=str)
def test_a_key_for_anything_else_verifies_nothing(member: dict[str, Any]) -> None:
    for good, key in ((token(), EC), (rsa_token(), RSA)):
        with pytest.raises(Unauthenticated):
            verify(good, {**key, **member})
        only = Tokens([Entry()], {ISSUER: json.dumps({"keys": [{**key, **member}]}).encode()})
        with pytest.raises(StoreUnavailable):
            only.verify(good, NOW)


def padded(part: bytes) -> bytes:
    return part + b"=" * (-len(part) % 4 or 4)


def spelled(part: bytes) -> list[bytes]:
    """The same part of a token in spellings that lenient decoders take for it."""
    half = len(part) // 2
    inside = [part[:half] + extra + part[half:] for extra in (b"=", b" ", b"\n", b"\r\n", b"\t", b"*", b"\x00", b"%3D")]
    standard = part.replace(b"-", b"+").replace(b"_", b"/")
    ends = [padded(part), part + b"=", part + b"==", part + b"\n", b" " + part, part + b"A", part + b"%3d"]
    return [*inside, *ends, *([standard] if standard != part else [])]


@pytest.mark.parametrize("place", range(3), ids=["header", "claims", "signature"])
@pytest.mark.parametrize("good", [token(), rsa_token()], ids=["ES256", "RS256"])
def test_no_other_spelling_of_a_token_is_that_token(good: bytes, place: int) -> None:
    parts = good.split(b".")
    for other in spelled(parts[place]):
        forged = b".".join([*parts[:place], other, *parts[place + 1 :]])
        tokens = make_tokens()
        assert tokens.verify(good, NOW), "remembered or not, the good one is another"
        with pytest.raises(Unauthenticated):
            tokens.verify(forged, NOW)
