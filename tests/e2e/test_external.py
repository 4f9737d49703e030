"""A service that decides, over real connections: who gets in, what the client is told, and what happens without it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_decider import Decider, Reply
from tests.e2e.harness_upstream import RawUpstream, answering
from tests.ports import free_port


def decide(asked: dict[str, Any]) -> Reply:
    """By the token, which says what to answer."""
    headers = {name.lower(): value for name, value in asked["headers"].items()}
    token = headers.get("authorization", "").removeprefix("Bearer ")
    if token == "alice":
        return 200, {"x-user": "alice", "set-cookie": "renewed=1"}, ""
    if token == "slow":
        time.sleep(3)
    if token == "long":
        return 403, {}, "x" * 100_000
    if token == "broken":
        return 500, {"x-user": "alice"}, "trace of stack"
    if token == "stranger":
        return 403, {"content-type": "text/plain", "x-internal": "secret"}, "alice only"
    return 302, {"location": f"https://login.example/?to={headers['x-forwarded-uri']}"}, ""


@pytest.fixture(scope="module")
def decider() -> Iterator[Decider]:
    with Decider(decide) as decider:
        yield decider


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering(b"ok")) as upstream:
        yield upstream


def entry(url: str, **options: Any) -> dict[str, Any]:
    return {"external": f"{url}/decide", "accept": ["x-user"], "timeout": "500ms", **options}


@pytest.fixture(scope="module")
def gateway(decider: Decider, upstream: RawUpstream) -> Iterator[Gateway]:
    ours = entry(decider.url, principal="x-user", answer=["set-cookie"])
    models = {
        "iris": served([upstream.url], auth=[ours]),
        "both": served([upstream.url], auth=["key", ours]),
        "cached": served([upstream.url], auth=[entry(decider.url, cache="1m")]),
        "hidden": served([upstream.url], auth=[ours], hide=True),
        "dead": served([upstream.url], auth=[entry(f"http://127.0.0.1:{free_port()}")]),
        "narrow": served([upstream.url], auth=["key", entry(decider.url, timeout="20s", max_in_flight=1)]),
        "public": served([upstream.url], auth=[]),
        "broken": served(
            [f"http://127.0.0.1:{free_port()}"], auth=["key", entry(decider.url)], fallback=["both", "public"]
        ),
    }
    with Gateway(models) as gateway:
        yield gateway


def ask(gateway: Gateway, model: str, token: str | None = None, **headers: str) -> Any:
    own = {} if token is None else {"authorization": f"Bearer {token}"}
    with gateway.client(headers={**own, **headers}) as client:
        return client.get(f"/models/{model}/x?q=1", follow_redirects=False)


def test_whom_it_admits_gets_in_under_the_name_that_it_gives(
    gateway: Gateway, decider: Decider, upstream: RawUpstream
) -> None:
    answer = ask(gateway, "iris", "alice", **{"x-user": "root", "x_user": "root"})
    assert (answer.status_code, answer.headers["set-cookie"]) == (200, "renewed=1")
    told = upstream.requests[-1]
    assert (told.all("x-user"), told.all("x_user"), told.all("authorization")) == (["alice"], [], [])
    asked = decider.asked[-1]["headers"]
    assert (asked["x-forwarded-method"], asked["x-forwarded-uri"]) == ("GET", "/models/iris/x?q=1")
    assert (asked["x-gateway-model"], asked["x-forwarded-for"]) == ("iris", "127.0.0.1")
    until(lambda: any(line["principal"] == "external|alice" for line in gateway.access_log()), "the log line")


def test_what_it_refuses_is_passed_on_and_nothing_of_its_inside(gateway: Gateway, upstream: RawUpstream) -> None:
    before = len(upstream.requests)
    refused = ask(gateway, "iris", "stranger")
    assert (refused.status_code, refused.text, refused.headers["content-type"]) == (403, "alice only", "text/plain")
    assert "x-internal" not in refused.headers
    login = ask(gateway, "iris")
    assert (login.status_code, login.headers["location"]) == (302, "https://login.example/?to=/models/iris/x?q=1")
    assert ask(gateway, "hidden", "stranger").json()["error"]["code"] == "model_not_found"
    assert ask(gateway, "hidden", "alice").status_code == 200
    assert len(upstream.requests) == before + 1


@pytest.mark.parametrize(
    ("model", "token"), [("iris", "slow"), ("iris", "broken"), ("iris", "long"), ("dead", "alice")]
)
def test_while_it_fails_nobody_gets_in(gateway: Gateway, upstream: RawUpstream, model: str, token: str) -> None:
    before = len(upstream.requests)
    answer = ask(gateway, model, token)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert "trace" not in answer.text
    assert len(upstream.requests) == before


def test_a_key_needs_no_decision_and_is_never_shown(gateway: Gateway, decider: Decider) -> None:
    before = len(decider.asked)
    assert ask(gateway, "both", gateway.key).status_code == 200
    assert ask(gateway, "both", gateway.key[:-1] + "_").status_code == 401
    assert len(decider.asked) == before
    assert ask(gateway, "both", "alice").status_code == 200
    ask(gateway, "iris", gateway.key)
    assert gateway.key not in str(decider.asked)


def test_a_cached_decision_is_asked_once_and_connections_are_kept(gateway: Gateway, decider: Decider) -> None:
    before, connections = len(decider.asked), decider.connections
    assert [ask(gateway, "cached", "alice").status_code for _ in range(5)] == [200] * 5
    assert len(decider.asked) == before + 1
    assert decider.connections <= connections + 1


def test_who_would_be_one_question_too_many_is_told_to_come_again_and_a_key_needs_none(
    gateway: Gateway, decider: Decider
) -> None:
    before = len(decider.asked)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, gateway, "narrow", "slow")
        until(lambda: len(decider.asked) > before, "the first question")
        answers = [ask(gateway, "narrow", "alice") for _ in range(4)]
        assert ask(gateway, "narrow", gateway.key).status_code == 200
        assert first.result().status_code == 302
    told = [(answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) for answer in answers]
    assert told == [(503, "authentication_busy", "1")] * 4
    assert ask(gateway, "narrow", "alice").status_code == 200
    counted = [line for line in gateway.metrics().splitlines() if 'code="authentication_busy"' in line]
    assert [line.split()[-1] for line in counted] == ["4.0"]


def test_headers_that_it_identifies_by_are_kept_from_clients_of_all_models(
    gateway: Gateway, upstream: RawUpstream
) -> None:
    assert ask(gateway, "public", None, **{"x-user": "root"}).status_code == 200
    assert upstream.requests[-1].all("x-user") == []


def test_it_survives_a_reload(gateway: Gateway) -> None:
    assert gateway.reload({**gateway.config["models"], "more": served(["http://127.0.0.1:1"])}) == []
    assert ask(gateway, "iris", "alice").status_code == 200


def test_whom_it_has_let_in_to_one_model_it_has_not_let_in_to_the_one_that_this_falls_back_to(gateway: Gateway) -> None:
    by_service = ask(gateway, "broken", "alice")
    by_key = ask(gateway, "broken", gateway.key)
    assert (by_service.status_code, by_service.headers["x-fallback-model"]) == (200, "public@v1")
    assert (by_key.status_code, by_key.headers["x-fallback-model"]) == (200, "both@v1")
