"""A client that leaves: the model server is told at once, whatever it was doing, and it counts as nobody's failure."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream, pouring
from tests.e2e.harness_wire import Wire

TRIALS = 5
PROMPT = 0.05  # seconds, the median
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


class Watch:
    """A model server that notes when its peer has gone."""

    def __init__(self, say: bytes = b"") -> None:
        self.say = say
        self.asked = 0
        self.left_at: list[float] = []

    def __call__(self, connection: Connection) -> None:
        connection.read_head()
        self.asked += 1
        connection.send(self.say)
        connection.hang()
        self.left_at.append(time.monotonic())


@pytest.fixture(scope="module")
def silent() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def talking() -> Watch:
    return Watch(STREAM)


@pytest.fixture(scope="module")
def gateway(silent: Watch, talking: Watch) -> Iterator[Gateway]:
    with RawUpstream(silent) as one, RawUpstream(talking) as two, RawUpstream(pouring) as three:
        urls = {"silent": one.url, "talking": two.url, "pouring": three.url}
        with Gateway({name: served([url], auth=[]) for name, url in urls.items()}) as gateway:
            yield gateway


def in_flight(gateway: Gateway) -> int:
    endpoints = [e for m in gateway.status()["models"] for v in m["versions"] for e in v["endpoints"]]
    return sum(endpoint["in_flight"] for endpoint in endpoints)


def check_told_at_once(
    gateway: Gateway, watch: Watch, start: Callable[[Wire], None], end: Callable[[Wire], None]
) -> None:
    took = [time_to_tell(gateway, watch, start, end) for _ in range(TRIALS)]
    assert statistics.median(took) < PROMPT, took
    until(lambda: in_flight(gateway) == 0, "the end of every lease")


def time_to_tell(gateway: Gateway, watch: Watch, start: Callable[[Wire], None], end: Callable[[Wire], None]) -> float:
    """Seconds from a client's leaving to the model server's seeing it."""
    seen, asked = len(watch.left_at), watch.asked
    client = gateway.raw()
    start(client)
    until(lambda: watch.asked > asked, "the request's arrival", every=0.001)
    assert len(watch.left_at) == seen, "left alone too early"
    left = time.monotonic()
    end(client)
    until(lambda: len(watch.left_at) > seen, "the model server's being told", every=0.001)
    return watch.left_at[-1] - left


def ask_silent(client: Wire) -> None:
    client.send(b"GET /models/silent/x HTTP/1.1\r\nHost: a\r\n\r\n")


def read_a_part(client: Wire) -> None:
    client.send(b"GET /models/talking/x HTTP/1.1\r\nHost: a\r\n\r\n")
    client.read_until(b"hello")


def upload_a_part(client: Wire) -> None:
    client.send(b"POST /models/silent/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 50_000)


def ask_with_a_body(client: Wire) -> None:
    client.send(b"POST /models/silent/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")


ENDS: dict[str, Callable[[Wire], Any]] = {"closes": Wire.close, "resets": Wire.reset}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("start", [ask_silent, ask_with_a_body])
def test_a_client_that_leaves_while_it_waits_cancels_the_request(
    gateway: Gateway, silent: Watch, start: Callable[[Wire], None], end: Callable[[Wire], None]
) -> None:
    check_told_at_once(gateway, silent, start, end)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_a_client_that_leaves_in_mid_answer_ends_the_answer(
    gateway: Gateway, talking: Watch, end: Callable[[Wire], None]
) -> None:
    check_told_at_once(gateway, talking, read_a_part, end)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_a_client_that_leaves_in_mid_upload_ends_the_upload(
    gateway: Gateway, silent: Watch, end: Callable[[Wire], None]
) -> None:
    check_told_at_once(gateway, silent, upload_a_part, end)


def test_a_client_that_leaves_while_it_does_not_read_ends_the_answer(gateway: Gateway) -> None:
    client = gateway.raw()
    client.send(b"GET /models/pouring/x HTTP/1.1\r\nHost: a\r\n\r\n")
    client.read_until(b"xxx")
    time.sleep(0.3)  # until everything between is full
    client.reset()
    until(lambda: in_flight(gateway) == 0, "the end of the lease", 2.0)


def test_one_that_leaves_a_pipeline_ends_what_runs_and_starts_nothing_more(gateway: Gateway, talking: Watch) -> None:
    seen = len(talking.left_at)
    client = gateway.raw()
    client.send(b"GET /models/talking/x HTTP/1.1\r\nHost: a\r\n\r\n" * 4)
    client.read_until(b"hello")
    client.close()
    until(lambda: in_flight(gateway) == 0, "the end of the lease", 2.0)
    assert len(talking.left_at) == seen + 1


def test_one_that_leaves_when_its_large_body_has_just_come_cancels_the_request(gateway: Gateway, silent: Watch) -> None:
    """The body fills what is held at once, so that reading pauses, and goes on when it was passed on."""
    seen = len(silent.left_at)
    client = gateway.raw()
    client.send(b"POST /models/silent/x HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n" + b"x" * 600_000)
    until(lambda: in_flight(gateway) == 1, "the request's arrival")
    client.close()
    until(lambda: len(silent.left_at) > seen, "the model server's being told", 2.0)


def test_leaving_is_logged_as_499_of_the_clients_and_counted_as_nobody_elses(gateway: Gateway) -> None:
    for start in (ask_silent, read_a_part, upload_a_part):
        client = gateway.raw()
        start(client)
        until(lambda: in_flight(gateway) == 1, "the request's arrival")
        client.close()
        until(lambda: in_flight(gateway) == 0, "the end of the lease")
    until(lambda: len(gateway.access_log()) >= 3, "the log")
    for line in gateway.access_log()[-3:]:
        assert (line["status"], line["error_owner"], line["error_code"]) == (499, "client", "client_closed_request")
    assert {error["owner"] for error in gateway.status()["errors"]} == {"client"}


def test_the_gateway_serves_on_after_a_hundred_that_left(gateway: Gateway) -> None:
    for _ in range(100):
        client = gateway.raw()
        ask_silent(client)
        client.close()
    until(lambda: in_flight(gateway) == 0, "the end of every lease")
    with gateway.raw() as client:
        read_a_part(client)
    assert "Traceback" not in gateway.output
