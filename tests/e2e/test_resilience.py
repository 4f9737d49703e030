"""What a route does so that its clients notice little of slow, full and broken model servers."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream, answering, response
from tests.e2e.harness_wire import RawMessage, Wire


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


@pytest.fixture(scope="module")
def counting() -> Counting:
    return Counting()


@pytest.fixture(scope="module")
def silent() -> Silent:
    return Silent()


@pytest.fixture(scope="module")
def upstreams(silent: Silent, counting: Counting) -> Iterator[dict[str, RawUpstream]]:
    with ExitStack() as stack:
        yield {
            "good": stack.enter_context(RawUpstream(answering(b"good"))),
            "silent": stack.enter_context(RawUpstream(silent)),
            "counting": stack.enter_context(RawUpstream(counting)),
        }


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, RawUpstream]) -> Iterator[Gateway]:
    url = {name: upstream.url for name, upstream in upstreams.items()}
    models = {
        "good": served([url["good"]], auth=[], timeouts={"total": "1m"}),
        "silent": served([url["silent"]], auth=[]),
        "narrow": served([url["counting"]], auth=[], max_in_flight={"endpoint": 2}, queue={"length": 8}),
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
