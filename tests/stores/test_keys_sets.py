"""Issuers' keys: which are used, for what, and what is never handed on."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from gateway.stores.keysets import ALGORITHMS, SECRET, KeySet, check_algorithms
from tests.edge.auth_makers import ec_key, ed_key, jwk, pem, rsa_key

RSA, EC, ED = jwk(rsa_key(), "RS256"), jwk(ec_key(), "ES256"), jwk(ed_key(), "EdDSA")
ALL = tuple(ALGORITHMS.keys() - SECRET)


def parse(*members: Any, algorithms: tuple[str, ...] = ALL) -> KeySet:
    return KeySet.parse(json.dumps({"keys": members}).encode(), algorithms)


def bound(keys: KeySet, kid: str | None = "k") -> set[str]:
    return {algorithm for algorithm in ALL if keys.find(kid, algorithm)}


@pytest.mark.parametrize(
    ("member", "algorithms"),
    [
        (RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ({**RSA, "alg": "PS256"}, {"PS256"}),
        (EC, {"ES256"}),
        (ED, {"EdDSA"}),
        (jwk(ec.generate_private_key(ec.SECP384R1()), "ES384"), {"ES384"}),
        (jwk(ec.generate_private_key(ec.SECP521R1()), "ES512"), {"ES512"}),
    ],
    ids=["RSA", "RSA for PS256", "P-256", "Ed25519", "P-384", "P-521"],
)
def test_a_key_is_for_its_own_algorithms_only(member: dict[str, Any], algorithms: set[str]) -> None:
    assert bound(parse({**member, "kid": "k"})) == algorithms


@pytest.mark.parametrize(
    "member",
    [
        {"kty": "oct", "k": "c2VjcmV0"},
        {**RSA, "alg": "HS256"},
        {**RSA, "alg": "RSA-OAEP"},
        {**RSA, "alg": None},
        {**RSA, "use": "enc"},
        {**RSA, "key_ops": ["sign"]},
        {**RSA, "key_ops": "verify"},
        {**RSA, "n": "AQAB"},
        {**RSA, "n": 5},
        {**RSA, "n": None},
        {**RSA, "n": "!"},
        {**RSA, "e": "AQ"},
        {**RSA, "kty": "EC"},
        {**EC, "crv": "P-384"},
        {**EC, "crv": "secp256k1"},
        {**EC, "x": EC["y"]},
        {**EC, "x": ""},
        {**ED, "x": "AA"},
        {"kty": "RSA"},
        {"kty": ["RSA"]},
        {},
        jwk(rsa_key("small", 1024), "RS256"),
    ],
)
def test_a_key_that_cannot_be_meant_is_left_out(member: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no usable key"):
        parse({**member, "kid": "k"})
    assert bound(parse({**member, "kid": "k"}, {**EC, "kid": "other"}), "k") == set()


nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2)
)
fields = st.sampled_from(["n", "e", "x", "y", "crv", "alg", "use", "kid", "kty", "key_ops"])


@given(st.dictionaries(fields, nonsense), st.sampled_from([RSA, EC, ED]))
def test_no_odd_key_is_anything_but_left_out(odd: dict[str, Any], good: dict[str, Any]) -> None:
    assert "other" in repr(parse({**good, **odd}, {**EC, "kid": "other"}))


TOO_MANY = json.dumps({"keys": [{**EC, "kid": str(number)} for number in range(201)]}).encode()
NO_SETS = (
    b"", b"{}", b"[]", b"null", b"<html>", b'{"keys": {}}', b'{"keys": []}', b'{"keys": ["x", 1]}', b"[" * 9999,
    b"\xff", TOO_MANY,
)  # fmt: skip


@pytest.mark.parametrize("text", NO_SETS, ids=range(len(NO_SETS)))
def test_what_is_not_a_key_set_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|JWK set|no usable key"):
        KeySet.parse(text, ALL)


def test_a_token_without_an_id_is_served_only_where_there_is_no_choice() -> None:
    both = parse({**EC, "kid": "a"}, {**RSA, "kid": "b"}, {**jwk(rsa_key("other"), "RS256"), "kid": "c"})
    assert both.find(None, "ES256") is not None
    assert both.find(None, "RS256") is None


def test_two_keys_with_one_id_are_told_apart_by_algorithm_and_else_not_at_all() -> None:
    keys = parse({**EC, "kid": "k"}, {**RSA, "kid": "k"}, {**jwk(ec_key("other"), "ES256"), "kid": "k"})
    assert keys.find("k", "RS256") is not None
    assert keys.find("k", "ES256") is None


def test_a_single_nameless_key_answers_to_any_id_but_one_of_several_does_not() -> None:
    assert bound(parse(EC), "any") == {"ES256"}
    assert bound(parse(EC, {**RSA, "kid": "b"}), "any") == set()
    assert parse(EC).has("any")
    assert not parse({**EC, "kid": "k"}).has("any")


@pytest.mark.parametrize("private", [rsa_key(), ec_key(), ed_key()])
def test_pem_is_read(private: Any) -> None:
    assert len(bound(KeySet.parse(b"\n" + pem(private), ALL), None)) in (1, 6)


def test_a_certificate_is_read() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    builder = x509.CertificateBuilder(name, name, ec_key().public_key(), 1)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    certificate = builder.not_valid_after(datetime(2027, 1, 1, tzinfo=UTC)).sign(ec_key(), SHA256())
    assert bound(KeySet.parse(certificate.public_bytes(Encoding.PEM), ALL), None) == {"ES256"}


def test_a_private_key_in_pem_is_refused() -> None:
    text = ec_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="holds a private key"):
        KeySet.parse(text, ALL)


def test_pem_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="no key for JWTs"):
        KeySet.parse(pem(dsa.generate_private_key(1024)), ALL)
    with pytest.raises(ValueError):
        KeySet.parse(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", ALL)


def test_nothing_private_is_handed_on() -> None:
    private = get_default_algorithms()["RS256"].to_jwk(rsa_key(), as_dict=True)
    keys = parse({**private, "kid": "k", "key_ops": ["sign", "verify"], "x5c": ["MIIB"], "note": "hello"})
    (member,) = json.loads(keys.text)["keys"]
    assert set(member) == {"kty", "kid", "n", "e", "key_ops"}
    assert keys.find("k", "RS256") is not None


def test_what_is_handed_on_is_read_back_and_stays_the_same() -> None:
    keys = parse({**EC, "kid": "a"}, {**RSA, "kid": "b", "use": "sig"}, {"kty": "oct", "k": "AA", "kid": "c"})
    assert KeySet.parse(keys.text, ALL).text == keys.text
    assert repr(keys) == "<KeySet ['a', 'b']>"


@pytest.mark.parametrize("names", [["hs256"], ["none"], ["ES256", "ES256K"], []])
def test_algorithms_that_are_not_offered_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="choose from RS256"):
        check_algorithms(names)


# --- secrets ---

LENGTHS = {"HS256": 32, "HS384": 48, "HS512": 64}


@pytest.mark.parametrize("algorithm", LENGTHS)
def test_a_secret_is_as_long_as_its_hash_at_least_and_never_a_public_key(algorithm: str) -> None:
    """RFC 7518, 3.2; RFC 8725, 2.1."""
    length = LENGTHS[algorithm]
    assert KeySet.of_secret(b"\xff" * length, [algorithm]).find("any", algorithm) is not None
    for unfit in (b"", b"x" * (length - 1), b"-----BEGIN PUBLIC KEY-----" + b"x" * length):
        with pytest.raises(ValueError, match=r"shorter than|PEM") as caught:
            KeySet.of_secret(unfit, [algorithm])
        assert "xxx" not in str(caught.value)


def test_a_secret_for_several_algorithms_is_long_enough_for_all() -> None:
    with pytest.raises(ValueError, match="64 bytes that HS512"):
        KeySet.of_secret(b"x" * 63, ["HS256", "HS512"])
    keys = KeySet.of_secret(b"x" * 64, ["HS256", "HS512"])
    assert [keys.find(None, name) is not None for name in LENGTHS] == [True, False, True]
    again = KeySet.parse(keys.text, ["HS256", "HS512"])
    assert again.text == keys.text
    assert "xxx" not in repr(keys)


def test_a_secret_in_a_set_of_public_keys_is_none() -> None:
    assert parse(EC, {"kty": "oct", "k": "A" * 86}).text == parse(EC).text
