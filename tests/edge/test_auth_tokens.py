"""What an honest token is turned into, and that it is verified once."""

import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.claims import header_value
from gateway.edge.tokens import Tokens, UnknownKid
from gateway.errors import StoreUnavailable, Unauthenticated
from gateway.stores.keysets import KeySet
from tests.edge.auth_makers import (
    ISSUER,
    NOW,
    OTHER,
    Entry,
    by,
    by_secret,
    claims,
    compact,
    ec_key,
    ed_key,
    jwk,
    key_set,
    make_tokens,
    our_keys,
    pem,
    rsa_key,
    rsa_token,
    token,
)


def test_a_principal_is_its_issuer_and_subject() -> None:
    principal = make_tokens().verify(token(), NOW)
    assert (principal.id, principal.name, principal.kind) == (f"{ISSUER}|alice", "alice", "jwt")
    assert principal.claims["aud"] == "models"
    assert (principal.grants, principal.headers) == (None, ())


@pytest.mark.parametrize(
    ("claim", "grants"),
    [
        (["iris", "llama@fp8"], ("iris", "llama@fp8")),
        ("iris llama@fp8", ("iris", "llama@fp8")),
        ([], ()),
        ("", ()),
        (..., ()),
        (None, ()),
        (True, ()),
        ({"iris": True}, ()),
        (["iris", 1], ()),
        (["m"] * 201, ()),
    ],
)
def test_a_claim_of_models_grants_those_and_any_nonsense_in_it_grants_nothing(claim: Any, grants: Any) -> None:
    tokens = make_tokens(Entry(models_claim="models"))
    assert tokens.verify(token(models=claim), NOW).grants == grants


def test_claims_become_headers() -> None:
    tokens = make_tokens(Entry(claims_to_headers={"sub": "X-User", "roles": "x-roles", "team": "x-team"}))
    assert tokens.identity_headers == {b"x-user", b"x-roles", b"x-team"}
    principal = tokens.verify(token(roles=["admin", "dev"]), NOW)
    assert principal.headers == ((b"x-user", b"alice"), (b"x-roles", b"admin,dev"))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("Zoë", "Zoë".encode()),
        ("two words", b"two words"),
        (7, b"7"),
        (0.5, b"0.5"),
        (True, b"true"),
        (False, b"false"),
        (["a", "b"], b"a,b"),
        ("root\r\nx-admin: 1", None),
        ("root\r", None),
        ("root\x00", None),
        ("root\x85", None),
        (" root", None),
        ("root\u00a0", None),
        ("\ud800", None),
        ("", None),
        (None, None),
        ({"a": 1}, None),
        ([], None),
        (["a,b"], None),
        (["a", "b\n"], None),
        (["a", 1], None),
        (["a", ["b"]], None),
    ],
)
def test_a_claim_that_would_become_another_in_a_header_is_left_out(claim: Any, value: bytes | None) -> None:
    assert header_value(claim) == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_no_claim_breaks_out_of_its_header(claim: Any) -> None:
    value = header_value(claim)
    assert value is None or (value == value.strip() and not any(byte < 0x20 or byte == 0x7F for byte in value))


@pytest.mark.parametrize(
    "name", ["host", "Content-Length", "transfer-encoding", "x-forwarded-for", "x_user", "x user", "", "authorization"]
)
def test_a_header_that_no_claim_may_set_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="claims_to_headers"):
        make_tokens(Entry(claims_to_headers={"sub": name}))


STRICT = Entry(
    types=("at+jwt",),
    max_age=600.0,
    scopes=("models.read", "models.call"),
    required_claims={"tenant": ("acme", "beta"), "verified": ("true",), "jti": ()},
)
AT = {"typ": "application/at+JWT"}
MET = {"scope": "models.call profile models.read", "tenant": "acme", "verified": True, "jti": "1"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"tenant": ["beta", "x"]}, {"scope": ..., "scp": ["models.read", "models.call"]}, {"iat": NOW - 629}],
)
def test_a_token_that_meets_all_that_its_issuer_requires_is_accepted(changes: dict[str, Any]) -> None:
    assert make_tokens(STRICT).verify(token(header=AT, **{**MET, **changes}), NOW).name == "alice"


@pytest.mark.parametrize(
    ("header", "changes"),
    [
        ({"typ": "JWT"}, {}),
        ({"typ": ...}, {}),
        (AT, {"iat": NOW - 630}),
        (AT, {"iat": ...}),
        (AT, {"scope": "models.read"}),
        (AT, {"scope": ...}),
        (AT, {"scope": "models.call,models.read"}),
        (AT, {"scope": {"models.read": 1, "models.call": 1}}),
        (AT, {"tenant": "acme2"}),
        (AT, {"tenant": ...}),
        (AT, {"tenant": {"acme": 1}}),
        (AT, {"tenant": [["acme"]]}),
        (AT, {"verified": False}),
        (AT, {"jti": ...}),
        (AT, {"jti": None}),
    ],
)
def test_a_token_that_misses_one_thing_is_refused(header: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        make_tokens(STRICT).verify(token(header=header, **{**MET, **changes}), NOW)


def test_the_greatest_age_ends_a_remembered_token_before_its_expiry() -> None:
    tokens = make_tokens(Entry(max_age=60.0))
    good = token()
    assert tokens.verify(good, NOW + 89)
    with pytest.raises(Unauthenticated):
        tokens.verify(good, NOW + 90)


def test_a_token_is_revoked_by_its_id_also_where_it_was_remembered() -> None:
    tokens = make_tokens(Entry(revoked_file=Path("revoked")))
    one, other = token(jti="1"), token(jti="2")
    assert tokens.verify(one, NOW)
    tokens.revoke({ISSUER: ["1"], OTHER: ["2"]})
    with pytest.raises(Unauthenticated):
        tokens.verify(one, NOW)
    assert tokens.verify(other, NOW), "the other issuer's ids are its own"
    tokens.revoke({})
    assert tokens.verify(one, NOW)


@pytest.mark.parametrize("jti", [..., None, ["1"], {"1": 1}, 1])
def test_a_token_that_could_not_be_revoked_is_refused_where_that_is_wanted(jti: Any) -> None:
    tokens = make_tokens(Entry(revoked_file=Path("revoked")))
    tokens.revoke({ISSUER: ["1"]})
    with pytest.raises(Unauthenticated):
        tokens.verify(token(jti=jti), NOW)


def test_an_issuer_has_one_entry() -> None:
    with pytest.raises(ValueError, match="twice"):
        Tokens([Entry(), Entry()])


@pytest.mark.parametrize("algorithms", [("none",), ("RS256", "HS256"), (), ("rs256",), ("HS256", "none")])
def test_what_proves_nothing_cannot_be_configured_and_secrets_not_beside_public_keys(
    algorithms: tuple[str, ...],
) -> None:
    with pytest.raises(ValueError, match=r"choose from|do not mix"):
        Tokens([Entry(algorithms=algorithms)])


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
def test_one_rsa_key_serves_every_algorithm_that_is_allowed(algorithm: str) -> None:
    entry = Entry(algorithms=("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
    tokens = Tokens([entry], {ISSUER: key_set(jwk(rsa_key(), "RS256", kid="r1"), algorithms=entry.algorithms)})
    presented = compact({"alg": algorithm, "kid": "r1"}, claims(), by(rsa_key(), algorithm))
    assert tokens.verify(presented, NOW).name == "alice"


def test_ed25519_is_understood() -> None:
    entry = Entry(algorithms=("EdDSA",))
    tokens = Tokens([entry], {ISSUER: key_set(jwk(ed_key(), "EdDSA", kid="d1"), algorithms=("EdDSA",))})
    assert tokens.verify(compact({"alg": "EdDSA", "kid": "d1"}, claims(), by(ed_key(), "EdDSA")), NOW)


@pytest.mark.parametrize("header", [{"alg": "RS256"}, {"alg": "RS256", "kid": "any"}])
def test_a_key_from_a_pem_file_needs_no_id(header: dict[str, str]) -> None:
    tokens = Tokens([Entry()], {ISSUER: pem(rsa_key())})
    assert tokens.verify(compact(header, claims(), by(rsa_key(), "RS256")), NOW)
    with pytest.raises(Unauthenticated):
        tokens.verify(compact(header, claims(), by(rsa_key("mallory"), "RS256")), NOW)


def test_an_issuer_without_an_audience_takes_only_tokens_for_nobody_else() -> None:
    tokens = make_tokens(Entry(audience=()))
    assert tokens.verify(token(aud=...), NOW)
    with pytest.raises(Unauthenticated):
        tokens.verify(token(aud="billing"), NOW)


def test_keys_that_were_never_had_are_our_failure_and_not_the_callers() -> None:
    with pytest.raises(StoreUnavailable):
        Tokens([Entry()]).verify(token(), NOW)


def test_keys_for_other_algorithms_than_now_allowed_are_as_good_as_none() -> None:
    with pytest.raises(StoreUnavailable):
        Tokens([Entry(algorithms=("EdDSA",))], {ISSUER: our_keys()}).verify(token(header={"alg": "EdDSA"}), NOW)


# --- remembering ---


class Counted(Tokens):
    """Counts what is proved anew."""

    proved = 0

    def _prove(self, token: bytes) -> Any:
        self.proved += 1
        return super()._prove(token)


def counted(**options: Any) -> Counted:
    return Counted([Entry()], {ISSUER: our_keys()}, **options)


def test_a_token_is_proved_once() -> None:
    tokens = counted()
    first = tokens.verify(token(), NOW)  # an ECDSA signature is another one each time
    good = token()
    assert tokens.verify(good, NOW) == tokens.verify(good, NOW + 1) == first
    assert tokens.proved == 2


def test_a_remembered_token_expires_like_any_other() -> None:
    tokens, good = counted(), token()
    assert tokens.verify(good, NOW + 3629)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            tokens.verify(good, NOW + 3630)
    assert tokens.proved == 1


def test_a_refused_token_is_not_remembered_as_good() -> None:
    tokens, early = counted(), token(nbf=NOW + 100)
    with pytest.raises(Unauthenticated):
        tokens.verify(early, NOW)
    assert tokens.verify(early, NOW + 100)


def test_the_number_of_remembered_tokens_is_bounded_and_the_idlest_goes() -> None:
    tokens = counted(remembered=2)
    busy, idle, new = (token(sub=name) for name in ("busy", "idle", "new"))
    for presented in (busy, idle, busy, new, busy, new):
        tokens.verify(presented, NOW)
    assert tokens.proved == 3
    tokens.verify(idle, NOW)
    assert tokens.proved == 4


def test_a_withdrawn_key_is_believed_no_more_not_even_where_it_was_remembered() -> None:
    tokens, good, other = make_tokens(), token(), rsa_token()
    assert tokens.verify(good, NOW)
    tokens.adopt({ISSUER: key_set(jwk(rsa_key(), "RS256", kid="r1"))})
    with pytest.raises(UnknownKid):
        tokens.verify(good, NOW)
    assert tokens.verify(other, NOW)


def test_the_same_keys_again_make_nobody_be_verified_again() -> None:
    tokens, good = counted(), token()
    tokens.verify(good, NOW)
    tokens.adopt({ISSUER: our_keys(), "https://unknown.example/": b"whatever"})
    tokens.verify(good, NOW)
    assert tokens.proved == 1


def test_the_state_can_be_seen_but_no_token() -> None:
    tokens, good = make_tokens(), token()
    tokens.verify(good, NOW)
    assert "1 remembered" in repr(tokens)
    assert good.decode() not in repr(tokens)


# --- agreement with PyJWT, which has its own clock: every time here is seconds away from any border ---

offsets = st.sampled_from([-7200, -60, -10, 10, 60, 7200])
texts = st.sampled_from(["models", "billing", "", ISSUER, "https://mallory.example/"])
payloads = st.fixed_dictionaries(
    {"sub": st.sampled_from(["alice", "bob"])},
    optional={
        "exp": offsets,
        "nbf": offsets,
        "iat": offsets,
        "iss": texts,
        "aud": texts | st.lists(texts, max_size=2),
        "jti": st.text("ab", max_size=2),
        "x": st.integers(),
    },
)


@settings(max_examples=300, deadline=None)
@given(payload=payloads, audience=st.sampled_from([(), ("models",), ("models", "billing")]), key=st.sampled_from("em"))
def test_pyjwt_agrees_on_every_payload(payload: dict[str, Any], audience: tuple[str, ...], key: str) -> None:
    now = int(time.time())
    dated = {name: now + value if name in ("exp", "nbf", "iat") else value for name, value in payload.items()}
    private = ec_key() if key == "e" else ec_key("mallory")
    presented = compact({"alg": "ES256", "kid": "e1"}, dated, by(private, "ES256"))
    try:
        expected = jwt.decode(
            presented,
            ec_key().public_key(),
            algorithms=["ES256"],
            audience=audience or None,
            issuer=ISSUER,
            leeway=30,
            options={"require": ["exp", "iss", "sub"]},
        )
    except jwt.PyJWTError:
        expected = None
    assert seen(make_tokens(Entry(audience=audience)), presented, now) == expected


def test_pyjwt_agrees_on_ten_thousand_random_tokens() -> None:
    """By the one algorithm that is cheap enough; what only we refuse (types, odd spellings) is tested by itself."""
    dice = Random(8725)
    now = int(time.time())
    secret, wrong = b"s" * 32, b"w" * 32
    entries = {
        audience: Entry(algorithms=("HS256",), audience=audience, leeway=300)
        for audience in ((), ("models",), ("a", "b"))
    }
    readers = {
        audience: Tokens([entry], {ISSUER: KeySet.of_secret(secret, ["HS256"]).text})
        for audience, entry in entries.items()
    }
    outcomes = Counter[bool]()
    for _ in range(10_000):
        audience = dice.choice(list(entries))
        presented = random_token(dice, now, secret if dice.random() < 0.8 else wrong)
        try:
            expected = jwt.decode(
                presented, secret, algorithms=["HS256"], audience=audience or None, issuer=ISSUER, leeway=300,
                options={"require": ["exp", "iss", "sub"]},
            )  # fmt: skip
        except jwt.PyJWTError:
            expected = None
        assert seen(readers[audience], presented, now) == expected, (presented, audience)
        outcomes[expected is not None] += 1
    assert min(outcomes.values()) > 500, "both verdicts are tried"


def random_token(dice: Random, now: int, secret: bytes) -> bytes:
    def often(value: Any, *others: Any) -> Any:
        return value if dice.random() < 0.9 else dice.choice([..., *others])

    payload = claims(
        iss=often(ISSUER, OTHER, "", None),
        sub=often("alice", "bob", None, 7, ["alice"]),
        exp=often(now + 3600, now - 3600, now - 60, 0),  # minutes from any border: this takes seconds
        iat=often(now - 5, now + 3600, now + 60),
        nbf=often(..., now - 5, now + 3600),
        jti=often(..., "x", 5, ""),
        aud=dice.choice([..., "models", ["models"], "a", ["b", "c"], ["c"], [], "", ["models", 7], 7, {"models": 1}]),
        extra=often(..., {"deep": [1, None, "ä"]}, 1.5, True),
    )
    header = {"alg": often("HS256", "HS512", "none", "hs256"), "typ": "JWT"}
    good = compact({name: value for name, value in header.items() if value is not ...}, payload, by_secret(secret))
    if dice.random() < 0.9:
        return good
    at = dice.randrange(len(good) - 1)  # not the last character, whose idle bits PyJWT does not look at
    return good[:at] + dice.choice([b"", b"A", b"x", b".."]) + good[at + 1 :]


def seen(tokens: Tokens, presented: bytes, now: float) -> Any:
    try:
        return tokens.verify(presented, now).claims
    except Unauthenticated:
        return None
