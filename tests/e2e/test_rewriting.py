"""Header fields and paths between client and model server: the routes' rules, and what the gateway says itself."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.harness import Gateway, served
from tests.e2e.harness_upstream import Connection, RawUpstream, response
from tests.e2e.harness_wire import RawMessage, Wire

SAYS = [
    ("Server", "vllm/1.0"),
    ("X-Powered-By", "snakes"),
    ("X-Kept", "1"),
    ("Set-Cookie", "a=1"),
    ("Set-Cookie", "b=2"),
    ("Via", "1.1 inner"),
    ("X-Request-Id", "the-upstreams-own"),
    ("Connection", "keep-alive, X-Hop"),
    ("Keep-Alive", "timeout=5"),
    ("X-Hop", "1"),
    ("Proxy-Authenticate", "Basic"),
    ("Upgrade", "h2c"),
    ("Trailer", "X-Sum"),
    ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
]


def telling(connection: Connection) -> None:
    while True:
        connection.read_request()
        connection.send(response(b"ok", fields=SAYS))


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(telling) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateways(upstream: RawUpstream) -> Iterator[dict[str, Gateway]]:
    """Two that differ in whom they trust."""
    rules = {
        "request": {
            "set": {"X-Team": "ml", "User-Agent": "gateway"},
            "add": {"X-Tag": "two"},
            "remove": ["Cookie", "X-Secret"],
        },
        "response": {"set": {"Server": "models"}, "add": {"Cache-Control": "no-store"}, "remove": ["X-Powered-By"]},
    }

    def model(**options: object) -> dict[str, object]:
        return served([upstream.url], auth=[], **options)

    models = {
        "plain": model(match=[{"prefix": "/plain"}]),
        "rules": model(headers=rules),
        "strip": model(match=[{"prefix": "/strip"}], path={"strip_prefix": "/strip/it"}),
        "add": model(path={"add_prefix": "/base/v1"}),
        "regex": model(path={"regex": {"pattern": "^/old/([a-z]+)/(.*)$", "replace": r"/new/\2/\1"}}),
        "all": model(
            match=[{"prefix": "/all"}],
            path={"strip_prefix": "/all", "regex": {"pattern": "x+", "replace": ""}, "add_prefix": "/p"},
        ),
        "host": model(preserve_host=True),
        "elsewhere": served([upstream.url + "/inner/"], auth=[]),
        "v2model": model(path={"regex": {"pattern": "^/v2/models/v2model", "replace": "/v2/models/m"}}),
    }
    with ExitStack() as stack:
        strangers = stack.enter_context(Gateway(models))
        trusting = stack.enter_context(Gateway(models, {"gateway": {"trusted_proxies": ["127.0.0.0/8"]}}))
        yield {"strangers": strangers, "trusting": trusting}


@pytest.fixture(scope="module")
def gateway(gateways: dict[str, Gateway]) -> Gateway:
    return gateways["strangers"]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def ask(client: Wire, target: str, *fields: str, host: str = "a.example:99") -> RawMessage:
    client.send("\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode("latin-1"))
    return client.read_response()


def told(upstream: RawUpstream) -> RawMessage:
    """What the model server was told last."""
    return upstream.requests[-1]


# --- rules ---


def test_a_routes_rules_set_add_and_remove_fields_of_a_request(client: Wire, upstream: RawUpstream) -> None:
    ask(client, "/models/rules/x", "X-Team: x", "x-team: y", "X-Tag: one", "Cookie: a=1", "X-Secret: 1", "X-Other: 1")
    request = told(upstream)
    assert (request.get("x-team"), request.all("x-tag")) == ("ml", ["one", "two"])
    assert (request.get("cookie"), request.get("x-secret")) == (None, None)
    assert (request.get("x-other"), request.get("user-agent")) == ("1", "gateway")


def test_a_routes_rules_set_add_and_remove_fields_of_an_answer(client: Wire) -> None:
    answer = ask(client, "/models/rules/x")
    assert (answer.get("server"), answer.get("x-powered-by")) == ("models", None)
    assert (answer.get("cache-control"), answer.get("x-kept")) == ("no-store", "1")
    assert answer.all("set-cookie") == ["a=1", "b=2"]


def test_a_refusal_of_the_gateway_is_not_the_upstreams_answer_and_is_not_rewritten(client: Wire) -> None:
    answer = ask(client, "/models/rules/versions/none/x")
    assert (answer.status, answer.get("server"), answer.get("cache-control")) == (404, None, None)


@pytest.mark.parametrize(
    ("target", "upstream_target"),
    [
        ("/strip/it/a?q=1", "/a?q=1"),
        ("/strip/it", "/"),
        ("/strip/it/", "/"),
        ("/strip/itself", "/strip/itself"),
        ("/strip/other", "/strip/other"),
        ("/models/add/a", "/base/v1/a"),
        ("/models/add", "/base/v1/"),
        ("/models/regex/old/abc/d/e", "/new/d/e/abc"),
        ("/models/regex/old/ABC/d", "/old/ABC/d"),
        ("/models/regex/old/abc/%2e%2e/x", "/old/x"),
        ("/all/xxaxx/b", "/p/a/b"),
        ("/all/x", "/p/"),
        ("/models/elsewhere/a", "/inner/a"),
        ("/v2/models/v2model/infer", "/v2/models/m/infer"),
    ],
)
def test_a_routes_rules_rewrite_the_path_and_leave_the_query(
    client: Wire, upstream: RawUpstream, target: str, upstream_target: str
) -> None:
    ask(client, target)
    assert told(upstream).target == upstream_target


# --- fields of one connection ---


def test_fields_of_the_clients_connection_stay_behind(client: Wire, upstream: RawUpstream) -> None:
    fields = [
        "Connection: X-Gone, close-not",
        "X-Gone: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "TE: trailers",
        "Trailer: X-Sum",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
        "X-Kept: 1",
    ]
    ask(client, "/plain/x", *fields)
    request = told(upstream)
    assert request.get("x-kept") == "1"
    gone = [field.partition(":")[0] for field in fields[:-1]]
    assert [name for name in gone if request.all(name)] == []


@pytest.mark.parametrize("order", [["X-Gone", "close"], ["close", "X-Gone"]])
def test_what_any_connection_field_names_stays_behind(client: Wire, upstream: RawUpstream, order: list[str]) -> None:
    ask(client, "/plain/x", *(f"Connection: {value}" for value in order), "X-Gone: 1")
    assert told(upstream).get("x-gone") is None


def test_connection_cannot_take_away_what_the_gateway_adds(client: Wire, upstream: RawUpstream) -> None:
    fields = "Connection: x-team, x-forwarded-for, x-request-id, host, via, content-length"
    answer = ask(client, "/models/rules/x", fields)
    request = told(upstream)
    assert request.get("x-team") == "ml"
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert request.get("x-request-id") == answer.get("x-request-id")
    assert (request.get("via"), request.get("host")) == ("1.1 gateway", upstream.url.removeprefix("http://"))


def test_fields_of_the_model_servers_connection_stay_behind(client: Wire) -> None:
    answer = ask(client, "/plain/x")
    assert answer.get("x-kept") == "1"
    gone = ["connection", "keep-alive", "x-hop", "proxy-authenticate", "upgrade", "trailer", "transfer-encoding"]
    assert [name for name in gone if answer.all(name)] == []


# --- what the gateway says itself ---


def test_an_answer_names_the_gateway_and_one_request_id(client: Wire) -> None:
    answer = ask(client, "/plain/x", "X-Request-Id: mine")
    assert answer.all("via") == ["1.1 inner", "1.1 gateway"]
    request_id = answer.get("x-request-id")
    assert request_id not in (None, "mine", "the-upstreams-own")
    assert (answer.get("server"), answer.get("date")) == ("vllm/1.0", "Thu, 01 Jan 1970 00:00:00 GMT")


def test_each_request_has_an_id_of_its_own_that_the_model_server_is_told(client: Wire, upstream: RawUpstream) -> None:
    seen = set()
    for _ in range(3):
        request_id = ask(client, "/plain/x").get("x-request-id")
        assert told(upstream).get("x-request-id") == request_id
        seen.add(request_id)
    assert len(seen) == 3


def test_an_error_of_the_gateway_has_the_request_id_in_its_body_too(client: Wire) -> None:
    answer = ask(client, "/models/nobody/x")
    assert json.loads(answer.body)["error"]["request_id"] == answer.get("x-request-id")


FORGED = [
    "X-Forwarded-For: 1.2.3.4",
    "X-Forwarded-For: 5.6.7.8",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 1",
    "X-Forwarded-Server: evil",
    "X-Forwarded-Prefix: /evil",
    "X-Real-IP: 1.2.3.4",
    "Forwarded: for=1.2.3.4",
    "X-Request-Id: mine-1",
]


def test_a_stranger_says_nothing_about_where_it_comes_from(client: Wire, upstream: RawUpstream) -> None:
    ask(client, "/plain/x", *FORGED, "Via: 1.1 before")
    request = told(upstream)
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert (request.get("x-forwarded-proto"), request.get("x-forwarded-host")) == ("https", "a.example:99")
    gone = ["x-forwarded-port", "x-forwarded-server", "x-forwarded-prefix", "x-real-ip", "forwarded"]
    assert [name for name in gone if request.all(name)] == []
    assert request.get("x-request-id") != "mine-1"
    assert request.get("via") == "1.1 before, 1.1 gateway"


CLAIMS = ["True-Client-IP: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6", "X-Client-IP: 6.6.6.6"]
OTHERWISE_SPELLED = ["X_Forwarded_For: 6.6.6.6", "X-Forwarded_Proto: http", "X_Real_IP: 6.6.6.6", "Content_Length: 9"]


def test_nor_in_other_words_or_another_spelling(gateways: dict[str, Gateway], upstream: RawUpstream) -> None:
    for name, passed in (("strangers", []), ("trusting", CLAIMS)):
        with gateways[name].raw() as client:
            ask(
                client,
                "/plain/x",
                *CLAIMS,
                *OTHERWISE_SPELLED,
                "Proxy: http://evil",
                "X-Original-URL: /admin",
                "X_Y: 1",
            )
        request = told(upstream)
        names = [line.partition(":")[0].lower() for line in (*CLAIMS, *OTHERWISE_SPELLED)]
        assert [each for each in names if request.all(each)] == [line.partition(":")[0].lower() for line in passed]
        assert not request.all("proxy")
        assert not request.all("x-original-url")
        assert request.get("x_y") == "1"


def test_a_trusted_proxy_is_believed_and_added_to(gateways: dict[str, Gateway], upstream: RawUpstream) -> None:
    with gateways["trusting"].raw() as client:
        answer = ask(client, "/plain/x", *FORGED)
    request = told(upstream)
    assert request.get("x-forwarded-for") == "1.2.3.4, 5.6.7.8, 127.0.0.1"
    assert (request.get("x-forwarded-proto"), request.get("x-forwarded-host")) == ("http", "evil.example")
    assert (request.get("x-request-id"), answer.all("x-request-id")) == ("mine-1", ["mine-1"])


@pytest.mark.parametrize("field", ['Forwarded: for=6.6.6.6, for="1.2.3.4:5";proto=http', "X-Real-IP: 1.2.3.4"])
def test_a_trusted_proxy_may_say_it_in_other_words_and_a_stranger_may_not(
    gateways: dict[str, Gateway], upstream: RawUpstream, field: str
) -> None:
    for name, expected in (("trusting", "1.2.3.4, 127.0.0.1"), ("strangers", "127.0.0.1")):
        with gateways[name].raw() as client:
            ask(client, "/plain/x", field)
        request = told(upstream)
        assert request.get("x-forwarded-for") == expected
        assert (request.get("forwarded"), request.get("x-real-ip")) == (None, None)


def test_a_trusted_proxy_that_says_nothing_is_spoken_for(gateways: dict[str, Gateway], upstream: RawUpstream) -> None:
    with gateways["trusting"].raw() as client:
        answer = ask(client, "/plain/x")
    request = told(upstream)
    assert request.get("x-forwarded-for") == "127.0.0.1"
    assert (request.get("x-forwarded-proto"), request.get("x-forwarded-host")) == ("https", "a.example:99")
    assert request.get("x-request-id") == answer.get("x-request-id")


@pytest.mark.parametrize("odd", ["x" * 200, "a b", "a\tb", "caf\xe9", '"', ""])
def test_an_odd_request_id_is_replaced_even_from_a_trusted_proxy(gateways: dict[str, Gateway], odd: str) -> None:
    with gateways["trusting"].raw() as client:
        answer = ask(client, "/plain/x", f"X-Request-Id: {odd}")
    assert re.fullmatch(r"[0-9a-f]{16}-[0-9]+", answer.get("x-request-id") or "")


def test_an_old_client_is_named_so_in_via(client: Wire, upstream: RawUpstream) -> None:
    client.send(b"GET /plain/x HTTP/1.0\r\nHost: a\r\n\r\n")
    client.read_response()
    assert told(upstream).get("via") == "1.0 gateway"


def test_the_model_server_gets_its_own_host_or_the_clients(client: Wire, upstream: RawUpstream) -> None:
    ask(client, "/plain/x")
    assert told(upstream).get("host") == f"127.0.0.1:{upstream.port}"
    ask(client, "/models/host/x")
    assert told(upstream).get("host") == "a.example:99"


def test_other_fields_go_through_as_they_are_several_times_and_in_order(client: Wire, upstream: RawUpstream) -> None:
    fields = ["Accept: a", "X-One: 1", "Accept: b", "X-Bytes: \xe9\xff", "X-Empty:", "Accept-Encoding: gzip"]
    ask(client, "/plain/x", *fields)
    request = told(upstream)
    assert request.all("accept") == ["a", "b"]
    assert (request.get("x-bytes"), request.get("x-empty")) == ("\xe9\xff", "")
    assert request.get("accept-encoding") == "gzip"


def test_max_forwards_is_counted_and_ends_here_at_zero(client: Wire, upstream: RawUpstream) -> None:
    def options(left: int) -> RawMessage:
        client.send(f"OPTIONS /plain/x HTTP/1.1\r\nHost: a\r\nMax-Forwards: {left}\r\n\r\n".encode())
        return client.read_response()

    assert options(3).status == 200
    assert told(upstream).get("max-forwards") == "2"
    before = len(upstream.requests)
    assert options(0).status == 404
    assert len(upstream.requests) == before
