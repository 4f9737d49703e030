"""What a route does so that its clients notice little of slow, full and broken model servers."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import (
    Connection,
    RawUpstream,
    answering,
    resetting_after_request,
    response,
    saying_once,
)
from tests.e2e.harness_wire import RawMessage, Truncated, Wire


class Silent:
    """Takes requests and answers none; knows which of them were given up."""

    def __init__(self) -> None:
        self.left = 0

    def __call__(self, connection: Connection) -> None:
        connection.read_request()
        connection.hang()
        self.left += 1


class Counting:
    """Takes its time, and counts how many it has at one time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __call__(self, connection: Connection) -> None:
        while True:
            connection.read_request()
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.1)
            with self.lock:
                self.now -= 1
            connection.send(response(b"ok"))


class Moody:
    """A good server that says nothing any more once it is in a mood."""

    def __init__(self) -> None:
        self.is_moody = False
        self.left = 0

    def __call__(self, connection: Connection) -> None:
        while True:
            connection.read_request()
            if self.is_moody:
                connection.hang()
                self.left += 1
                return
            connection.send(response(b"good"))


@pytest.fixture(scope="module")
def moody() -> Moody:
    return Moody()


@pytest.fixture(scope="module")
def counting() -> Counting:
    return Counting()


@pytest.fixture(scope="module")
def silent() -> Silent:
    return Silent()


@pytest.fixture(scope="module")
def upstreams(silent: Silent, counting: Counting, moody: Moody) -> Iterator[dict[str, RawUpstream]]:
    with ExitStack() as stack:
        yield {
            "good": stack.enter_context(RawUpstream(answering(b"good"))),
            "silent": stack.enter_context(RawUpstream(silent)),
            "broken": stack.enter_context(RawUpstream(resetting_after_request)),
            "busy": stack.enter_context(RawUpstream(answering(b"busy", 503))),
            "cut": stack.enter_context(RawUpstream(saying_once(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"))),
            "moody": stack.enter_context(RawUpstream(moody)),
            "counting": stack.enter_context(RawUpstream(counting)),
        }


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, RawUpstream]) -> Iterator[Gateway]:
    url = {name: upstream.url for name, upstream in upstreams.items()}
    broken, busy = [url["broken"]], [url["busy"]]
    models = {
        "big": served(broken, auth=[], fallback=["gone", "small@v2"]),
        "busy": served(busy, auth=[], fallback=["small@v1"], retry={"when": [503]}),
        "plainly-busy": served(busy, auth=[], fallback=["small@v1"]),
        "full": served(
            [url["silent"]], auth=[], max_in_flight={"version": 1}, queue={"length": 0}, fallback=["small@v1"]
        ),
        "gone": served(broken, auth=[], fallback=["small@v1"]),
        "lost": served(broken, auth=[], fallback=["gone"]),
        "locked": served(broken, fallback=["secret@v1", "small@v1"]),
        "only-locked": served(broken, fallback=["secret"]),
        "secret": served([url["good"]]),
        "to-readers": served(broken, auth=[], fallback=["read-only", "small@v1"]),
        "read-only": served([url["good"]], auth=[], methods=["GET"]),
        "to-small-bodies": served(broken, auth=[], fallback=["tight", "small@v1"]),
        "tight": served([url["good"]], auth=[], body_bytes=4),
        "cut": served([url["cut"]], auth=[], fallback=["small@v1"]),
        "stuck": served(broken, auth=[], sticky={"cookie": "c"}, fallback=["small@v1"]),
        "small": {
            "auth": [],
            "headers": {"request": {"set": {"x-small": "yes"}}},
            "versions": {
                "v1": {"endpoints": [url["good"]]},
                "v2": {"endpoints": [url["good"]], "served_as": {"model": "tiny"}},
            },
        },
        "good": served([url["good"]], auth=[], timeouts={"total": "1m"}),
        "silent": served([url["silent"]], auth=[]),
        "narrow": served([url["counting"]], auth=[], max_in_flight={"endpoint": 2}, queue={"length": 8}),
        "hedged": served(
            [url["moody"], url["good"]], auth=[], balance={"policy": "round_robin"}, hedge={"percent": 100}
        ),
        "closed": served([url["silent"]], auth=[], max_in_flight={"version": 1}, queue={"length": 0}),
    }
    with Gateway(models, {"gateway": {"workers": 2}}) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def get(client: Wire, model: str, *fields: str) -> RawMessage:
    lines = "".join(f"{field}\r\n" for field in fields)
    client.send(f"GET /models/{model}/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    return client.read_response()


# --- time that a client gives ---


@pytest.mark.parametrize("field", ["x-request-timeout: 300ms", "x-request-timeout: 0.3", "grpc-timeout: 300m"])
def test_a_request_ends_when_its_client_said_and_the_server_is_left(client: Wire, silent: Silent, field: str) -> None:
    before, began = silent.left, time.monotonic()
    answer = get(client, "silent", field)
    assert answer.status == 504
    assert b'"code":"deadline_exceeded"' in answer.body
    assert 0.3 <= time.monotonic() - began < 10
    until(lambda: silent.left > before, "the model server is left")


def test_the_server_is_told_how_much_time_is_left(client: Wire, upstreams: dict[str, RawUpstream]) -> None:
    assert get(client, "good", "X-Request-Timeout: 30").status == 200
    assert 20 < float(upstreams["good"].requests[-1].get("x-request-timeout") or 0) <= 30
    assert get(client, "good", "X-Request-Timeout: 2h").status == 200
    left = upstreams["good"].requests[-1].get("x-request-timeout") or ""
    assert left.endswith("ms")
    assert 50_000 < int(left[:-2]) <= 60_000, "no more than the route's own"


def test_a_time_that_cannot_be_read_is_400(client: Wire) -> None:
    answer = get(client, "good", "X-Request-Timeout: soon")
    assert answer.status == 400
    assert b"x-request-timeout" in answer.body


# --- room ---


def test_an_endpoint_has_no_more_at_one_time_than_it_may_whatever_the_workers(
    gateway: Gateway, counting: Counting
) -> None:
    clients = [gateway.raw() for _ in range(8)]
    for client in clients:
        client.send(b"GET /models/narrow/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [client.read_response().status for client in clients] == [200] * 8
    assert counting.most == 2
    for client in clients:
        client.close()
    assert 'gateway_queue_length{model="narrow",version="v1"} 0' in gateway.metrics()
    waited = re.search(r'gateway_queued_total\{model="narrow",version="v1"\} (\d+)', gateway.metrics())
    assert waited is not None
    assert int(waited[1]) >= 5


def test_who_finds_no_room_and_may_not_wait_is_503_with_retry_after(gateway: Gateway, client: Wire) -> None:
    with gateway.raw() as first:
        first.send(b"GET /models/closed/x HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: gateway.in_flight() > 0, "the first request is there")
        answer = get(client, "closed")
        assert answer.status == 503
        assert b'"code":"queue_full"' in answer.body
        assert answer.get("retry-after") == "1"
    until(lambda: gateway.in_flight() == 0, "the room is free again")


# --- another model, where one cannot answer ---


def chat(client: Wire, model: str, *fields: str) -> RawMessage:
    body = f'{{"model":"{model}","stream":false}}'
    lines = "".join(f"{field}\r\n" for field in fields)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    client.send((head + body).encode())
    return client.read_response()


def log_line(gateway: Gateway, answer: RawMessage) -> dict[str, Any]:
    request_id = answer.get("x-request-id")
    return until(lambda: [x for x in gateway.access_log() if x["request_id"] == request_id], "the log line")[0]


def test_another_model_answers_under_its_own_name_and_rules_and_it_is_told(
    gateway: Gateway, client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    answer = chat(client, "big")
    assert (answer.status, answer.body) == (200, b"good")
    assert answer.get("x-fallback-model") == "small@v2"
    request = upstreams["good"].requests[-1]
    assert request.body == b'{"model":"tiny","stream":false}'
    assert request.get("x-small") == "yes"
    line = log_line(gateway, answer)
    assert (line["model"], line["version"], line["fallback_from"]) == ("small", "v2", "big@v1")
    assert (line["status"], line["attempts"], line["error_code"]) == (200, 3, None)
    assert 'gateway_fallbacks_total{model="small",version="v2"}' in gateway.metrics()


def test_what_a_path_names_is_renamed_too(client: Wire, upstreams: dict[str, RawUpstream]) -> None:
    client.send(b"POST /v2/models/big/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    assert client.read_response().body == b"good"
    request = upstreams["good"].requests[-1]
    assert (request.target, request.body) == ("/v2/models/tiny/infer", b"hello")


@pytest.mark.parametrize(("model", "served_by"), [("busy", "small@v1"), ("plainly-busy", None)])
def test_an_answer_that_says_not_now_is_passed_over_where_the_route_retries_it(
    client: Wire, model: str, served_by: str | None
) -> None:
    answer = get(client, model)
    assert (answer.status, answer.get("x-fallback-model")) == (200 if served_by else 503, served_by)


def test_no_room_is_a_reason_too(gateway: Gateway, client: Wire) -> None:
    with gateway.raw() as first:
        first.send(b"GET /models/full/x HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: gateway.in_flight() > 0, "the first request is there")
        assert get(client, "full").get("x-fallback-model") == "small@v1"


def test_what_another_model_falls_back_to_is_not_tried(client: Wire) -> None:
    answer = get(client, "lost")
    assert (answer.status, answer.get("x-fallback-model")) == (502, None)


def test_a_model_answers_no_request_in_anothers_place_by_a_method_that_it_does_not_allow(client: Wire) -> None:
    assert chat(client, "to-readers").get("x-fallback-model") == "small@v1"
    assert get(client, "to-readers").get("x-fallback-model") == "read-only@v1"


@pytest.mark.parametrize(("body", "by"), [("tiny", "tight@v1"), ("large", "small@v1")])
def test_a_model_answers_no_request_in_anothers_place_that_is_too_large_for_it(
    client: Wire, body: str, by: str
) -> None:
    head = f"POST /models/to-small-bodies/x HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    client.send((head + body).encode())
    assert client.read_response().get("x-fallback-model") == by


def test_who_may_not_call_the_other_model_is_not_let_in_by_way_of_one_it_may(gateway: Gateway) -> None:
    key = gateway.create_key("narrow", "locked", "only-locked")
    with gateway.raw() as client:  # not before: a connection that says nothing for ten seconds is closed
        answer = get(client, "locked", f"Authorization: Bearer {key}")
        assert (answer.status, answer.get("x-fallback-model")) == (200, "small@v1")
        assert get(client, "only-locked", f"Authorization: Bearer {key}").status == 502
        assert get(client, "only-locked", f"Authorization: Bearer {gateway.key}").status == 200


def test_an_answer_that_has_begun_is_no_longer_anothers(client: Wire) -> None:
    with pytest.raises(Truncated):
        get(client, "cut")


def test_a_session_is_not_bound_to_what_stood_in(client: Wire) -> None:
    answer = get(client, "stuck")
    assert (answer.status, answer.get("set-cookie")) == (200, None)


# --- a second attempt beside a late one ---


def test_a_server_that_falls_silent_is_overtaken_and_left(gateway: Gateway, client: Wire, moody: Moody) -> None:
    moody.is_moody = False
    assert {get(client, "hedged").body for _ in range(64)} == {b"good"}  # so that the worker knows what is usual
    moody.is_moody = True
    answers = [get(client, "hedged") for _ in range(4)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"good")}
    until(lambda: moody.left >= 1, "the silent server is left")
    won = re.search(r'gateway_hedges_won_total\{model="hedged",version="v1"\} (\d+)', gateway.metrics())
    assert won is not None
    assert int(won[1]) >= 1
    assert max(log_line(gateway, answer)["attempts"] for answer in answers) == 2


def test_what_belongs_to_a_model_goes_with_it(gateway: Gateway, client: Wire) -> None:
    """The last test: the models are others afterwards."""
    models = dict(gateway.config["models"])
    assert 'gateway_queue_length{model="narrow"' in gateway.metrics()
    del models["narrow"]
    assert gateway.reload(models) == []
    assert get(client, "good").status == 200
    assert 'gateway_queue_length{model="narrow"' not in gateway.metrics()
    assert 'gateway_queue_length{model="closed"' in gateway.metrics()
