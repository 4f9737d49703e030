"""The public keys of an issuer of JWTs (RFC 7517), as the controller fetches them and the workers use them.

A key here is bound to one algorithm. A token's `alg` and `kid` only select a binding that the issuer's configuration
allows, so that the key of one algorithm can never be used by another (RFC 8725, 2.1 and 3.1). The secret keys of HS256
and its kin, with which whoever can verify can also sign, never come from a set: an entry names its one secret.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK, PyJWTError
from jwt.algorithms import get_default_algorithms

# algorithm -> the type and curve of its keys (RFC 7518, 3.1 and 6; RFC 8037, 2)
ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    **{f"{family}{bits}": ("RSA", None) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    **{f"HS{bits}": ("oct", None) for bits in (256, 384, 512)},
}
SECRET = frozenset(name for name, (kind, _) in ALGORITHMS.items() if kind == "oct")
MOST_KEYS = 200  # of one issuer; real ones have two to ten
_RSA_BITS = range(2048, 8193)  # RFC 7518, 3.3; beyond, a verification costs milliseconds
_PUBLIC = ("kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y")  # what is kept of a key (RFC 7518, 6)


def check_algorithms(names: Iterable[str]) -> frozenset[str]:
    """Raises ValueError for an algorithm that is not offered."""
    names = frozenset(names)
    unknown = sorted(names - ALGORITHMS.keys())
    if unknown or not names:
        raise ValueError(f"{', '.join(unknown) or 'no algorithm'}: choose from {', '.join(ALGORITHMS)}")
    if names & SECRET and names - SECRET:
        raise ValueError(f"{', '.join(sorted(names))}: secret and public keys do not mix (RFC 8725, 2.1)")
    return names


def check_secret(secret: bytes, algorithms: Iterable[str]) -> bytes:
    """Raises ValueError, which never says what the secret is, for one that could be guessed or is no secret."""
    if b"-----BEGIN " in secret:
        raise ValueError("is PEM: a public key is no secret (RFC 8725, 2.1)")
    shortest = max(int(name[2:]) // 8 for name in algorithms)
    if len(secret) < shortest:
        raise ValueError(f"is shorter than the {shortest} bytes that {max(algorithms)} needs (RFC 7518, 3.2)")
    return secret


class KeySet:
    """An issuer's keys, each by its id and its algorithm."""

    __slots__ = ("_bound", "_kids", "_members")

    def __init__(self, members: Iterable[Mapping[str, Any]], algorithms: Iterable[str]) -> None:
        """`members` are JWKs. Those that cannot be used are left out (RFC 7517, 5). Raises ValueError if all are."""
        algorithms = check_algorithms(algorithms)
        self._members: list[dict[str, Any]] = []
        self._bound: dict[tuple[str | None, str], list[PyJWK]] = {}
        self._kids: set[str] = set()
        reasons = []
        for member in members:
            try:
                self._bind(_public(member), algorithms)
            except ValueError as error:
                reasons.append(str(error))
        if not self._members:
            raise ValueError("no usable key" + "".join(f"; {reason}" for reason in reasons[:5]))

    @classmethod
    def parse(cls, text: bytes, algorithms: Iterable[str]) -> "KeySet":
        """A JWK set in JSON, or PEM of a public key or certificate. Raises ValueError."""
        if text.lstrip().startswith(b"-----BEGIN "):
            return cls([_from_pem(text.lstrip())], algorithms)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("neither JSON nor PEM") from None
        members = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(members, list) or len(members) > MOST_KEYS:
            raise ValueError(f"not a JWK set: needs a list `keys` of at most {MOST_KEYS} (RFC 7517, 5)")
        return cls([member for member in members if isinstance(member, dict)], algorithms)

    @classmethod
    def of_secret(cls, secret: bytes, algorithms: Iterable[str]) -> "KeySet":
        """One secret, that answers to every `kid`. Raises ValueError."""
        check_secret(secret, algorithms)
        return cls([{"kty": "oct", "k": urlsafe_b64encode(secret).rstrip(b"=").decode()}], algorithms)

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key for a token's header. A token without `kid` is served if there is no choice (RFC 7515, 4.1.4)."""
        if kid is not None and not self.is_nameless:
            found = self._bound.get((kid, algorithm), ())
        else:
            found = [key for (_, bound), keys in self._bound.items() if bound == algorithm for key in keys]
        return found[0] if len(found) == 1 else None

    def has(self, kid: str) -> bool:
        """False if fetching the keys anew might bring this one."""
        return kid in self._kids or self.is_nameless

    @property
    def is_nameless(self) -> bool:
        """One key without an id, as PEM has it, answers to every `kid`."""
        return len(self._members) == 1 and not self._kids

    @property
    def text(self) -> bytes:
        """The same keys as a JWK set, and nothing private that its source let slip; `parse` reads it. Of a secret it
        is the secret itself."""
        return json.dumps({"keys": self._members}, sort_keys=True).encode()

    def _bind(self, member: dict[str, Any], algorithms: frozenset[str]) -> None:
        kid = member.get("kid")
        fitting = [name for name in sorted(algorithms) if _fits(member, name)]
        if not fitting:
            raise ValueError(f"key {kid!r} is for none of {', '.join(sorted(algorithms))}")
        try:
            keys = {name: PyJWK(member, name) for name in fitting}
        except (PyJWTError, UnsupportedAlgorithm, AttributeError, TypeError) as error:  # the last two: not text inside
            raise ValueError(f"key {kid!r}: {type(error).__name__}") from error
        public = keys[fitting[0]].key
        if isinstance(public, RSAPublicKey) and public.key_size not in _RSA_BITS:
            raise ValueError(f"key {kid!r}: {public.key_size} bits of RSA")
        for name, key in keys.items():
            self._bound.setdefault((kid, name), []).append(key)
        self._members.append(member)
        if kid is not None:
            self._kids.add(kid)

    def __repr__(self) -> str:
        return f"<KeySet {sorted(self._kids) or 'nameless'}>"


def _public(member: Mapping[str, Any]) -> dict[str, Any]:
    """The public part of a JWK that may verify. Raises ValueError (RFC 7517, 4.2 and 4.3)."""
    kid = member.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("a `kid` that is not text")
    if member.get("use", "sig") != "sig":
        raise ValueError(f"key {kid!r} is not for signatures")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError(f"key {kid!r} is not for verifying")
    kept = (*_PUBLIC, "k") if member.get("kty") == "oct" else _PUBLIC
    return {name: member[name] for name in kept if name in member}


def _fits(member: Mapping[str, Any], algorithm: str) -> bool:
    kind, curve = ALGORITHMS[algorithm]
    is_its_kind = member.get("kty") == kind and (curve is None or member.get("crv") == curve)
    return is_its_kind and member.get("alg", algorithm) == algorithm


def _from_pem(text: bytes) -> dict[str, Any]:
    """A nameless JWK. Raises ValueError."""
    if b"PRIVATE KEY" in text:
        raise ValueError("holds a private key; the gateway needs the public one and should not see the other")
    key: object
    try:
        if b"BEGIN CERTIFICATE" in text:
            key = x509.load_pem_x509_certificate(text).public_key()
        else:
            key = load_pem_public_key(text)
        for kind, algorithm in _WRITERS.items():
            if isinstance(key, kind):
                return dict(get_default_algorithms()[algorithm].to_jwk(key, as_dict=True))
    except (UnsupportedAlgorithm, PyJWTError) as error:
        raise ValueError(str(error)) from error
    raise ValueError(f"{type(key).__name__} is no key for JWTs")


_WRITERS = {RSAPublicKey: "RS256", EllipticCurvePublicKey: "ES256", Ed25519PublicKey: "EdDSA"}  # any that can write it
