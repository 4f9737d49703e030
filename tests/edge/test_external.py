"""Decisions of another service: what it is told, what its answers mean, and that its failures let nobody in."""

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from gateway.config.settings import ExternalAuth
from gateway.edge.authenticate import Authenticate, Means, Rejected
from gateway.edge.external import External
from gateway.edge.rescue import Rescue
from gateway.errors import (
    AuthenticationBusy,
    ClientLeft,
    ConnectFailed,
    Forbidden,
    GatewayError,
    StoreUnavailable,
    UpstreamTimeout,
)
from gateway.model import Answer, Exchange, Header
from tests.edge.test_auth_layer import FOREIGN, KEY, TABLE, Behind

URL = "http://127.0.0.1:9/decide?app=models"
YES = Answer(200, [(b"x-user", b"alice"), (b"x-team", b"red"), (b"set-cookie", b"s=1"), (b"x-other", b"no")], b"")
NO = Answer(403, [(b"content-type", b"text/plain"), (b"x-internal", b"1")], b"go away")


class Service:
    """Answers as told, and keeps what it was asked."""

    def __init__(self, *answers: Answer | GatewayError) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    async def __call__(self, question: bytes, timeout: float, exchange: Exchange, longest: int) -> Answer:
        self.asked.append(question)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, GatewayError):
            raise answer
        return answer


class Door:
    """The layer with a clock that the test moves."""

    def __init__(self, *answers: Answer | GatewayError, keys: bool = False, **options: Any) -> None:
        self.now = 100.0
        self.service = Service(*answers)
        self.behind = Behind()
        means = Means(TABLE, granted_headers=frozenset((b"x-user", b"x-team")))
        settings = ExternalAuth.model_validate({"external": URL, "accept": ["x-user", "x-team"], **options})
        known = partial(Authenticate, methods=["key"], means=means, clock=lambda: self.now) if keys else None
        self.layer = External(
            self.behind, settings=settings, means=means, ask=self.service, known=known, clock=lambda: self.now
        )

    def call(self, *headers: Header, path: bytes = b"/v1/x", query: bytes = b"") -> tuple[Exchange, list[Header]]:
        exchange = Exchange("the-id", 0.0, "192.0.2.7")
        exchange.fields = {b"host": b"gateway"}
        scope: dict[str, Any] = {
            "type": "http", "method": "POST", "scheme": "https", "raw_path": path, "query_string": query,
            "exchange": exchange, "headers": list(headers),
        }  # fmt: skip
        asyncio.run(self.layer(scope, None, None))  # type: ignore[arg-type]
        return exchange, scope["headers"]

    def refused(self, *headers: Header) -> GatewayError:
        before = len(self.behind.scopes)
        with pytest.raises(GatewayError) as caught:
            self.call(*headers)
        assert len(self.behind.scopes) == before
        return caught.value


def test_a_token_within_which_the_letters_of_a_key_occur_is_shown_to_it_and_a_key_of_ours_is_not() -> None:
    """One in three hundred JWTs has them: its owner was a stranger to the service until it was renewed."""
    door = Door(YES)
    door.call((b"authorization", b"Bearer eyJhbGciOi.eyJzdgw_IiO.c2lnbmF0"), (b"x-api-key", b"Token " + KEY))
    assert b"authorization: Bearer eyJhbGciOi.eyJzdgw_IiO.c2lnbmF0" in door.service.asked[0]
    assert KEY not in door.service.asked[0]


def test_it_is_asked_with_the_head_of_the_request_and_nothing_that_a_client_says_of_it() -> None:
    door = Door(YES)
    lie = [(b"x-forwarded-uri", b"/"), (b"x-gateway-model", b"other"), (b"accept", b"*/*"), (b"x-forwarded-for", b"1")]
    door.call((b"authorization", b"Bearer opaque"), (b"cookie", b"a=b"), *lie, query=b"q=1")
    (question,) = door.service.asked
    start, *lines = question.decode().split("\r\n")
    assert start == "GET /decide?app=models HTTP/1.1"
    assert lines == [
        "host: 127.0.0.1:9", "authorization: Bearer opaque", "cookie: a=b", "x-forwarded-method: POST",
        "x-forwarded-proto: https", "x-forwarded-host: gateway", "x-forwarded-uri: /v1/x?q=1",
        "x-forwarded-for: 192.0.2.7", "x-gateway-model: ", "x-gateway-version: ", "x-request-id: the-id", "", "",
    ]  # fmt: skip


def test_no_client_tells_it_of_a_tls_certificate() -> None:
    door = Door(YES, send=["x-client-cert", "cookie"])
    door.call((b"x-client-cert", b"alices"), (b"cookie", b"a=b"))
    assert b"alices" not in door.service.asked[0]
    assert b"cookie: a=b" in door.service.asked[0]


def test_who_is_admitted_goes_on_under_the_headers_that_it_says_and_no_others() -> None:
    door = Door(YES, principal="x-user", answer=["set-cookie"])
    exchange, headers = door.call(
        (b"authorization", b"Bearer opaque"), (b"x-user", b"root"), (b"x_team", b"blue"), (b"accept", b"*/*")
    )
    assert headers == [(b"accept", b"*/*"), (b"x-user", b"alice"), (b"x-team", b"red")]
    assert (exchange.principal.id, exchange.principal.kind) == ("external|alice", "external")
    assert exchange.answer_headers == [(b"set-cookie", b"s=1")]


@pytest.mark.parametrize("name", [b"", b"a\x00b", b"x" * 300, b"a\xe2\x80\xa8b"])
def test_a_name_that_cannot_be_logged_is_none(name: bytes) -> None:
    door = Door(Answer(204, [(b"x-user", name)], b""), principal="x-user")
    assert door.call()[0].principal.id == "external"


@pytest.mark.parametrize("status", [401, 402, 403, 404, 409, 429, 451])
def test_a_refusal_is_passed_on_as_it_came(status: int) -> None:
    given = [(b"content-type", b"text/html"), (b"retry-after", b"3"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    error = Door(Answer(status, [*given, (b"server", b"x"), (b"x-user", b"alice")], b"<p>no</p>")).refused()
    challenge = [(b"www-authenticate", b'Bearer realm="models"')] if status == 401 else []
    assert error.given == (status, [*given, *challenge], b"<p>no</p>")


def test_a_redirect_to_a_login_is_passed_on_and_one_to_nowhere_is_a_failure() -> None:
    to = (b"location", b"https://login.example/?rd=/v1/x")
    error = Door(Answer(302, [to, (b"set-cookie", b"csrf=1")], b"")).refused()
    assert error.given == (302, [to, (b"set-cookie", b"csrf=1")], b"")
    for answer in (Answer(302, [], b""), Answer(304, [to], b""), Answer(300, [to], b"")):
        assert isinstance(Door(answer).refused(), StoreUnavailable)


FAILURES = [
    Answer(500, [], b""), Answer(502, [], b"x"), Answer(503, [(b"x-user", b"alice")], b""), Answer(400, [], b""),
    Answer(407, [], b""), Answer(408, [], b""), Answer(421, [], b""), Answer(431, [], b""), Answer(599, [], b""),
    UpstreamTimeout(), ConnectFailed(),
]  # fmt: skip


@pytest.mark.parametrize("answer", FAILURES, ids=repr)
def test_a_service_that_fails_lets_nobody_in_and_says_so_once(
    answer: Answer | GatewayError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    door = Door(answer, answer, YES)
    for _ in range(2):
        error = door.refused((b"authorization", b"Bearer secret-of-alice"))
        assert isinstance(error, StoreUnavailable)
        assert error.headers == [(b"retry-after", b"1")]
    assert caplog.text.count("does not decide") == 1
    assert door.call()
    assert caplog.text.count("decides again") == 1
    assert "secret-of-alice" not in caplog.text


def test_a_client_that_leaves_while_it_decides_is_no_failure_of_it(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(Door(ClientLeft()).refused(), ClientLeft)
    assert caplog.text == ""


# --- beside the gateway's own ways ---


class Slow(Service):
    """Answers once its `gate` is open."""

    def __init__(self, *answers: Answer | GatewayError) -> None:
        super().__init__(*answers)
        self.gate = asyncio.Event()

    async def __call__(self, question: bytes, timeout: float, exchange: Exchange, longest: int) -> Answer:
        self.asked.append(question)
        await self.gate.wait()
        return self.answers[0]


def test_no_more_is_asked_at_one_time_than_may_be_and_who_leaves_gives_the_place_back() -> None:
    async def main() -> None:
        door = Door(YES, max_in_flight=3)
        service = door.layer._ask = Slow(YES)

        def call() -> asyncio.Task[None]:
            exchange = Exchange("the-id", 0.0, "192.0.2.7")
            scope: dict[str, Any] = {
                "type": "http", "method": "POST", "scheme": "https", "raw_path": b"/v1/x", "query_string": b"",
                "exchange": exchange, "headers": [],
            }  # fmt: skip
            return asyncio.ensure_future(door.layer(scope, None, None))  # type: ignore[arg-type]

        asking = [call() for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(AuthenticationBusy) as busy:
            await call()
        assert busy.value.status == 503
        assert (b"retry-after", b"1") in busy.value.headers
        assert len(service.asked) == 3
        asking.pop().cancel()
        await asyncio.sleep(0)
        asking.append(call())
        await asyncio.sleep(0)
        assert len(service.asked) == 4
        service.gate.set()
        await asyncio.gather(*asking)
        assert "0 asked about" in repr(door.layer)

    asyncio.run(main())


def test_whom_the_gateway_knows_is_not_asked_about() -> None:
    door = Door(NO, keys=True)
    for key in (KEY, FOREIGN):
        assert door.call((b"x-api-key", key))[0].principal.kind == "key"
    assert door.service.asked == []


def test_whom_it_does_not_know_the_service_decides_about() -> None:
    door = Door(YES, keys=True)
    assert door.call((b"authorization", b"Bearer opaque"))[0].principal.kind == "external"
    assert door.call()[0].principal.kind == "external"
    assert len(door.service.asked) == 2


@pytest.mark.parametrize("keys", [True, False])
def test_a_key_of_ours_is_never_shown_to_it(keys: bool) -> None:
    door = Door(YES, keys=keys)
    bad = KEY[:-1] + b"!"
    if keys:
        assert isinstance(door.refused((b"x-api-key", bad)), Rejected)
        assert door.service.asked == []
    else:
        for header in (
            (b"x-api-key", bad),
            (b"authorization", b"Bearer " + KEY),
            (b"authorization", b"bearer  " + KEY),
            (b"authorization", KEY),
            (b"authorization", b"Token " + KEY),
        ):
            assert door.call(header)
        assert b"gw_" not in b"".join(door.service.asked)


def test_what_is_refused_behind_the_door_is_not_asked_about_again() -> None:
    async def forbid(scope: Any, receive: Any, send: Any) -> None:
        raise Rejected

    means = Means(TABLE)
    service = Service(YES)
    settings = ExternalAuth.model_validate({"external": URL})
    known = partial(Authenticate, methods=["key"], means=means)
    layer = External(forbid, settings=settings, means=means, ask=service, known=known)
    scope = {"type": "http", "exchange": Exchange("r", 0.0, ""), "headers": [(b"x-api-key", KEY)]}
    with pytest.raises(Rejected):
        asyncio.run(layer(scope, None, None))  # type: ignore[arg-type]
    assert service.asked == []


def test_a_refused_credential_counts_as_a_failed_attempt_and_a_request_without_one_does_not() -> None:
    answer = Answer(401, [(b"www-authenticate", b"Negotiate")], b"")
    assert isinstance(Door(answer).refused((b"authorization", b"Bearer x")), Rejected)
    without = Door(answer).refused()
    assert isinstance(without, Forbidden)
    assert without.given == (401, [(b"www-authenticate", b"Negotiate")], b"")


# --- remembered ---


def ages(door: Door, *moments: float) -> int:
    """How often the service was asked, for the same request at these moments."""
    for moment in moments:
        door.now = 100.0 + moment
        try:
            door.call((b"authorization", b"Bearer opaque"))
        except Forbidden:
            pass
    return len(door.service.asked)


@pytest.mark.parametrize("answer", [YES, NO], ids=["admits", "refuses"])
def test_an_answer_counts_for_as_long_as_is_configured(answer: Answer) -> None:
    assert ages(Door(answer), 0, 0, 0) == 3, "without a cache, each time"
    assert ages(Door(answer, cache="10s"), 0, 5, 9.9) == 1
    assert ages(Door(answer, cache="10s"), 0, 10.1, 15, 20.2) == 3


@pytest.mark.parametrize(
    ("control", "asked"), [(b"no-store", 3), (b"no-cache", 3), (b"private, max-age=5", 2), (b"max-age=3600", 1)]
)
def test_the_answer_itself_may_shorten_that(control: bytes, asked: int) -> None:
    assert ages(Door(Answer(200, [(b"cache-control", control)], b""), cache="10s"), 0, 4, 8) == asked


def test_a_failure_is_not_remembered() -> None:
    door = Door(UpstreamTimeout(), YES, cache="10s")
    assert isinstance(door.refused(), StoreUnavailable)
    assert door.call()


def test_another_request_is_another_question() -> None:
    door = Door(YES, cache="10s")
    door.call()
    door.call((b"authorization", b"Bearer one"))
    door.call((b"authorization", b"Bearer two"))
    door.call(path=b"/v1/y")
    door.call(query=b"x")
    door.call((b"accept", b"ignored"))
    assert len(door.service.asked) == 5


def test_what_is_remembered_is_bounded_and_holds_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edge.external._REMEMBERED", 3)
    monkeypatch.setattr("gateway.edge.external._REFUSALS_REMEMBERED", 2)
    for answer, left in ((YES, (3, 0)), (NO, (0, 2))):
        door = Door(answer, cache="10s")
        for number in range(5):
            try:
                door.call((b"authorization", b"Bearer credential-%d" % number))
            except Forbidden:
                pass
        assert (len(door.layer._admitted), len(door.layer._refused)) == left
        assert "credential-" not in str(door.layer._admitted) + str(door.layer._refused) + repr(door.layer)


def test_a_refusal_without_a_body_gets_one_in_the_shape_that_clients_read() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    error = Door(Answer(403, [(b"content-type", b"text/html")], b"")).refused()

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        raise error

    exchange = Exchange("the-id", 0.0, "")
    asyncio.run(Rescue(answered)({"type": "http", "exchange": exchange}, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 403
    assert [value for name, value in sent[0]["headers"] if name == b"content-type"] == [b"application/json"]
    assert b'"code":"forbidden"' in sent[1]["body"]
