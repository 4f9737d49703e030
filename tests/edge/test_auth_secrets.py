"""Tokens by a shared secret (HS256 and its kin): where they are spelled out, and nowhere else."""

from typing import Any

import pytest

from gateway.edge.tokens import Tokens
from gateway.errors import Unauthenticated
from gateway.stores.keysets import KeySet
from tests.edge.auth_makers import (
    ISSUER,
    NOW,
    OTHER,
    Entry,
    by_secret,
    claims,
    compact,
    make_tokens,
    other_keys,
    our_keys,
    pem,
    rsa_key,
    rsa_token,
    token,
)

SECRET = b"a secret that is long enough for HS512, which wants 64 bytes of it"
HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


def signed(algorithm: str = "HS256", secret: bytes = SECRET, payload: Any = None, **header: Any) -> bytes:
    return compact({"alg": algorithm, **header}, payload or claims(), by_secret(secret, HASHES[algorithm]))


def shared(*algorithms: str) -> Tokens:
    keys = {ISSUER: KeySet.of_secret(SECRET, algorithms).text, OTHER: other_keys()}
    return Tokens([Entry(algorithms=algorithms), Entry(issuer=OTHER, algorithms=("ES256",))], keys)


@pytest.mark.parametrize("algorithm", HASHES)
def test_a_token_by_the_secret_is_believed_in_the_algorithms_that_are_named(algorithm: str) -> None:
    for named in HASHES:
        if named == algorithm:
            assert shared(named).verify(signed(algorithm), NOW).name == "alice"
            assert shared(named).verify(signed(algorithm, kid="any"), NOW).name == "alice"
        else:
            with pytest.raises(Unauthenticated):
                shared(named).verify(signed(algorithm), NOW)


FORGED = {
    "another secret": lambda: signed(secret=SECRET[:-1]),
    "the empty secret": lambda: signed(secret=b""),
    "a public key of ours for the secret": lambda: signed(secret=pem(rsa_key())),
    "the secret with its line's end": lambda: signed(secret=SECRET + b"\n"),
    "no signature": lambda: signed()[: signed().rindex(b".") + 1],
    "half a signature": lambda: signed()[:-22],
    "alg none": lambda: compact({"alg": "none"}, claims(), lambda _: b"x"),
    "alg in lower case": lambda: compact({"alg": "hs256"}, claims(), by_secret(SECRET)),
    "alg is a list": lambda: compact({"alg": ["HS256"]}, claims(), by_secret(SECRET)),
    "its own key": lambda: signed(secret=b"x" * 64, jwk={"kty": "oct", "k": "eHh4eA"}),
    "signed by a public key": rsa_token,
    "signed by another public key": token,
    "of the other issuer, by this secret": lambda: signed(payload=claims(iss=OTHER)),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_this_secret_did_not_sign_as_configured_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated):
        shared("HS256").verify(FORGED[name](), NOW)


@pytest.mark.parametrize("secret", [SECRET, pem(rsa_key()), our_keys()], ids=["a secret", "PEM", "the key set"])
def test_a_token_by_a_secret_is_nothing_to_an_issuer_of_public_keys(secret: bytes) -> None:
    with pytest.raises(Unauthenticated):
        make_tokens().verify(signed(secret=secret, kid="r1"), NOW)
