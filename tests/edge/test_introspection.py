"""Token introspection: what is asked, which answers are good, how long they count, and that failures are ours."""

import asyncio
import json
import logging
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs

import pytest

from gateway.config.settings import Introspection
from gateway.edge import introspection as module
from gateway.edge.authenticate import Authenticate, Means
from gateway.edge.introspection import Introspector
from gateway.errors import (
    AuthenticationBusy,
    ConnectFailed,
    GatewayError,
    StoreUnavailable,
    Unauthenticated,
    UpstreamTimeout,
)
from gateway.model import Answer, Exchange, Principal
from tests.edge.auth_makers import token as a_jwt
from tests.edge.test_auth_layer import FOREIGN, KEY, TABLE, TOKENS, Behind

NOW = 1_800_000_000.0
GOOD = {"active": True, "sub": "alice", "exp": NOW + 3600, "aud": "models", "scope": "read models", "iss": "https://i/"}


def said(document: Any, status: int = 200) -> Answer:
    return Answer(status, [], document if isinstance(document, bytes) else json.dumps(document).encode())


class Issuer:
    def __init__(self, *answers: Answer | GatewayError) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, question: bytes, timeout: float, exchange: Exchange, longest: int) -> Answer:
        self.asked.append(question)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return answer


def make(*answers: Answer | GatewayError, **options: Any) -> tuple[Introspector, Issuer]:
    issuer = Issuer(*answers)
    entry = {"url": "http://127.0.0.1:9/introspect?x=1", "audience": ["models"], **options}
    return Introspector(
        Introspection.model_validate(entry), issuer, b"s/cret" if "client_id" in options else b""
    ), issuer


def look(one: Introspector, token: bytes = b"opaque", now: float = NOW) -> Principal:
    async def main() -> Principal:
        return one.recall(token, now) or await one.ask(token, now, "192.0.2.1")

    return asyncio.run(main())


def test_the_issuer_is_asked_as_the_rfc_has_it_by_whom_the_gateway_is_there() -> None:
    one, issuer = make(said(GOOD), client_id="the gate:way", secret_env="X")
    look(one, b"opaque token+/=&x=1")
    head, _, body = issuer.asked[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /introspect?x=1 HTTP/1.1"
    assert "authorization: Basic " + b64encode(b"the+gate%3Away:s%2Fcret").decode() in lines
    assert f"content-length: {len(body)}" in lines
    assert "content-type: application/x-www-form-urlencoded" in lines
    assert parse_qs(body.decode()) == {"token": ["opaque token+/=&x=1"], "token_type_hint": ["access_token"]}


def test_an_active_token_is_its_subjects_with_what_the_entry_grants() -> None:
    one, _ = make(said(GOOD | {"team": "red", "models": "iris llama"}), models_claim="models",
                  claims_to_headers={"team": "x-team"})  # fmt: skip
    principal = look(one)
    assert (principal.id, principal.name, principal.kind) == ("https://i/|alice", "alice", "introspection")
    assert (principal.grants, principal.headers) == (("iris", "llama"), ((b"x-team", b"red"),))


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"active": True, "username": "bob", "client_id": "c", "aud": ["models"]}, "bob"),
        ({"active": True, "client_id": "robot", "aud": ["models", "x"]}, "robot"),
    ],
)
def test_who_has_no_subject_is_called_by_his_next_name(answer: dict[str, Any], name: str) -> None:
    assert look(make(said(answer))[0]).id == f"introspection|{name}"


REFUSED: dict[str, Any] = {
    "not active": {"active": False},
    "active in text": GOOD | {"active": "true"},
    "active as a number": GOOD | {"active": 1},
    "no word of it": {name: value for name, value in GOOD.items() if name != "active"},
    "expired": GOOD | {"exp": NOW - 60},
    "expiry in text": GOOD | {"exp": str(int(NOW + 60))},
    "not yet valid": GOOD | {"nbf": NOW + 60},
    "for others": GOOD | {"aud": "others"},
    "for nobody": {name: value for name, value in GOOD.items() if name != "aud"},
    "nobody's": {"active": True, "aud": "models"},
    "a subject that is no text": GOOD | {"sub": 7},
    "a subject that cannot be logged": GOOD | {"sub": "a\nb"},
    "an empty subject": GOOD | {"sub": ""},
    "an issuer that cannot be logged": GOOD | {"iss": "a\nb"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_token_is_refused(name: str) -> None:
    one, _ = make(said(REFUSED[name]))
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            look(one)


def test_the_entry_may_require_more() -> None:
    for option in ({"scopes": ["write"]}, {"required_claims": {"tenant": ["acme"]}}):
        with pytest.raises(Unauthenticated):
            look(make(said(GOOD), **option)[0])
    assert look(make(said(GOOD | {"tenant": "acme"}), scopes=["read"], required_claims={"tenant": ["acme"]})[0])


FAILURES = [
    said(GOOD, 500), said(GOOD, 401), said(GOOD, 302), said(GOOD, 201), said(b""), said(b"[]"), said(b"\xff"),
    said(b'{"active": false, "active": true}'), said(b"<html>"), UpstreamTimeout(), ConnectFailed(),
]  # fmt: skip


@pytest.mark.parametrize("answer", FAILURES, ids=repr)
def test_an_issuer_that_fails_is_no_fault_of_the_caller_and_is_asked_again(
    answer: Answer | GatewayError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, _ = make(answer, answer, said(GOOD))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            look(one, b"the-token-itself")
    assert look(one, b"the-token-itself").name == "alice"
    assert (caplog.text.count("does not introspect"), caplog.text.count("answers again")) == (1, 1)
    assert "the-token-itself" not in caplog.text + repr(one)


# --- how long it counts ---


def asked_at(one: Introspector, issuer: Issuer, *moments: float) -> int:
    for moment in moments:
        try:
            look(one, now=NOW + moment)
        except Unauthenticated:
            pass
    return len(issuer.asked)


def test_a_good_token_counts_for_the_cache_but_not_beyond_its_expiry() -> None:
    assert asked_at(*make(said(GOOD)), 0, 30, 59) == 1
    assert asked_at(*make(said(GOOD)), 0, 61, 100) == 2
    one, issuer = make(said(GOOD | {"exp": NOW + 10}), leeway="0s")
    assert look(one)
    with pytest.raises(Unauthenticated):
        look(one, now=NOW + 10)
    assert len(issuer.asked) == 2
    assert asked_at(*make(said(GOOD), cache="0s"), 0, 0, 0) == 3


def test_a_bad_token_is_refused_for_a_while_without_asking() -> None:
    assert asked_at(*make(said({"active": False})), 0, 5, 9) == 1
    assert asked_at(*make(said({"active": False})), 0, 11) == 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    monkeypatch.setattr(module, "_REFUSED_REMEMBERED", 3)
    for answer in (GOOD, {"active": False}):
        one, _ = make(said(answer))
        for number in range(9):
            try:
                look(one, b"token-%d" % number)
            except Unauthenticated:
                pass
        assert len(one._active) + len(one._refused) == 3


def test_those_who_bring_one_token_at_one_time_wait_for_one_answer_and_may_leave() -> None:
    async def main() -> None:
        one, issuer = make(said(GOOD))
        issuer.gate = asyncio.Event()
        tasks = [asyncio.ensure_future(one.ask(b"opaque", NOW, str(n))) for n in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        issuer.gate.set()
        assert {each.name for each in await asyncio.gather(*tasks[1:])} == {"alice"}
        assert len(issuer.asked) == 1

    asyncio.run(main())


def test_one_address_has_few_questions_at_a_time_and_all_together_no_more_than_there_may_be() -> None:
    async def main() -> None:
        one, issuer = make(said(GOOD))
        issuer.gate = asyncio.Event()
        tasks = [asyncio.ensure_future(one.ask(b"a%d" % n, NOW, "one")) for n in range(20)]
        tasks += [asyncio.ensure_future(one.ask(b"b%d" % n, NOW, str(n))) for n in range(60)]
        await asyncio.sleep(0.01)
        assert len(issuer.asked) == 64
        issuer.gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, AuthenticationBusy) for each in done) == 4 + 12
        assert (one._running, one._waiting) == ({}, {})

    asyncio.run(main())


def test_the_addresses_that_one_subscriber_has_in_ipv6_are_one() -> None:
    async def main() -> None:
        one, issuer = make(said(GOOD))
        issuer.gate = asyncio.Event()
        layer = Authenticate(
            Behind(), methods=["introspection"], means=Means(TABLE, TOKENS, introspector=one), clock=lambda: NOW
        )
        tasks = []
        for n in range(20):
            fields = [(b"authorization", b"Bearer opaque%d" % n)]
            scope = {"type": "http", "exchange": Exchange("r", 0.0, f"2001:db8::{n:x}"), "headers": fields}
            tasks.append(asyncio.ensure_future(layer(scope, None, None)))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert len(issuer.asked) == 16
        issuer.gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, AuthenticationBusy) for each in done) == 4

    asyncio.run(main())


# --- in the layer ---


def call(one: Introspector, credential: bytes, *methods: str) -> Principal:
    layer = Authenticate(Behind(), methods=methods, means=Means(TABLE, TOKENS, introspector=one), clock=lambda: NOW)
    exchange = Exchange("r", 0.0, "192.0.2.1")
    scope = {"type": "http", "exchange": exchange, "headers": [(b"authorization", b"Bearer " + credential)]}
    asyncio.run(layer(scope, None, None))  # type: ignore[arg-type]
    return exchange.principal


def test_keys_and_tokens_that_the_gateway_can_read_are_not_asked_about() -> None:
    one, issuer = make(said(GOOD))
    assert call(one, KEY, "key", "introspection").kind == "key"
    assert call(one, FOREIGN, "key", "introspection").kind == "key"
    assert call(one, a_jwt(), "jwt", "introspection").kind == "jwt"
    assert issuer.asked == []
    assert call(one, b"opaque", "key", "jwt", "introspection").kind == "introspection"
    assert call(one, a_jwt(), "introspection").kind == "introspection", "where no JWTs are taken"
    assert len(issuer.asked) == 2


@pytest.mark.parametrize("credential", [KEY, KEY[:-1] + b"!", b"gw_"], ids=["known", "broken", "cut"])
def test_a_key_of_ours_is_never_asked_about(credential: bytes) -> None:
    one, issuer = make(said(GOOD))
    with pytest.raises(Unauthenticated):
        call(one, credential, "introspection")
    assert issuer.asked == []


@pytest.mark.parametrize("credential", [b"", b"x" * 20_000])
def test_a_token_of_impossible_length_is_not_asked_about(credential: bytes) -> None:
    one, issuer = make(said(GOOD))
    with pytest.raises(Unauthenticated):
        call(one, credential, "introspection")
    assert issuer.asked == []


def test_nothing_is_remembered_for_longer_since_the_clock_was_set_back() -> None:
    """A revoked token stayed good for as long as the clock had been ahead, and a refused one locked out."""
    one, issuer = make(said(GOOD), said({"active": False}))
    look(one)
    assert look(one, now=NOW - 0.5).id == "https://i/|alice"  # a step of a clock that is kept right
    with pytest.raises(Unauthenticated):
        look(one, now=NOW - 3600)
    issuer.answers = [said(GOOD)]
    assert look(one, now=NOW - 7200).id == "https://i/|alice"
    assert len(issuer.asked) == 3
