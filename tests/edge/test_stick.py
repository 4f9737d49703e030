"""A client that comes back finds the version and the endpoint it had, as long as it may."""

import asyncio
import re
from http.cookies import SimpleCookie
from typing import Any

import pytest

from gateway.config.settings import StickySettings
from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.pool import Pool
from gateway.core.session import Sessions
from gateway.edge.stick import Stick
from gateway.errors import NoEndpoint
from gateway.model import Exchange, Header

TTL = 3600.0
URLS = ["http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.3:80"]


async def answer(exchange: Exchange, send: Any) -> None:
    """As forward answers, once the head of the upstream's answer is there."""
    headers = [(b"a", b"b")]
    for edit in reversed(exchange.answer_edits):
        headers = edit(headers)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await send({"type": "http.response.body", "body": b"y"})


class Place:
    """Three endpoints of two versions; what comes after the layer goes where it is told, or where the session wants."""

    def __init__(self, **options: Any) -> None:
        v2 = options.pop("v2", 2)  # where the endpoints of v2 begin
        self.health = [int(Health.UP)] * 3
        row = Row(self.health, [0, 0, 0])
        self.endpoints = [Endpoint(url, slot, row) for slot, url in enumerate(URLS)]
        self.pools = {"v1": self._pool("v1", self.endpoints[:2]), "v2": self._pool("v2", self.endpoints[v2:])}
        settings = options.pop("settings", StickySettings(cookie="gw_session", ttl=TTL))
        options = {"model": "iris", "sessions": Sessions([b"s" * 32]), **options}
        self.layer = Stick(self.next, settings=settings, pools=self.pools, **options)
        self.now = 1_700_000_000.0
        self.layer.clock = lambda: self.now
        self.chosen = ("v1", 0)  # where split and pick send a request without a session
        self.scope: Any = None

    def _pool(self, version: str, endpoints: list[Endpoint]) -> Pool:
        policy: Any = None
        return Pool("iris", version, endpoints, policy, ("iris", None))

    async def next(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        exchange = scope["exchange"]
        version, index = self.chosen
        exchange.pool = self.pools[exchange.version or version]
        preferred = exchange.preferred
        if preferred is not None and preferred.may_keep:
            exchange.endpoint = preferred
        elif index is None:
            raise NoEndpoint
        else:
            exchange.endpoint = self.endpoints[index]
        await answer(exchange, send)

    def visit(self, *cookies: str, **fields: Any) -> tuple[Exchange, str | None]:
        """One request; where it went, and the Set-Cookie of its answer."""
        exchange = Exchange("r", 0.0, "192.0.2.1")
        for name in ("version", "allowed_versions"):
            setattr(exchange, name, fields.get(name))
        headers = [(b"host", b"gw"), *((b"cookie", cookie.encode()) for cookie in cookies), (b"accept", b"*/*")]
        scope = {"type": "http", "scheme": fields.get("scheme", "https"), "headers": headers, "exchange": exchange}
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("the layer reads no body")

        asyncio.run(self.layer(scope, receive, send))
        assert [message.get("body") for message in sent] == [None, b"x", b"y"]
        given: list[Header] = sent[0]["headers"]
        assert given[0] == (b"a", b"b")
        cookies_set = [value.decode() for name, value in given[1:]]
        assert exchange.answer_headers == given[1:]
        assert len(cookies_set) < 2
        return exchange, cookies_set[0] if cookies_set else None

    def session(self, version: str, index: int) -> str:
        """A cookie as this gateway gives it."""
        before, self.chosen = self.chosen, (version, index)
        _, cookie = self.visit()
        self.chosen = before
        assert cookie is not None
        return cookie.partition(";")[0]


def test_the_first_answer_carries_a_cookie_and_the_next_request_follows_it() -> None:
    place = Place()
    _, cookie = place.visit()
    assert cookie is not None
    place.chosen = ("v2", 2)
    exchange, again = place.visit(cookie.partition(";")[0])
    assert (exchange.version, exchange.endpoint, again) == ("v1", place.endpoints[0], None)


def test_the_cookie_is_out_of_reach_for_scripts_and_plain_http() -> None:
    place = Place()
    _, secure = place.visit()
    _, plain = place.visit(scheme="http")
    assert secure is not None
    assert plain is not None
    pattern = r"gw_session=[A-Za-z0-9_-]{48}; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax"
    assert re.fullmatch(pattern + "; Secure", secure)
    assert re.fullmatch(pattern, plain)
    morsel = SimpleCookie(secure)["gw_session"]
    assert (morsel["max-age"], morsel["path"], morsel["samesite"]) == ("3600", "/", "Lax")
    assert morsel["httponly"] is morsel["secure"] is True


@pytest.mark.parametrize("state", [Health.UP, Health.CHECKING, Health.DRAINING])
def test_an_endpoint_that_may_keep_its_sessions_keeps_them(state: Health) -> None:
    place = Place()
    cookie = place.session("v1", 1)
    place.health[1] = state
    exchange, again = place.visit(cookie)
    assert (exchange.endpoint, again) == (place.endpoints[1], None)


@pytest.mark.parametrize("state", [Health.DOWN, Health.PROBATION])
def test_a_session_moves_with_a_new_cookie_when_its_endpoint_fails(state: Health) -> None:
    place = Place()
    cookie = place.session("v1", 1)
    place.health[1] = state
    exchange, moved = place.visit(cookie)
    assert (exchange.version, exchange.endpoint) == ("v1", place.endpoints[0])
    assert moved is not None
    place.health[1] = Health.UP
    assert place.visit(moved.partition(";")[0])[0].endpoint is place.endpoints[0]


def test_a_session_is_renewed_when_half_its_time_is_over() -> None:
    place = Place()
    cookie = place.session("v1", 1)
    place.now += TTL * (1 / 2 - 1 / 64)
    assert place.visit(cookie)[1] is None
    place.now += TTL / 64 + 1
    exchange, renewed = place.visit(cookie)
    assert exchange.endpoint is place.endpoints[1]
    assert renewed is not None
    place.now += TTL * (1 - 1 / 64)
    assert place.visit(renewed.partition(";")[0])[0].endpoint is place.endpoints[1]
    assert place.visit(cookie)[0].endpoint is place.endpoints[0], "the old one has expired, remembered or not"


def test_one_token_serves_the_new_clients_of_an_endpoint_for_a_64th_of_the_ttl() -> None:
    place = Place()
    place.now = TTL * 1000
    tokens = []
    for _ in range(8):
        place.now += TTL / 64 / 4
        tokens.append(place.session("v1", 1))
    assert [tokens.count(token) for token in dict.fromkeys(tokens)] == [3, 4, 1]


def test_a_draining_endpoints_sessions_end_within_their_ttl() -> None:
    place = Place()
    cookie = place.session("v1", 1)
    place.health[1] = Health.DRAINING
    place.now += TTL * (1 - 1 / 64) - 1
    exchange, renewed = place.visit(cookie)
    assert (exchange.endpoint, renewed) == (place.endpoints[1], None)
    place.now += TTL / 64 + 1
    assert place.visit(cookie)[0].endpoint is place.endpoints[0]


def test_a_version_that_the_client_names_comes_before_its_session() -> None:
    place = Place()
    place.chosen = ("v2", 2)
    exchange, cookie = place.visit(place.session("v1", 1), version="v2")
    assert (exchange.version, exchange.preferred, exchange.endpoint) == ("v2", None, place.endpoints[2])
    assert cookie is not None


def test_a_session_of_the_named_version_still_keeps_its_endpoint() -> None:
    place = Place()
    exchange, cookie = place.visit(place.session("v1", 1), version="v1")
    assert (exchange.endpoint, cookie) == (place.endpoints[1], None)


def test_a_session_is_of_a_version_even_where_two_versions_share_an_endpoint() -> None:
    place = Place(v2=0)
    cookie = place.session("v1", 0)
    place.chosen = ("v2", 0)
    exchange, moved = place.visit(cookie, version="v2")
    assert (exchange.preferred, exchange.endpoint) == (None, place.endpoints[0])
    assert moved is not None


def test_a_version_that_the_principal_may_not_call_is_not_reached_by_a_cookie() -> None:
    place = Place()
    cookie = place.session("v2", 2)
    exchange, _ = place.visit(cookie, allowed_versions=("v1",))
    assert (exchange.version, exchange.preferred) == (None, None)
    exchange, _ = place.visit(cookie, allowed_versions=("v1", "v2"))
    assert (exchange.version, exchange.endpoint) == ("v2", place.endpoints[2])


def test_a_version_without_a_share_of_the_traffic_loses_its_sessions() -> None:
    place = Place(arms=("v1",))
    cookie = place.session("v2", 2)
    exchange, moved = place.visit(cookie)
    assert (exchange.version, exchange.endpoint) == (None, place.endpoints[0])
    assert moved is not None
    assert place.visit(cookie, version="v2")[0].endpoint is place.endpoints[2], "who names it is still served by it"


@pytest.mark.parametrize(("state", "version"), [(Health.DOWN, None), (Health.DRAINING, "v2"), (Health.UP, "v2")])
def test_an_arm_that_is_out_keeps_no_session_of_those_who_name_no_version(state: Health, version: str | None) -> None:
    place = Place()
    cookie = place.session("v2", 2)
    place.health[2] = state
    place.layer.pools["v2"] = place._pool("v2", place.endpoints[2:])
    exchange, moved = place.visit(cookie)
    assert exchange.version == version
    assert (moved is not None) == (version is None)


def test_an_endpoint_that_is_gone_leaves_its_session_the_version() -> None:
    old = Place()
    cookie = old.session("v1", 1)
    place = Place()
    place.pools["v1"] = place._pool("v1", place.endpoints[:1])
    place.layer = Stick(
        place.next,
        settings=StickySettings(ttl=TTL),
        sessions=Sessions([b"s" * 32]),
        model="iris",
        pools=place.pools,
    )
    place.layer.clock = lambda: old.now
    exchange, moved = place.visit(cookie)
    assert (exchange.version, exchange.preferred, exchange.endpoint) == ("v1", None, place.endpoints[0])
    assert moved is not None


@pytest.mark.parametrize("value", ["", "x", "A" * 48, "a=b", '"quoted"', "é"])
def test_a_cookie_that_is_no_session_is_replaced(value: str) -> None:
    exchange, cookie = Place().visit(f"gw_session={value}")
    assert (exchange.version, exchange.preferred) == (None, None)
    assert cookie is not None


def test_the_sessions_of_two_models_share_a_cookie() -> None:
    iris, llama = Place(), Place(model="llama")
    cookie = iris.session("v1", 1)
    exchange, both = llama.visit(cookie)
    assert exchange.preferred is None
    assert both is not None
    assert len(both.partition(";")[0]) == len("gw_session=") + 48 + 1 + 48
    for place, index in ((iris, 1), (llama, 0)):
        exchange, again = place.visit(both.partition(";")[0])
        assert (exchange.endpoint, again) == (place.endpoints[index], None)


def test_the_upstream_never_sees_the_gateways_cookie() -> None:
    place = Place()
    session = place.session("v1", 1)
    for fields, expected in [
        ([session], []),
        ([f"a=b; {session}; c=d"], ["a=b; c=d"]),
        ([f"{session};c=d"], ["c=d"]),
        (["a=b", session, "c=d"], ["a=b; c=d"]),
        (["gw_session=forged; a=b"], ["a=b"]),
        ([f"gw_session=forged; a=b; {session}"], ["a=b"]),
        ([f"x{session}; gw_session_2=c"], [f"x{session}; gw_session_2=c"]),
        (["a=b; c=d"], ["a=b; c=d"]),
        (["a=b", "c=d"], ["a=b", "c=d"]),
    ]:
        for _ in range(2):  # remembered, the second time
            place.visit(*fields)
            kept = [value.decode() for name, value in place.scope["headers"] if name == b"cookie"]
            assert kept == expected, fields
            assert [name for name, _ in place.scope["headers"] if name != b"cookie"] == [b"host", b"accept"]


def test_a_valid_session_counts_wherever_it_stands_in_the_field() -> None:
    place = Place()
    session = place.session("v1", 1)
    for fields in [
        [f"gw_session=forged; {session}"],
        [f"{session}; gw_session=forged"],
        ["a=b", session],
        [session.replace("=", '="') + '"'],
    ]:
        assert place.visit(*fields)[0].endpoint is place.endpoints[1], fields


def test_an_answer_that_no_endpoint_gave_sets_no_cookie() -> None:
    place = Place()
    place.chosen = ("v1", None)  # type: ignore[assignment]
    with pytest.raises(NoEndpoint):
        place.visit()

    async def no_endpoint(scope: Any, receive: Any, send: Any) -> None:
        scope["exchange"].pool = place.pools["v1"]
        await answer(scope["exchange"], send)

    place.layer.app = no_endpoint
    assert place.visit()[1] is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.edge.stick._REMEMBERED", 2)
    place = Place()
    cookie = place.session("v1", 1)
    for number in range(5):
        place.visit(f"{cookie}; n={number}")
        assert 1 <= len(place.layer.visits) <= 2
    place.visit(f"{cookie}; long={'x' * 2000}")
    place.visit("gw_session=forged")
    assert all(len(field) < 1000 and b"forged" not in field for field in place.layer.visits)


@pytest.mark.parametrize(
    ("cookie", "ttl", "message"),
    [("a b", 60, "name"), ("a;b", 60, "name"), ("", 60, "name"), ("é", 60, "name"), ("ok", 0.5, "ttl")],
)
def test_a_cookie_that_cannot_be_is_refused(cookie: str, ttl: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Place(settings=StickySettings.model_construct(cookie=cookie, ttl=ttl))
