"""Tokens that must never be believed, each with where it comes from. Where nothing else is said, the signature is good:
the token is refused for the reason that its row gives, and the honest twin is accepted."""

import itertools
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.tokens import LONGEST_TOKEN, Tokens, UnknownKid
from gateway.errors import Unauthenticated
from tests.edge.auth_makers import (
    ISSUER,
    NOW,
    OTHER,
    Entry,
    b64,
    by,
    by_secret,
    claims,
    compact,
    der,
    ec_key,
    jwk,
    key_set,
    make_tokens,
    our_keys,
    pem,
    rsa_key,
    rsa_token,
    token,
)

GOOD, BOB = token(), token(sub="bob")
RSA = {"alg": "RS256", "kid": "r1"}
EC = {"alg": "ES256", "kid": "e1"}
# ECDSA's order of P-256, for signatures that are arithmetic and not knowledge
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def hs(secret: bytes, alg: str = "HS256", kid: str = "r1") -> bytes:
    return compact({"alg": alg, "kid": kid}, claims(), by_secret(secret, {"5": "sha512"}.get(alg[2], "sha256")))


def fixed(signature: bytes, header: dict[str, Any] | None = None) -> bytes:
    return compact(header or EC, claims(), lambda _: signature)


def with_signature_of(one: bytes, other: bytes) -> bytes:
    return one.rpartition(b".")[0] + b"." + other.rpartition(b".")[2]


def der_signature(data: bytes) -> bytes:
    return ec_key().sign(data, ec.ECDSA(SHA256()))


def other_case(part: bytes) -> bytes:
    """The same bytes in another spelling: the last character of base64 has bits that mean nothing."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return part[:-1] + letters[letters.index(part[-1:]) ^ 1 :][:1]


MALLORY = ec_key("mallory")
MALLORY_JWK = jwk(MALLORY, "ES256", kid="e1")


def mallory(**header: Any) -> bytes:
    return compact({**EC, **header}, claims(), by(MALLORY, "ES256"))


FORGERIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    # --- no signature, or none that means anything ---
    "alg none": ("RFC 8725, 2.1; CVE-2015-9235", lambda: compact({"alg": "none"}, claims(), lambda _: b"")),
    "alg none with a signature": ("RFC 8725, 3.2", lambda: fixed(b"x" * 64, {"alg": "none", "kid": "e1"})),
    "alg nOnE": ("CVE-2022-23540", lambda: fixed(b"x", {"alg": "nOnE", "kid": "e1"})),
    "alg empty": ("RFC 7515, 4.1.1", lambda: token(header={"alg": ""})),
    "alg missing": ("RFC 7515, 4.1.1", lambda: token(header={"alg": ...})),
    "alg null": ("RFC 7515, 4.1.1", lambda: token(header={"alg": None})),
    "alg a list": ("RFC 7515, 4.1.1", lambda: token(header={"alg": ["ES256"]})),
    "alg in another case": ("RFC 7515, 4.1.1", lambda: token(header={"alg": "es256"})),
    "signature cut off": ("RFC 8725, 2.1", lambda: GOOD.rpartition(b".")[0] + b"."),
    "signature and dot cut off": ("RFC 7515, 3.1", lambda: GOOD.rpartition(b".")[0]),
    "signature of another token": ("RFC 7515, 5.2", lambda: with_signature_of(GOOD, token(sub="bob"))),
    "signature shortened": ("RFC 7518, 3.4", lambda: fixed(by(ec_key(), "ES256")(b"")[:63])),
    "r and s are zero": ("CVE-2022-21449, psychic signatures", lambda: fixed(bytes(64))),
    "r and s are the order": ("CVE-2022-21449", lambda: fixed(ORDER.to_bytes(32) * 2)),
    "signature in DER": ("RFC 7518, 3.4", lambda: compact(EC, claims(), der_signature)),
    # --- one algorithm's key used by another ---
    "HMAC by the public key in PEM": ("RFC 8725, 2.1; CVE-2016-10555", lambda: hs(pem(rsa_key()))),
    "HMAC by the PEM without its last line end": ("CVE-2017-11424", lambda: hs(pem(rsa_key()).rstrip())),
    "HMAC by the public key in DER": ("CVE-2024-33663", lambda: hs(der(rsa_key()))),
    "HMAC by the EC key in PEM": ("CVE-2022-29217", lambda: hs(pem(ec_key()), kid="e1")),
    "HMAC by the text of the key set": ("RFC 8725, 3.1", lambda: hs(our_keys())),
    "HMAC by nothing": ("RFC 8725, 3.5", lambda: hs(b"")),
    "HMAC by the issuer's name": ("RFC 8725, 2.2", lambda: hs(ISSUER.encode())),
    "HS512 by the public key": ("RFC 8725, 2.1", lambda: hs(pem(rsa_key()), "HS512")),
    "the RSA key's id and an EC signature": ("RFC 8725, 3.1", lambda: token(header={"kid": "r1"})),
    "the EC key's id and an RSA signature": (
        "RFC 8725, 3.1", lambda: compact({"alg": "RS256", "kid": "e1"}, claims(), by(rsa_key(), "RS256"))),
    "RS512, which is not allowed": (
        "RFC 8725, 3.1", lambda: compact({**RSA, "alg": "RS512"}, claims(), by(rsa_key(), "RS512"))),
    "PS256, which is not allowed": (
        "RFC 8725, 3.2", lambda: compact({**RSA, "alg": "PS256"}, claims(), by(rsa_key(), "PS256"))),
    "PS256 that says RS256": ("RFC 8725, 3.1", lambda: compact(RSA, claims(), by(rsa_key(), "PS256"))),
    # --- a key that the token brings along ---
    "a key in the header": ("CVE-2018-0114; RFC 8725, 3.10", lambda: mallory(jwk=MALLORY_JWK)),
    "a key in the header and an id that is new": ("CVE-2026-27962", lambda: mallory(jwk=MALLORY_JWK, kid="new")),
    "a key at a URL": ("RFC 8725, 3.10, jku", lambda: mallory(jku="http://mallory.example/jwks.json")),
    "a certificate at a URL": ("RFC 8725, 3.10, x5u", lambda: mallory(x5u="http://mallory.example/cert.pem")),
    "a certificate in the header": ("RFC 7515, 4.1.6", lambda: mallory(x5c=["MIIB"])),
    "an id that is a path": ("RFC 8725, 3.10", lambda: hs(b"", kid="../../../../dev/null")),
    "an id that is SQL": ("RFC 8725, 3.10", lambda: hs(b"x", kid="x' UNION SELECT 'x'; --")),
    "an id that is a URL": ("RFC 8725, 3.10", lambda: mallory(kid="http://mallory.example/")),
    "an id that is a number": ("RFC 7515, 4.1.4", lambda: token(header={"kid": 1})),
    "an id that is a list": ("RFC 7515, 4.1.4", lambda: token(header={"kid": ["e1"]})),
    "no id where there is a choice": (
        "RFC 8725, 3.8", lambda: compact({"alg": "ES256"}, claims(iss=OTHER), by(ec_key(), "ES256"))),
    # --- who issued it, and for whom ---
    "our issuer by the other issuer's key": (
        "RFC 8725, 3.8", lambda: compact({**EC, "kid": "o1"}, claims(), by(ec_key("other"), "ES256"))),
    "the other issuer by our key": ("RFC 8725, 3.8", lambda: token(iss=OTHER)),
    "an issuer that nobody trusts": ("RFC 8725, 3.8", lambda: token(iss="https://mallory.example/")),
    "no issuer": ("RFC 7519, 4.1.1", lambda: token(iss=...)),
    "issuer null": ("RFC 7519, 4.1.1", lambda: token(iss=None)),
    "several issuers": ("CVE-2024-53861; RFC 7519, 4.1.1", lambda: token(iss=[ISSUER, "https://mallory.example/"])),
    "a part of an issuer's name": ("CVE-2024-53861", lambda: token(iss=ISSUER[:-1])),
    "an issuer in another case": ("RFC 7519, 2", lambda: token(iss=ISSUER.upper())),
    "another audience": ("RFC 8725, 2.7 and 3.9", lambda: token(aud="billing")),
    "other audiences": ("RFC 7519, 4.1.3", lambda: token(aud=["billing", "mail"])),
    "a part of the audience": ("RFC 7519, 4.1.3", lambda: token(aud="model")),
    "no audience": ("RFC 8725, 3.9", lambda: token(aud=...)),
    "audience empty": ("CVE-2020-26160", lambda: token(aud=[])),
    "audience empty text": ("CVE-2020-26160", lambda: token(aud=[""])),
    "audience an object": ("RFC 7519, 4.1.3", lambda: token(aud={"models": True})),
    "audience with a number": ("RFC 7519, 4.1.3", lambda: token(aud=["models", 1])),
    # --- when ---
    "expired": ("RFC 7519, 4.1.4", lambda: token(exp=NOW - 31)),
    "expired at the end of the leeway": ("RFC 7519, 4.1.4", lambda: token(exp=NOW - 30)),
    "no expiry": ("RFC 7519, 4.1.4", lambda: token(exp=...)),
    "expiry null": ("RFC 7519, 4.1.4", lambda: token(exp=None)),
    "expiry as text": ("RFC 7519, 2, NumericDate", lambda: token(exp=str(int(NOW) + 3600))),
    "expiry true": ("RFC 7519, 2", lambda: token(exp=True)),
    "expiry Infinity": ("RFC 8259, 6", lambda: token(exp=float("inf"))),
    "expiry NaN": ("RFC 8259, 6", lambda: token(exp=float("nan"))),
    "expiry beyond floating point": (
        "RFC 8259, 6", lambda: token(json.dumps(claims(exp=7)).replace("7}", "1e999}").encode())),
    "expiry with ten thousand digits": (
        "CVE-2020-10735", lambda: token(json.dumps(claims(exp=7)).replace("7}", "9" * 10_000 + "}").encode())),
    "not yet valid": ("RFC 7519, 4.1.5", lambda: token(nbf=NOW + 31)),
    "not before as text": ("RFC 7519, 2", lambda: token(nbf="0")),
    "issued in the future": ("RFC 7519, 4.1.6", lambda: token(iat=NOW + 31)),
    "issued at true": ("RFC 7519, 2", lambda: token(iat=True)),
    "issued at null": ("RFC 7519, 2", lambda: token(iat=None)),
    # --- what for ---
    "a proof of possession": ("RFC 8725, 3.11; RFC 9449, 4.2", lambda: token(header={"typ": "dpop+jwt"})),
    "a logout": ("RFC 8725, 2.8; OpenID Back-Channel Logout, 2.4", lambda: token(header={"typ": "logout+jwt"})),
    "a security event": ("RFC 8417, 4.6", lambda: token(header={"typ": "application/secevent+jwt"})),
    "a type that is no text": ("RFC 7515, 4.1.9", lambda: token(header={"typ": ["JWT"]})),
    # --- extensions ---
    "an extension that is critical": (
        "RFC 7515, 4.1.11; CVE-2026-32597", lambda: token(header={"crit": ["bork"], "bork": 1})),
    "critical is empty": ("RFC 7515, 4.1.11", lambda: token(header={"crit": []})),
    "critical is null": ("RFC 7515, 4.1.11", lambda: token(header={"crit": None})),
    "critical names what is not there": ("RFC 7515, 4.1.11", lambda: token(header={"crit": ["exp"]})),
    "a payload that is not encoded": ("RFC 7797, 6 and 7", lambda: token(header={"crit": ["b64"], "b64": False})),
    "not encoded, not critical": ("RFC 7797, 6", lambda: token(header={"b64": False})),
    "compressed": ("CVE-2024-21319, CVE-2024-28180", lambda: token(header={"zip": "DEF"})),
    "encrypted": ("RFC 7516, 3.1", lambda: b64(b'{"alg":"dir","enc":"A128GCM"}') + b"..AA.AA.AA"),
    "signed, and says that it is encrypted": ("RFC 7516, 4.1.2", lambda: token(header={"enc": "A128GCM"})),
    "a nested token": ("RFC 8725, 3.3", lambda: token(b'"' + GOOD + b'"', header={"cty": "JWT"})),
    # --- two readers, two tokens ---
    "alg twice": ("RFC 7515, 4", lambda: token(header=b'{"alg":"none","alg":"ES256","kid":"e1"}')),
    "kid twice": ("RFC 7515, 4", lambda: token(header=b'{"alg":"ES256","kid":"o1","kid":"e1"}')),
    "subject twice": ("RFC 7519, 4", lambda: token(json.dumps(claims())[:-1].encode() + b',"sub":"root"}')),
    "subject twice, once escaped": (
        "RFC 7519, 4", lambda: token(json.dumps(claims())[:-1].encode() + b',"s\\u0075b":"root"}')),
    "JSON instead of the compact form": (
        "CVE-2022-39227", lambda: b'{"protected":"%b","payload":"%b","signature":"%b"}' % tuple(GOOD.split(b"."))),
    "compact inside JSON": ("CVE-2022-39227", lambda: b'{"' + GOOD + b'":""}'),
    "a part more": ("RFC 7515, 3.1", lambda: GOOD + b".e30"),
    "an empty part in front": ("RFC 7515, 3.1", lambda: b"." + GOOD),
    "padding": ("RFC 7515, 2", lambda: GOOD + b"="),
    "double padding": ("RFC 7515, 2", lambda: GOOD + b"=="),
    "a space inside": ("RFC 7515, 2", lambda: GOOD.replace(b".", b" .", 1)),
    "a line end": ("RFC 7515, 2", lambda: GOOD + b"\n"),
    "a NUL": ("RFC 7515, 2", lambda: GOOD + b"\0"),
    "other spare bits in the signature": ("RFC 4648, 3.5", lambda: GOOD[:-86] + other_case(GOOD[-86:])),
    "the other base64": ("RFC 4648, 5", lambda: with_signature_of(GOOD, b"." + GOOD[-86:-2] + b"+/")),
    # --- not a token at all ---
    "nothing": ("RFC 7515, 3.1", lambda: b""),
    "two dots": ("RFC 7515, 3.1", lambda: b".."),
    "not JSON": ("RFC 7515, 5.2", lambda: token(b"not json")),
    "a header that is no object": ("RFC 7515, 4", lambda: token(header=b'["ES256"]')),
    "claims that are no object": ("RFC 7519, 7.2", lambda: token(b'["alice"]')),
    "claims that are null": ("RFC 7519, 7.2", lambda: token(b"null")),
    "UTF-16": ("RFC 7519, 7.2; RFC 8725, 3.7", lambda: token(json.dumps(claims()).encode("utf-16"))),
    "not UTF-8": ("RFC 8725, 3.7", lambda: token(json.dumps(claims())[:-1].encode() + b',"x":"\xff"}')),
    "a byte order mark": ("RFC 8259, 8.1", lambda: token(b"\xef\xbb\xbf" + json.dumps(claims()).encode())),
    "a name that is deep in brackets": ("CWE-674", lambda: token(b"[" * 5000 + b"]" * 5000)),
    "a header that is deep in brackets": ("CWE-674", lambda: token(header=b'{"x":' + b"[" * 5000)),
    "longer than 16 KiB": ("CWE-770", lambda: token(filler="x" * LONGEST_TOKEN)),
    # --- whom ---
    "no subject": ("RFC 9068, 2.2", lambda: token(sub=...)),
    "subject empty": ("RFC 9068, 2.2", lambda: token(sub="")),
    "subject a number": ("RFC 7519, 4.1.2", lambda: token(sub=1)),
    "subject an object": ("CVE-2024-53861, its kin", lambda: token(sub={"name": "root"})),
    "subject that ends a line of the log": ("CWE-117", lambda: token(sub="alice\n2026 bob logged in")),
    "subject that turns the text around": ("CWE-117", lambda: token(sub="alice\u202ebob")),
    "subject that is half a character": ("RFC 8259, 8.2", lambda: token(sub="\ud800")),
    "subject of 256 characters": ("OpenID Connect Core, 2", lambda: token(sub="x" * 256)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_token_is_refused(name: str) -> None:
    _, forge = FORGERIES[name]
    with pytest.raises(Unauthenticated) as caught:
        make_tokens().verify(forge(), NOW)
    assert str(caught.value) == Unauthenticated.message


HONEST: dict[str, Callable[[], bytes]] = {
    "ES256": token,
    "RS256": rsa_token,
    "of the other issuer": lambda: compact(
        {"alg": "ES256", "kid": "o1"}, claims(iss=OTHER), by(ec_key("other"), "ES256")
    ),
    "without a type": lambda: token(header={"typ": ...}),
    "an access token": lambda: token(header={"typ": "application/AT+jwt"}),
    "several audiences": lambda: token(aud=["billing", "models"]),
    "expired within the leeway": lambda: token(exp=NOW - 29),
    "not valid before the leeway": lambda: token(nbf=NOW + 30),
    "issued by a clock that is ahead": lambda: token(iat=NOW + 30),
    "expiry in a fraction": lambda: token(exp=NOW + 0.5),
    "no issued-at": lambda: token(iat=...),
    "headers that are not read": lambda: token(header={"jku": "https://x.example/", "x5t": "x"}),
    "a subject of letters": lambda: token(sub="Zoë Müller <zoe@example.com>"),
    "nearly 16 KiB": lambda: token(filler="x" * 11_900),
    "without an id where there is no choice": lambda: token(header={"kid": ...}),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_token_is_believed(name: str) -> None:
    assert make_tokens().verify(HONEST[name](), NOW).kind == "jwt"


def test_the_table_is_as_long_as_it_says_and_every_row_names_its_source() -> None:
    assert len(FORGERIES) > 100
    assert all(source for source, _ in FORGERIES.values())


def test_a_key_that_is_not_for_signatures_verifies_none() -> None:
    keys = key_set(jwk(ec_key(), "ES256", kid="e1", use="sig"), jwk(MALLORY, "ES256", kid="m1"))
    for member in ({"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "ECDH-ES"}, {"kid": 5}, {"crv": "P-384"}):
        odd = key_set(jwk(ec_key("unused"), "ES256", kid="u1"), jwk(MALLORY, "ES256", **{"kid": "m1", **member}))
        tokens = Tokens([Entry()], {ISSUER: odd})
        with pytest.raises(Unauthenticated):
            tokens.verify(mallory(kid="m1"), NOW)
    assert Tokens([Entry()], {ISSUER: keys}).verify(mallory(kid="m1"), NOW)


def test_no_token_makes_anything_be_fetched_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("reached for the outside")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    for header in ({"jku": "http://127.0.0.1/"}, {"x5u": "http://127.0.0.1/"}, {"kid": "/dev/null"}):
        with pytest.raises(Unauthenticated):
            make_tokens().verify(mallory(**header), NOW)


# --- no mutation of a good token, whatever it is, is accepted ---

TOKENS = make_tokens()


def is_accepted(presented: bytes) -> bool:
    try:
        return bool(TOKENS.verify(presented, NOW))
    except Unauthenticated:
        return False


@pytest.mark.parametrize("good", [GOOD, rsa_token()], ids=["ES256", "RS256"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_mutation_of_a_token_is_accepted(good: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.binary(max_size=3) | st.text("abcXYZ019-_.", max_size=3).map(str.encode))
    mutated = good[:at] + put + good[at + cut :]
    assert is_accepted(mutated) == (mutated == good)


def test_no_character_of_a_token_is_idle() -> None:
    for at in range(len(GOOD)):
        for letter in (b"A", b"w", b"_", b"="):
            if GOOD[at : at + 1] != letter:
                assert not is_accepted(GOOD[:at] + letter + GOOD[at + 1 :])


@pytest.mark.parametrize("parts", list(itertools.permutations(range(6), 3)), ids=str)
def test_parts_of_two_tokens_do_not_make_a_third(parts: tuple[int, int, int]) -> None:
    both = [*GOOD.split(b"."), *BOB.split(b".")]
    mixed = b".".join(both[part] for part in parts)
    assert is_accepted(mixed) == (mixed in (GOOD, BOB) or parts in ((3, 1, 2), (0, 4, 5)))  # their headers are equal


def test_a_token_by_a_key_that_is_not_known_yet_is_told_apart() -> None:
    with pytest.raises(UnknownKid) as caught:
        make_tokens().verify(mallory(kid="new"), NOW)
    assert caught.value.issuer == ISSUER
    with pytest.raises(Unauthenticated) as known:
        make_tokens().verify(mallory(kid="e1"), NOW)
    assert not isinstance(known.value, UnknownKid)
