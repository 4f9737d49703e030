"""Issuers, their keys, and tokens of any kind, also of kinds that no library would make."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from gateway.edge.tokens import Tokens
from gateway.stores.keysets import KeySet

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example/"
OTHER = "https://other.example/"


@dataclass(frozen=True)
class Entry:
    """An entry of `auth.jwt`."""

    issuer: str = ISSUER
    audience: tuple[str, ...] = ("models",)
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    leeway: float = 30.0
    models_claim: str | None = None
    claims_to_headers: Mapping[str, str] = field(default_factory=dict)
    types: tuple[str, ...] = ("JWT", "at+jwt")
    max_age: float | None = None
    scopes: tuple[str, ...] = ()
    required_claims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    revoked_file: Path | None = None


@cache
def rsa_key(name: str = "ours", bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str = "ours") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key(name: str = "ours") -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def jwk(private: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    """The public JWK of a private key."""
    return {**get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True), **more}


def pem(private: Any) -> bytes:
    return bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def der(private: Any) -> bytes:
    return bytes(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def key_set(*members: dict[str, Any], algorithms: tuple[str, ...] = ("RS256", "ES256")) -> bytes:
    return KeySet.parse(json.dumps({"keys": members}).encode(), algorithms).text


@cache
def our_keys() -> bytes:
    return key_set(jwk(rsa_key(), "RS256", kid="r1"), jwk(ec_key(), "ES256", kid="e1"))


@cache
def other_keys() -> bytes:
    return key_set(jwk(ec_key("other"), "ES256", kid="o1"), algorithms=("ES256",))


def make_tokens(entry: Entry | None = None, **options: Any) -> Tokens:
    """Two issuers: `entry`, which has our keys, and another with its own."""
    issuers = [entry or Entry(), Entry(issuer=OTHER, algorithms=("ES256",))]
    return Tokens(issuers, {ISSUER: our_keys(), OTHER: other_keys()}, **options)


def claims(**changes: Any) -> dict[str, Any]:
    """Of a good token; a change to `...` takes a claim out."""
    good = {"iss": ISSUER, "aud": "models", "sub": "alice", "iat": int(NOW), "exp": int(NOW) + 3600}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


Sign = Callable[[bytes], bytes]


def by(private: Any, algorithm: str) -> Sign:
    return lambda data: get_default_algorithms()[algorithm].sign(data, private)


def by_secret(secret: bytes, digest: str = "sha256") -> Sign:
    return lambda data: hmac.digest(secret, data, getattr(hashlib, digest))


def compact(header: Any, payload: Any, sign: Sign) -> bytes:
    """A token of exactly this header and payload: bytes as they are, anything else as JSON."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signed = b64(parts[0]) + b"." + b64(parts[1])
    return signed + b"." + b64(sign(signed))


def token(payload: Any = None, header: Mapping[str, Any] | bytes | None = None, **changes: Any) -> bytes:
    """Properly signed by our ES256 key, whatever it says."""
    if header is None or not isinstance(header, bytes):
        header = {"alg": "ES256", "kid": "e1", "typ": "JWT", **(header or {})}
        header = {name: value for name, value in header.items() if value is not ...}
    return compact(header, claims(**changes) if payload is None else payload, by(ec_key(), "ES256"))


def rsa_token(**changes: Any) -> bytes:
    return jwt.encode(claims(**changes), rsa_key(), "RS256", headers={"kid": "r1"}).encode()
