"""The layer that knows who is calling: what it accepts, what it answers, and what it lets through."""

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.authenticate import Authenticate, Means, Public, Refreshes
from gateway.edge.tokens import Tokens
from gateway.errors import BadRequest, GatewayError, StoreUnavailable, Unauthenticated
from gateway.model import ANONYMOUS, Exchange, Header
from gateway.stores.keys import KeyTable, LiveKeys, Pepper, Row, mint
from tests.edge.auth_makers import (
    ISSUER,
    NOW,
    Entry,
    by,
    claims,
    compact,
    ec_key,
    jwk,
    key_set,
    make_tokens,
    our_keys,
    token,
)

PEPPER = Pepper.of_text("a pepper for these tests")
SECRETS = [mint()[1].encode() for _ in range(2)]
KEY, OTHER_KEY = SECRETS
FOREIGN = b"sk-0123456789abcdefghij"
TABLE = KeyTable(
    PEPPER,
    [
        Row(PEPPER.digest(key), math.inf, str(n) * 10, f"user {n}", None, {})
        for n, key in enumerate([*SECRETS, FOREIGN])
    ],
)
TOKEN = token()
TOKENS = make_tokens(Entry(claims_to_headers={"sub": "x-user", "team": "x-team"}))
COMMON: list[Header] = [(b"host", b"gateway"), (b"accept", b"*/*"), (b"cookie", b"session=1"), (b"x-team-name", b"red")]


class Behind:
    """What is behind the layer: keeps what arrived."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)


def call(layer: Any, headers: Iterable[Header]) -> tuple[Exchange, list[Header]]:
    """One request through the layer -> (its exchange, the headers that came out). Raises what the layer raises."""
    exchange = Exchange("r", 0.0, "127.0.0.1")
    scope = {"type": "http", "exchange": exchange, "headers": [*COMMON, *headers]}
    asyncio.run(layer(scope, None, None))
    assert layer.app.scopes[-1] is scope
    return exchange, scope["headers"]


def make(**options: Any) -> Authenticate:
    methods = options.pop("methods", ["key", "jwt"])
    means = Means(**{"keys": TABLE, "tokens": TOKENS, **options})
    return Authenticate(Behind(), methods=methods, means=means, clock=lambda: NOW)


def refused(headers: Iterable[Header], **options: Any) -> GatewayError:
    layer = make(**options)
    with pytest.raises(GatewayError) as caught:
        call(layer, headers)
    assert layer.app.scopes == []
    return caught.value


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer " + KEY),
        (b"authorization", b"bearer " + KEY),
        (b"authorization", b"BEARER   " + KEY),
        (b"x-api-key", KEY),
        (b"api-key", KEY),
    ],
)
def test_a_key_is_taken_from_any_of_its_headers(header: Header) -> None:
    exchange, headers = call(make(), [header])
    assert exchange.principal.name == "user 0"
    assert headers == COMMON


@pytest.mark.parametrize("header", [(b"authorization", b"Bearer " + TOKEN), (b"x-api-key", TOKEN), (b"api-key", TOKEN)])
def test_a_token_is_taken_from_any_of_them_too_and_its_claims_go_on(header: Header) -> None:
    exchange, headers = call(make(), [header])
    assert exchange.principal.id == f"{ISSUER}|alice"
    assert headers == [*COMMON, (b"x-user", b"alice")]


def test_a_foreign_key_is_known_by_not_being_a_token() -> None:
    assert call(make(), [(b"authorization", b"Bearer " + FOREIGN)])[0].principal.name == "user 2"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + KEY), (b"x-api-key", KEY)],
        [(b"x-api-key", KEY), (b"api-key", KEY), (b"api-key", KEY)],
    ],
)
def test_the_same_key_twice_is_one_key_and_every_copy_goes(headers: list[Header]) -> None:
    exchange, out = call(make(), headers)
    assert exchange.principal.name == "user 0"
    assert out == COMMON


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + KEY), (b"x-api-key", OTHER_KEY)],
        [(b"x-api-key", KEY), (b"api-key", OTHER_KEY)],
        [(b"x-api-key", KEY), (b"x-api-key", OTHER_KEY)],
        [(b"authorization", b"Bearer " + KEY), (b"authorization", b"Bearer " + OTHER_KEY)],
        [(b"authorization", b"Bearer " + KEY), (b"authorization", b"Bearer " + KEY)],
        [(b"authorization", b"Bearer " + TOKEN), (b"x-api-key", KEY)],
        [(b"authorization", b"Basic YTpi"), (b"x-api-key", KEY)],
    ],
)
def test_credentials_that_leave_it_open_who_is_calling_are_a_bad_request(headers: list[Header]) -> None:
    assert isinstance(refused(headers), BadRequest)


def challenge(error: GatewayError) -> bytes:
    assert isinstance(error, Unauthenticated)
    ((name, value),) = error.headers
    assert name == b"www-authenticate"
    return value


def test_who_offers_nothing_is_told_the_scheme_and_no_error() -> None:
    """RFC 6750, 3."""
    assert challenge(refused([])) == b'Bearer realm="models"'


BAD: dict[str, list[Header]] = {
    "unknown key": [(b"authorization", b"Bearer " + mint()[1].encode())],
    "mistyped key": [(b"authorization", b"Bearer " + KEY[:-1] + b"!")],
    "half a key": [(b"x-api-key", KEY[:30])],
    "another scheme": [(b"authorization", b"Basic YTpi")],
    "no scheme": [(b"authorization", KEY)],
    "scheme without credentials": [(b"authorization", b"Bearer")],
    "nothing behind the scheme": [(b"authorization", b"Bearer ")],
    "empty": [(b"x-api-key", b"")],
    "expired token": [(b"authorization", b"Bearer " + token(exp=NOW - 60))],
    "forged token": [(b"authorization", b"Bearer " + TOKEN[:-4] + b"AAAA")],
    "token of an unknown key": [(b"authorization", b"Bearer " + token(header={"kid": "new"}))],
    "key inside a token": [(b"authorization", b"Bearer gw_a.b.c")],
    "not ASCII": [(b"x-api-key", b"\xff\xfe" * 20)],
}


# What a client that means well is told; what could be anybody's is told nothing.
TOLD = {
    "mistyped key": "The key is mistyped or cut off: its check does not fit.",
    "key inside a token": "The key is mistyped or cut off: its check does not fit.",
    "half a key": "The key is mistyped or cut off: its check does not fit.",
    "expired token": "The token has expired.",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_credentials_are_all_answered_alike(name: str) -> None:
    error = refused(BAD[name])
    told = TOLD.get(name, "")
    description = b', error_description="%b"' % told.encode() if told else b""
    assert challenge(error) == b'Bearer realm="models", error="invalid_token"' + description
    assert (error.status, str(error)) == (401, told or Unauthenticated.message)


HONEST = {
    "expired": (token(exp=NOW - 60), "The token has expired."),
    "not yet valid": (token(nbf=NOW + 600), "The token is not valid yet."),
    "for others": (token(aud="billing"), "The token is for another audience."),
    "without a subject": (token(sub=...), Unauthenticated.message),
}


@pytest.mark.parametrize("name", HONEST)
def test_who_has_a_genuine_token_is_told_what_is_wrong_and_who_forged_it_is_not(name: str) -> None:
    genuine, told = HONEST[name]
    assert str(refused([(b"x-api-key", genuine)])) == told
    forged = genuine[:-6] + (b"AAAAAA" if not genuine.endswith(b"AAAAAA") else b"BBBBBB")
    assert str(refused([(b"x-api-key", forged)])) == Unauthenticated.message


def test_who_has_an_expired_key_is_told_so() -> None:
    table = KeyTable(PEPPER, [Row(PEPPER.digest(KEY), NOW - 1, "0" * 10, "alice", None, {})])
    assert str(refused([(b"x-api-key", KEY)], keys=table)) == "The key has expired."
    assert str(refused([(b"x-api-key", OTHER_KEY)], keys=table)) == Unauthenticated.message


@pytest.mark.parametrize(
    ("method", "header"), [("key", TOKEN), ("jwt", KEY), ("jwt", FOREIGN)], ids=["token", "key", "foreign key"]
)
def test_a_good_credential_of_a_kind_that_the_model_does_not_take_is_refused(method: str, header: bytes) -> None:
    assert challenge(refused([(b"x-api-key", header)], methods=[method])).endswith(b'"invalid_token"')


def test_a_key_that_is_revoked_opens_nothing_from_the_next_request_on() -> None:
    live = LiveKeys(TABLE)
    layer = make(keys=live)
    assert call(layer, [(b"x-api-key", KEY)])
    live.replace(KeyTable(PEPPER, []))
    with pytest.raises(Unauthenticated):
        call(layer, [(b"x-api-key", KEY)])


def test_a_store_that_is_down_is_503_and_never_401() -> None:
    assert isinstance(refused([(b"x-api-key", KEY)], keys=None), StoreUnavailable)
    assert isinstance(refused([(b"x-api-key", TOKEN)], tokens=Tokens([Entry()])), StoreUnavailable)
    assert challenge(refused([], keys=None))


# --- what a model server gets to see ---

SPOOFED = [
    b"x-user", b"x_user", b"x-team", b"x_team", b"x-gateway-principal", b"x_gateway_principal", b"x-gateway_anything",
    b"x-api_key", b"x_api_key", b"api_key",
]  # fmt: skip


@pytest.mark.parametrize("credential", [KEY, TOKEN], ids=["key", "token"])
@pytest.mark.parametrize("name", SPOOFED)
def test_nobody_says_himself_who_he_is(name: bytes, credential: bytes) -> None:
    _, headers = call(make(), [(b"x-api-key", credential), (name, b"root"), (name, b"root")])
    assert b"root" not in [value for _, value in headers]
    assert headers[: len(COMMON)] == COMMON


def test_headers_of_an_identity_are_kept_from_clients_also_where_only_keys_are_taken() -> None:
    _, headers = call(make(methods=["key"]), [(b"x-api-key", KEY), (b"x-user", b"root")])
    assert headers == COMMON


def test_all_other_headers_go_on_unchanged_in_their_order() -> None:
    more = [(b"x-custom", b"1"), (b"x-custom", b"2"), (b"x-gate", b"3"), (b"x", b""), (b"x-users", b"4"), (b"_", b"5")]
    layer = make()
    for _ in range(2):  # judged, then remembered
        assert call(layer, [*more[:3], (b"x-api-key", KEY), *more[3:]])[1] == [*COMMON, *more]


def test_a_flood_of_new_header_names_does_not_grow_what_is_remembered() -> None:
    layer = make()
    names = [b"x-%d" % number for number in range(5000)]
    _, headers = call(layer, [(b"x-api-key", KEY), *((name, b"") for name in names), (b"x-user", b"root")])
    assert [name for name, _ in headers[len(COMMON) :]] == names
    assert len(layer._names.harmless) == 1000


names = st.sampled_from(
    [b"authorization", b"x-api-key", b"api-key", b"x-user", b"x-gateway-x", b"accept", b"x_api_key"]
)
values = st.sampled_from([KEY, OTHER_KEY, TOKEN, b"Bearer " + KEY, b"Bearer " + TOKEN, b"Basic x", b""])


@given(st.lists(st.tuples(names, values), max_size=4))
def test_no_credential_ever_leaves_the_layer_under_a_name_of_one(headers: list[Header]) -> None:
    try:
        exchange, out = call(make(), headers)
    except (Unauthenticated, BadRequest):
        return
    assert exchange.principal is not ANONYMOUS
    kept = [header for header in headers if header[0] == b"accept"]
    assert out == [*COMMON, *kept, *exchange.principal.headers]


def test_no_log_line_of_any_refusal_holds_the_credential(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for headers in BAD.values():
        refused(headers)
    assert "expired" in caplog.text
    for headers in BAD.values():
        secret = headers[0][1].removeprefix(b"Bearer ").decode("latin-1")
        assert not secret or secret not in caplog.text
    assert KEY[14:].decode() not in repr(make()) + caplog.text


# --- public models ---


def test_a_public_model_sees_no_key_of_ours_and_no_claimed_identity() -> None:
    layer = Public(Behind(), means=Means(TABLE, TOKENS))
    own = [(b"authorization", b"Bearer hf_of_the_model_server"), (b"x-custom", b"1")]
    exchange, headers = call(layer, [(b"x-user", b"root"), *own, (b"x_gateway_a", b""), (b"api-key", KEY)])
    assert headers == [*COMMON, *own]
    assert exchange.principal is ANONYMOUS
    assert call(layer, [(b"authorization", b"bearer " + KEY)])[1] == COMMON


@pytest.mark.parametrize(
    "field",
    [
        (b"authorization", b"Bearer\t" + KEY),
        (b"authorization", b"Token " + KEY),
        (b"authorization", b'Token token="' + KEY + b'"'),
        (b"authorization", KEY),
        (b"x-api-key", b"Bearer " + KEY),
    ],
)
def test_a_public_model_sees_no_key_of_ours_in_whatever_form_it_was_sent(field: Header) -> None:
    assert call(Public(Behind(), means=Means(TABLE, TOKENS)), [field])[1] == COMMON


@pytest.mark.parametrize("value", [b"Bearer eyJ.eyJhgw_abc.gw_x", b"Bearer a-gw_b/gw_c+gw_d~gw_e", b"Bearer hf_gw_"])
def test_a_token_within_which_the_letters_of_a_key_occur_is_the_model_servers_own(value: bytes) -> None:
    field = (b"authorization", value)
    assert call(Public(Behind(), means=Means(TABLE, TOKENS)), [field])[1] == [*COMMON, field]


# --- issuers' new keys ---

NEW_TOKEN = compact({"alg": "ES256", "kid": "new"}, claims(), by(ec_key("new"), "ES256"))


def renew(tokens: Tokens) -> None:
    tokens.adopt({ISSUER: key_set(jwk(ec_key("new"), "ES256", kid="new"))})


def test_a_token_of_a_key_that_the_issuer_has_begun_to_use_is_accepted_at_once() -> None:
    tokens = Tokens([Entry()], {ISSUER: our_keys()})
    asked = []

    async def refresh(issuer: str) -> bool:
        asked.append(issuer)
        renew(tokens)
        return True

    assert call(make(tokens=tokens, refresh=refresh), [(b"x-api-key", NEW_TOKEN)])[0].principal.name == "alice"
    assert asked == [ISSUER]


@pytest.mark.parametrize("news", [True, False])
def test_a_token_of_a_key_that_its_issuer_does_not_have_is_refused_after_one_look(news: bool) -> None:
    asked = []

    async def refresh(issuer: str) -> bool:
        asked.append(issuer)
        return news

    error = refused([(b"x-api-key", NEW_TOKEN)], refresh=refresh)
    assert challenge(error).endswith(b'"invalid_token"')
    assert asked == [ISSUER]


def test_those_who_wait_for_the_same_keys_ask_once_and_all_get_them() -> None:
    tokens = Tokens([Entry()], {ISSUER: our_keys()})
    asked = []

    async def request(issuer: str) -> bool:
        asked.append(issuer)
        await asyncio.sleep(0)
        renew(tokens)
        return True

    async def main() -> list[Exchange]:
        layer = make(tokens=tokens, refresh=Refreshes(request))
        exchanges = [Exchange("r", 0.0, "127.0.0.1") for _ in range(20)]
        scopes = [{"exchange": exchange, "headers": [(b"x-api-key", NEW_TOKEN)]} for exchange in exchanges]
        await asyncio.gather(*(layer(scope, None, None) for scope in scopes))
        return exchanges

    assert {exchange.principal.name for exchange in asyncio.run(main())} == {"alice"}
    assert asked == [ISSUER]


def test_however_many_tokens_name_no_key_an_issuer_is_asked_once_in_ten_seconds() -> None:
    now, asked = [0.0], []

    async def request(issuer: str) -> bool:
        asked.append((issuer, now[0]))
        return True

    async def main() -> list[bool]:
        refreshes = Refreshes(request, clock=lambda: now[0])
        outcomes = []
        for second in (0.0, 1.0, 9.9, 10.0, 10.1):
            now[0] = second
            outcomes.append(await refreshes("one"))
        outcomes.append(await refreshes("two"))
        return outcomes

    assert asyncio.run(main()) == [True, False, False, True, False, True]
    assert asked == [("one", 0.0), ("one", 10.0), ("two", 10.1)]


def test_an_answer_that_does_not_come_and_one_that_fails_are_no_news(caplog: pytest.LogCaptureFixture) -> None:
    async def never(issuer: str) -> bool:
        await asyncio.Event().wait()
        return True

    async def broken(issuer: str) -> bool:
        raise OSError("the controller is gone")

    async def main() -> tuple[bool, bool]:
        return await Refreshes(never, patience=0.01)(ISSUER), await Refreshes(broken)(ISSUER)

    assert asyncio.run(main()) == (False, False)
    assert "the controller is gone" in caplog.text


def test_a_client_that_leaves_while_waiting_takes_nothing_from_the_others() -> None:
    async def main() -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def request(issuer: str) -> bool:
            return await answer

        refreshes = Refreshes(request)
        leaves, stays = (asyncio.create_task(refreshes(ISSUER)) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.sleep(0)
        answer.set_result(True)
        return await stays

    assert asyncio.run(main()) is True
