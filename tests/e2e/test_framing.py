"""Where messages begin and end, on both sides: RFC 9112 as a client and as a model server see it."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Gateway, served
from tests.e2e.harness_upstream import Connection, RawUpstream, response
from tests.e2e.harness_wire import RawMessage, Wire

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
ANSWERS = {
    "/m/length": response(b"hello"),
    "/m/chunked": CHUNKED + b"\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
    "/m/trailers": CHUNKED + b"trailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
    "/m/empty": response(b""),
    "/m/padded": b"HTTP/1.1 200 OK\r\ncontent-length: \t5 \r\n\r\nhello",
    "/m/204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/m/304": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: x\r\n\r\n",
    "/m/no-reason": b"HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nhello",
    "/m/odd-status": b"HTTP/1.1 299 Whatever\r\ncontent-length: 5\r\n\r\nhello",
    "/m/interim": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + response(b"hello"),
}
UNTIL_CLOSE = {
    "/m/old": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "/m/until-close": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello",
}


def origin(connection: Connection) -> None:
    """Answers as `ANSWERS` says, and anything else with the body that it was sent."""
    while True:
        request = connection.read_request()
        if request.target in UNTIL_CLOSE:
            connection.send(UNTIL_CLOSE[request.target])
            return
        answer = ANSWERS.get(request.target.partition("?")[0]) or response(request.body)
        if request.target == "/m/slow":
            for piece in (CHUNKED + b"\r\n", b"2\r\n", b"he\r\n3\r\nllo\r", b"\n"):
                connection.send(piece)
                time.sleep(0.01)
            answer = b"0\r\n\r\n"
        if request.method == "HEAD":
            answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        connection.send(answer)


def impatient(connection: Connection) -> None:
    """Answers as soon as the head is there, and reads nothing more."""
    connection.read_head()
    connection.send(response(b"no thanks", 403))
    connection.hang()


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(origin) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    with RawUpstream(impatient) as deaf:
        public = served([upstream.url], auth=[], match=[{"prefix": "/m"}], body_bytes="1MiB")
        models = {
            "m": public,
            "locked": served([upstream.url], body_bytes="1KiB"),
            "impatient": served([deaf.url], auth=[]),
        }
        with Gateway(models) as gateway:
            yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def get(client: Wire, target: str, *fields: str, method: str = "GET", version: str = "1.1") -> RawMessage:
    head = "\r\n".join([f"{method} {target} HTTP/{version}", "Host: a", *fields, "", ""])
    client.send(head.encode())
    return client.read_response(method)


# --- answers ---


@pytest.mark.parametrize("target", ["/m/length", "/m/chunked", "/m/no-reason", "/m/odd-status", "/m/interim"])
def test_a_body_arrives_whole_however_the_model_server_frames_it(client: Wire, target: str) -> None:
    for _ in range(2):
        assert get(client, target).body == b"hello"


@pytest.mark.parametrize("target", sorted(UNTIL_CLOSE))
def test_a_body_that_ends_with_the_model_servers_connection_is_given_a_framing(client: Wire, target: str) -> None:
    answer = get(client, target)
    assert (answer.body, answer.get("transfer-encoding")) == (b"hello", "chunked")
    assert get(client, "/m/length").body == b"hello", "the client's connection goes on"


@pytest.mark.parametrize(
    ("target", "length", "coding"),
    [("/m/length", "5", None), ("/m/slow", None, "chunked"), ("/m/chunked", "5", None)],
)
def test_an_answer_goes_in_chunks_only_where_its_length_is_not_known_when_it_begins(
    client: Wire, target: str, length: str | None, coding: str | None
) -> None:
    answer = get(client, target)
    assert (answer.body, answer.get("content-length"), answer.get("transfer-encoding")) == (b"hello", length, coding)


def test_an_interim_answer_is_not_passed_on(client: Wire) -> None:
    get(client, "/m/interim")
    assert client.received.count(b"HTTP/1.1 ") == 1
    assert b"link" not in client.received


def test_trailers_of_an_answer_are_dropped_and_the_body_still_ends(client: Wire) -> None:
    answer = get(client, "/m/trailers")
    assert (answer.body, answer.trailers, answer.get("trailer")) == (b"hello", [], None)


@pytest.mark.parametrize("target", ["/m/length", "/m/chunked", "/m/304"])
def test_head_gets_the_fields_and_no_body(client: Wire, target: str) -> None:
    for _ in range(2):
        answer = get(client, target, method="HEAD")
        assert answer.status in (200, 304)
        assert answer.get("content-length") == (None if target == "/m/chunked" else "5")
    assert get(client, "/m/length").body == b"hello", "the next answer begins where it should"


@pytest.mark.parametrize(("status", "length"), [(204, None), (304, "5")])
def test_an_answer_without_a_body_by_its_status_ends_with_its_head(
    client: Wire, status: int, length: str | None
) -> None:
    for _ in range(2):
        answer = get(client, f"/m/{status}")
        assert (answer.status, answer.get("content-length"), answer.get("transfer-encoding")) == (status, length, None)
    assert get(client, "/m/length").body == b"hello"


def test_an_empty_body_is_no_body_at_all_but_has_a_length(client: Wire) -> None:
    answer = get(client, "/m/empty")
    assert (answer.body, answer.get("content-length")) == (b"", "0")


# --- clients of HTTP/1.0, and connections ---


@pytest.mark.parametrize("target", ["/m/length", "/m/slow", "/m/old"])
def test_an_old_client_gets_no_chunks_and_a_closed_connection(client: Wire, target: str) -> None:
    answer = get(client, target, version="1.0")
    assert (answer.body, answer.get("transfer-encoding"), answer.get("connection")) == (b"hello", None, "close")
    assert client.wait_closed()


def test_an_old_client_that_asks_for_it_keeps_its_connection_where_the_length_is_known(client: Wire) -> None:
    for _ in range(2):
        answer = get(client, "/m/length", "Connection: keep-alive", version="1.0")
        assert (answer.body, answer.get("connection")) == (b"hello", "keep-alive")
    assert get(client, "/m/slow", "Connection: keep-alive", version="1.0").get("connection") == "close"
    assert client.wait_closed()


def test_an_old_client_without_host_is_served(client: Wire) -> None:
    client.send(b"GET /m/length HTTP/1.0\r\n\r\n")
    assert client.read_response().body == b"hello"


def test_a_client_that_says_close_gets_one_answer_and_the_end(client: Wire) -> None:
    client.send(
        b"GET /m/length HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /m/length HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert client.read_response().get("connection") == "close"
    assert client.wait_closed(within=1.0)
    assert client.buffer == b""


def test_sequential_requests_of_many_clients_use_one_connection_upstream(
    gateway: Gateway, upstream: RawUpstream
) -> None:
    with gateway.raw() as client:
        get(client, "/m/length")
    before = len(upstream.connections)
    for _ in range(3):
        with gateway.raw() as client:
            for target in ("/m/length", "/m/chunked", "/m/204", "/m/304", "/m/length"):
                get(client, target)
            client.send(b"POST /m/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            assert client.read_response().body == b"abc"
    assert len(upstream.connections) == before


def test_an_upgrade_is_not_taken_and_the_request_is_an_ordinary_one(client: Wire) -> None:
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    for _ in range(2):
        assert get(client, "/m/length", *fields).body == b"hello"


def test_the_authority_of_an_absolute_target_replaces_the_host(client: Wire, upstream: RawUpstream) -> None:
    client.send(b"GET http://b.example:81/m/length?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.read_response().body == b"hello"
    seen = upstream.requests[-1]
    assert (seen.target, seen.get("x-forwarded-host")) == ("/m/length?x=1", "b.example:81")


# --- requests ---


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
def test_a_body_reaches_the_model_server_whole_by_length_and_by_chunks(client: Wire, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    client.send(b"POST /m/echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + body)
    assert client.read_response().body == body
    client.send(b"POST /m/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, size, 7919):
        client.send_chunk(body[start : start + 7919])
    client.send_chunk(b"")
    assert client.read_response().body == body


def test_a_body_that_comes_in_chunks_over_time_goes_upstream_in_chunks(client: Wire, upstream: RawUpstream) -> None:
    client.send(b"POST /m/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n")
    client.drip(b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n", every=0.002)
    assert client.read_response().body == b"abcde"
    seen = upstream.requests[-1]
    assert (seen.get("transfer-encoding"), seen.get("content-length"), seen.trailers) == ("chunked", None, [])


@pytest.mark.parametrize("is_dripped", [False, True])
def test_whitespace_around_a_value_is_no_part_of_it(client: Wire, upstream: RawUpstream, is_dripped: bool) -> None:
    """RFC 9110, 5.5."""
    head = (
        b"POST /m/echo HTTP/1.1\r\nHost: a \t\r\nX-Kept:\t1 \r\nTransfer-Encoding: chunked \r\nConnection: X-Gone \r\n"
        b"X-Gone: 1\r\nExpect: 100-continue \r\nX-Empty: \t \r\n\r\n"
    )
    if is_dripped:
        client.drip(head, every=0.001, size=7)
    else:
        client.send(head)
    assert client.read_response().status == 100
    client.send(b"5\r\nhello\r\n0\r\n\r\n")
    assert client.read_response().body == b"hello"
    request = upstream.requests[-1]
    fields = dict(request.fields)
    assert (fields[b"x-kept"], fields[b"x-empty"], fields[b"x-forwarded-host"]) == (b"1", b"", b"a")
    assert b"x-gone" not in fields


def test_a_padded_length_of_an_answer_is_a_length(client: Wire) -> None:
    for _ in range(2):
        assert get(client, "/m/padded").body == b"hello"


def test_a_head_that_comes_byte_by_byte_is_a_request(client: Wire) -> None:
    client.drip(b"GET /m/length HTTP/1.1\r\nHost: a\r\n\r\n", every=0.001)
    assert client.read_response().body == b"hello"


def test_pipelined_requests_are_answered_in_order(client: Wire) -> None:
    bodies = [b"%d" % number for number in range(60)]
    post = b"POST /m/echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
    client.send(b"".join(post % (len(body), body) for body in bodies))
    assert [client.read_response().body for _ in bodies] == bodies


def test_a_pipelined_request_may_still_be_under_way_when_its_turn_comes(client: Wire) -> None:
    first = b"GET /m/length HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(first * 2 + b"POST /m/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    assert [client.read_response().body for _ in range(2)] == [b"hello"] * 2
    client.send(b"def" + first)
    assert client.read_response().body == b"abcdef"
    assert client.read_response().body == b"hello"


def test_a_malformed_request_behind_good_ones_is_answered_behind_them(client: Wire) -> None:
    client.send(
        b"GET /m/length HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + b"GET /m/x HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n" * 2
    )
    assert [client.read_response().status for _ in range(3)] == [200, 200, 400]
    assert client.wait_closed(within=1.0)
    assert client.buffer == b""


# --- 100 Continue ---


def test_continue_is_said_when_the_body_is_wanted_and_once(client: Wire) -> None:
    client.send(b"POST /m/echo HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
    assert client.read_response().status == 100
    client.send(b"hello")
    answer = client.read_response()
    assert (answer.status, answer.body) == (200, b"hello")
    assert client.received.count(b"100 Continue") == 1
    assert get(client, "/m/length").body == b"hello"


def test_continue_is_not_said_where_the_body_is_there_already(client: Wire) -> None:
    client.send(b"POST /m/echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
    assert client.read_response().status == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /models/locked/x HTTP/1.1\r\nContent-Length: 5", 401),
        ("POST /m/x HTTP/1.1\r\nContent-Length: 2000000", 413),
        ("POST /models/nobody/x HTTP/1.1\r\nContent-Length: 5", 404),
        ("POST /m/../../x HTTP/1.1\r\nContent-Length: 5", 400),
    ],
)
def test_a_refused_request_gets_its_answer_at_once_and_no_continue(client: Wire, head: str, status: int) -> None:
    client.send(f"{head}\r\nHost: a\r\nExpect: 100-continue\r\n\r\n".encode())
    answer = client.read_response()
    assert (answer.status, answer.get("connection")) == (status, "close")
    assert client.wait_closed(within=1.0)


def test_continue_is_not_said_to_an_old_client(client: Wire) -> None:
    client.send(b"POST /m/echo HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    client.send(b"hello")
    assert client.read_response().status == 200


# --- answers that come early ---


def test_an_answer_that_comes_before_the_body_is_complete_reaches_the_client_and_ends_the_connection(
    client: Wire,
) -> None:
    client.send(b"POST /models/impatient/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000)
    answer = client.read_response()
    assert (answer.status, answer.body, answer.get("connection")) == (403, b"no thanks", "close")
    assert client.wait_closed(within=1.0)


def test_a_refusal_is_not_lost_to_a_client_that_goes_on_sending(gateway: Gateway) -> None:
    with gateway.raw() as client:

        def upload() -> None:
            head = b"POST /models/locked/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n"
            client.send(head)
            for _ in range(30):
                client.send(b"x" * 100_000)

        sender = threading.Thread(target=upload)
        sender.start()
        answer = client.read_response()
        assert (answer.status, answer.get("connection")) == (401, "close")
        sender.join()
