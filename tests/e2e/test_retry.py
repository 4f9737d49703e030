"""Another attempt, where the first cannot have been acted upon, and only there."""

import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.harness import Gateway, material, served, until
from tests.e2e.harness_load import worker_of
from tests.e2e.harness_upstream import (
    Connection,
    RawUpstream,
    answering,
    refused_port,
    resetting_after_request,
    response,
)
from tests.e2e.harness_wire import RawMessage, Wire

Ask = Callable[[Wire, str], RawMessage]
POST = b"POST /models/%b/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


class Restarting:
    """A model server whose kept-alive connections end just as they are used again."""

    def __init__(self, after: float = 0.0) -> None:
        self.after = after  # seconds from the second request to the end
        self.is_reset = False
        self.answered = 0

    def __call__(self, connection: Connection) -> None:
        request = connection.read_request()
        self.answered += 1
        connection.send(response(request.body or b"ok"))
        connection.read_head()
        time.sleep(self.after)
        if self.is_reset:
            connection.reset()


class Slow:
    """Holds its answers back until so many requests have come, so that as many connections are open."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.is_calm = False

    def __call__(self, connection: Connection) -> None:
        connection.read_request()
        if not self.is_calm:
            self.barrier.wait(10)
        connection.send(response(b"ok"))
        connection.read_head()  # the next one is not answered: the connection ends


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port where connections are not accepted, nor refused: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def restarting() -> Restarting:
    return Restarting()


@pytest.fixture(scope="module")
def dying() -> Restarting:
    return Restarting(after=0.5)


@pytest.fixture(scope="module")
def slow() -> Slow:
    return Slow(6)


@pytest.fixture(scope="module")
def upstreams(restarting: Restarting, dying: Restarting, slow: Slow) -> Iterator[dict[str, RawUpstream]]:
    with ExitStack() as stack:
        yield {
            "good": stack.enter_context(RawUpstream(answering(b"good"))),
            "breaking": stack.enter_context(RawUpstream(resetting_after_request)),
            "breaking too": stack.enter_context(RawUpstream(resetting_after_request)),
            "busy": stack.enter_context(RawUpstream(answering(b"busy", 503))),
            "stale": stack.enter_context(RawUpstream(restarting)),
            "dying": stack.enter_context(RawUpstream(dying)),
            "slow": stack.enter_context(RawUpstream(slow)),
        }


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, RawUpstream]) -> Iterator[Gateway]:
    url = {name: upstream.url for name, upstream in upstreams.items()}
    # Endpoints that fail stay where they are: it is retries that are looked at here.
    in_turn = {"auth": [], "balance": {"policy": "round_robin"}, "ejection": None, "breaker": None}
    with ExitStack() as stack:
        gone = [f"http://127.0.0.1:{stack.enter_context(refused_port())}" for _ in range(3)]
        deaf = f"http://127.0.0.1:{stack.enter_context(deaf_port())}"
        models = {
            "half": served([gone[0], url["good"]], **in_turn),
            "once": served([gone[0], url["good"]], **in_turn, retry={"attempts": 1}),
            "thrice": served(gone, **in_turn, retry={"attempts": 2}),
            "none": served(gone, **in_turn),
            "breaking": served([url["breaking"], url["breaking too"]], **in_turn),
            "frugal": served(
                [url["breaking"], url["breaking too"]], **in_turn, retry={"budget": {"min_per_second": 0}}
            ),
            "willing": served([url["busy"], url["good"]], **in_turn, retry={"when": [503], "methods": ["POST"]}),
            "busy": served([url["busy"], url["good"]], **in_turn),
            "stale": served([url["stale"]], auth=[]),
            "dying": served([url["dying"]], auth=[]),
            "slow": served([url["slow"]], auth=[]),
            "deaf": served([deaf], auth=[], timeouts={"connect": "300ms"}),
            "half-deaf": served([deaf, url["good"]], **in_turn, timeouts={"connect": "300ms"}),
            "unproved": served([stack.enter_context(tls_upstream())], auth=[]),
        }
        with Gateway(models) as gateway:
            yield gateway


@contextmanager
def tls_upstream() -> Iterator[str]:
    """A model server with a certificate that the system does not trust."""
    with RawUpstream(answering(), context=tls_context()) as upstream:
        yield upstream.url


def tls_context() -> ssl.SSLContext:
    folder, _ = material()
    certificate = next((folder / "certs").glob("*.crt"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def get(client: Wire, model: str) -> RawMessage:
    client.send(f"GET /models/{model}/x HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return client.read_response()


def post(client: Wire, model: str) -> RawMessage:
    client.send(POST % model.encode())
    return client.read_response()


def send(client: Wire, method: str, model: str, field: str) -> RawMessage:
    line = f"{field}\r\n" if field else ""
    client.send(f"{method} /models/{model}/x HTTP/1.1\r\nHost: a\r\n{line}Content-Length: 5\r\n\r\nhello".encode())
    return client.read_response()


def attempts(gateway: Gateway, answer: RawMessage) -> int:
    request_id = answer.get("x-request-id")
    lines = until(lambda: [x for x in gateway.access_log() if x["request_id"] == request_id], "the log line")
    count: int = lines[0]["attempts"]
    return count


def test_an_endpoint_that_refuses_is_left_for_another_by_any_method(
    gateway: Gateway, client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    answers = [ask(client, "half") for ask in (get, post) * 4]
    assert {answer.body for answer in answers} == {b"good"}
    assert {attempts(gateway, answer) for answer in answers} <= {1, 2}
    assert max(attempts(gateway, answer) for answer in answers) == 2
    assert upstreams["good"].requests[-1].body == b"hello"


def test_a_body_that_streams_in_is_sent_to_the_other_endpoint_whole(
    client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    for _ in range(2):
        client.send(b"POST /models/half/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
        time.sleep(0.05)
        client.send(b"2\r\nlo\r\n0\r\n\r\n")
        assert client.read_response().body == b"good"
        assert upstreams["good"].requests[-1].body == b"hello"


def test_no_more_attempts_are_made_than_allowed(gateway: Gateway, client: Wire) -> None:
    answers = [get(client, "once") for _ in range(4)]
    assert {answer.status for answer in answers} == {200, 502}
    assert {attempts(gateway, answer) for answer in answers} == {1}
    answer = get(client, "thrice")
    assert (answer.status, attempts(gateway, answer)) == (502, 2)


def test_every_endpoint_is_tried_once(gateway: Gateway, client: Wire) -> None:
    answer = get(client, "none")
    assert (answer.status, attempts(gateway, answer)) == (502, 3)
    assert b"upstream_unreachable" in answer.body


@pytest.mark.parametrize(
    ("method", "field", "count"), [("GET", "", 2), ("PUT", "", 2), ("POST", "", 1), ("POST", "Idempotency-Key: 7", 2)]
)
def test_a_request_that_was_sent_is_sent_again_only_if_it_may_be_acted_upon_twice(
    gateway: Gateway, client: Wire, upstreams: dict[str, RawUpstream], method: str, field: str, count: int
) -> None:
    def seen() -> int:
        return sum(len(upstreams[name].requests) for name in ("breaking", "breaking too"))

    before = seen()
    answer = send(client, method, "breaking", field)
    assert (answer.status, attempts(gateway, answer)) == (502, count)
    assert seen() == before + count


def test_a_route_may_have_answers_that_say_not_now_tried_elsewhere(
    gateway: Gateway, client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    before = len(upstreams["busy"].requests)
    answers = [ask(client, "willing") for ask in (get, post) * 2]
    assert {answer.body for answer in answers} == {b"good"}
    assert len(upstreams["busy"].requests) > before
    assert max(attempts(gateway, answer) for answer in answers) == 2


def test_a_budget_bounds_what_the_endpoints_see_when_all_of_them_fail(
    gateway: Gateway, client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    def seen() -> int:
        return sum(len(upstreams[name].requests) for name in ("breaking", "breaking too"))

    before = seen()
    answers = [get(client, "frugal") for _ in range(40)]
    assert {answer.status for answer in answers} == {502}
    assert 40 < seen() - before <= 40 * 1.2
    assert re.search(r'gateway_upstream_retries_denied_total\{model="frugal",version="v1"\} 3\d', gateway.metrics())


@pytest.mark.parametrize("per_second", [0.0, 4.0])
def test_all_workers_together_keep_to_one_budget(upstreams: dict[str, RawUpstream], per_second: float) -> None:
    """Every request fails, at whichever worker: 1.2 times of them reach the endpoints, and the few of each second."""
    failing = [upstreams[name] for name in ("breaking", "breaking too")]
    options = {"auth": [], "balance": {"policy": "round_robin"}, "ejection": None, "breaker": None}
    budget = {"budget": {"percent": 20, "min_per_second": per_second}}
    models = {"m": served([upstream.url for upstream in failing], **options, retry=budget)}
    with Gateway(models, {"gateway": {"workers": 4}}) as gateway, ThreadPoolExecutor(8) as clients:
        before = sum(len(upstream.requests) for upstream in failing)
        began = time.monotonic()
        workers: Counter[str] = Counter()
        for found in clients.map(lambda _: workers_of_failures(gateway, 10), range(24)):
            workers.update(found)
        elapsed = time.monotonic() - began
        seen = sum(len(upstream.requests) for upstream in failing) - before
    count = workers.total()
    assert count == 240
    assert len(workers) >= 2, "the budget of one worker is tried elsewhere"
    saved = 4 * max(per_second / 4, 1.0) if per_second else 0.0
    assert count < seen <= 1.2 * count + per_second * elapsed + saved


def workers_of_failures(gateway: Gateway, count: int) -> list[str]:
    """The worker of each of so many requests of one client."""
    with gateway.raw() as client:
        answers = [get(client, "m") for _ in range(count)]
    assert {answer.status for answer in answers} == {502}
    return [worker_of(answer.get("x-request-id") or "") for answer in answers]


def test_an_answer_is_an_answer_whatever_its_status(gateway: Gateway, client: Wire) -> None:
    answers = [get(client, "busy") for _ in range(2)]
    assert {(answer.status, answer.body) for answer in answers} == {(503, b"busy"), (200, b"good")}
    assert [attempts(gateway, answer) for answer in answers] == [1, 1]


# --- connections that were kept ---


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("ask", [get, post])
def test_a_kept_connection_that_ends_as_it_is_used_again_is_nobodys_error(
    client: Wire, restarting: Restarting, ask: Ask, is_reset: bool
) -> None:
    restarting.is_reset = is_reset
    before = restarting.answered
    for _ in range(4):
        answer = ask(client, "stale")
        assert (answer.status, answer.body) == (200, b"hello" if ask is post else b"ok")
    assert restarting.answered == before + 4, "each request is answered once"


def test_many_stale_connections_in_a_row_do_not_use_up_a_requests_attempts(gateway: Gateway, slow: Slow) -> None:
    clients = [gateway.raw() for _ in range(6)]
    for client in clients:
        client.send(b"GET /models/slow/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [client.read_response().status for client in clients] == [200] * 6
    slow.is_calm = True
    assert post(clients[0], "slow").status == 200
    for client in clients:
        client.close()


def test_a_kept_connection_that_ends_long_after_the_request_may_have_been_heard(gateway: Gateway, client: Wire) -> None:
    assert get(client, "dying").status == 200
    answer = post(client, "dying")
    assert (answer.status, attempts(gateway, answer)) == (502, 1)
    assert b"upstream_closed" in answer.body


def test_a_body_that_cannot_be_sent_twice_goes_over_a_connection_of_its_own(
    client: Wire, upstreams: dict[str, RawUpstream]
) -> None:
    get(client, "half")
    before = len(upstreams["good"].connections)
    client.send(b"POST /models/half/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
    time.sleep(0.05)
    client.send(b"lo")
    assert client.read_response().body == b"good"
    assert len(upstreams["good"].connections) == before + 1


# --- connections that do not come about ---


def test_an_endpoint_that_does_not_accept_is_504_after_its_time(client: Wire) -> None:
    began = time.monotonic()
    answer = get(client, "deaf")
    assert answer.status == 504
    assert b"upstream_connect_timeout" in answer.body
    assert 0.3 <= time.monotonic() - began < 2.0


def test_an_endpoint_that_does_not_accept_is_left_for_another(client: Wire) -> None:
    assert [get(client, "half-deaf").body for _ in range(2)] == [b"good"] * 2


def test_a_certificate_that_cannot_be_trusted_is_502(client: Wire) -> None:
    answer = get(client, "unproved")
    assert answer.status == 502
    assert b"certificate" in answer.body
