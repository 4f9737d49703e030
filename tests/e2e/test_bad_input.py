"""What a client may do wrong: every request gets one answer or none, the connection ends, and nothing is forwarded."""

import re
import time
from collections.abc import Iterator

import pytest

from tests.e2e.harness import Gateway, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream, response
from tests.e2e.harness_wire import Wire

LIMITS = {
    "header_bytes": "8KiB",
    "header_count": 20,
    "target_bytes": "2KiB",
    "trailer_bytes": "8KiB",
    "requests": 50,
    "body_rate": 6,
    "headers_timeout": "300ms",
    "body_idle": "300ms",
    "write_idle": "500ms",
    "keep_alive": "600ms",
}
LATE = 1.0  # seconds that a limit may be overshot: the sweep is 0.1 of them, a busy machine the rest
GET = b"GET /m/x HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /m/x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def echoing(connection: Connection) -> None:
    while True:
        connection.send(response(connection.read_request().body or b"ok"))


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(echoing) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    public = {"auth": [], "match": [{"prefix": "/m"}], "body_bytes": "100KiB"}
    models = {
        "m": served([upstream.url], **public),
        "chat": served([upstream.url], auth=[], json_bytes="1KiB"),
    }
    with Gateway(models, {"gateway": {"limits": LIMITS}}) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def check_refused(client: Wire, status: int) -> None:
    """One answer, then the end."""
    answer = client.read_response()
    assert (answer.status, answer.get("connection")) == (status, "close"), answer
    assert answer.get("content-type") == "application/json"
    assert answer.get("x-request-id")
    assert client.wait_closed(within=1.0), "the connection stays open"
    assert client.buffer == b""
    assert len(re.findall(rb"HTTP/1.1 \d{3} ", client.received)) == 1


def requests_seen(upstream: RawUpstream) -> int:
    return len(upstream.requests)


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS inside TLS": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
    "an unknown method": b"FROBNICATE /m/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /m/x\r\n\r\n",
    "HTTP/2.0": b"GET /m/x HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no Host": b"GET /m/x HTTP/1.1\r\n\r\n",
    "two Hosts": GET + b"Host: b\r\n\r\n",
    "two equal Hosts": GET + b"Host: a\r\n\r\n",
    "a Host with a path": b"GET /m/x HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a Host of IPv6 that is none": b"GET /m/x HTTP/1.1\r\nHost: [::::]\r\n\r\n",
    "a Host with a NUL in code": b"GET /m/x HTTP/1.1\r\nHost: a%00\r\n\r\n",
    "a Host with half a code": b"GET /m/x HTTP/1.1\r\nHost: a%f\r\n\r\n",
    "a Host that is a port": b"GET /m/x HTTP/1.1\r\nHost: :80\r\n\r\n",
    "a Host that is a colon": b"GET /m/x HTTP/1.1\r\nHost: :\r\n\r\n",
    "a Host with credentials": b"GET /m/x HTTP/1.1\r\nHost: u:p@a\r\n\r\n",
    "a field without a colon": GET + b"foo\r\n\r\n",
    "a space before the colon": GET + b"X : 1\r\n\r\n",
    "a folded line": GET + b"X: 1\r\n 2\r\n\r\n",
    "NUL in a value": GET + b"X: a\0b\r\n\r\n",
    "CR in a value": GET + b"X: a\rb\r\n\r\n",
    "a bare CR in front": b"\r\n\r" + GET + b"\r\n",
    "a line feed in front": b"\n" + GET + b"\r\n",
    "a NUL in front": b"\0" + GET + b"\r\n",
    "a space in front": b"\r\n " + GET + b"\r\n",
    "line feeds alone": b"GET /m/x HTTP/1.1\nHost: a\n\n",
    "a fragment": b"GET /m/x#y HTTP/1.1\r\nHost: a\r\n\r\n",
    "a backslash": b"GET /m\\x HTTP/1.1\r\nHost: a\r\n\r\n",
    "an encoded NUL": b"GET /m/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "half an encoding": b"GET /m/%f HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path above the root": b"GET /m/../../x HTTP/1.1\r\nHost: a\r\n\r\n",
    "lengths that differ": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "lengths that agree": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a length with a sign": POST + b"Content-Length: +3\r\n\r\nabc",
    "a length beyond 64 bits": POST + b"Content-Length: 18446744073709551617\r\n\r\nabc",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding that is not the last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /m/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"x\r\n",
    "a chunk size with a sign": CHUNKED + b"+1\r\nZ\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"10000000000000001\r\nZ\r\n",
    "a chunk that is longer than it says": CHUNKED + b"1\r\nZZ\r\n0\r\n\r\n",
    "a length among the trailers": CHUNKED + b"1\r\nZ\r\n0\r\nContent-Length: 9\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_is_answered_400_once_and_not_forwarded(
    client: Wire, upstream: RawUpstream, data: bytes
) -> None:
    before = requests_seen(upstream)
    client.send(data + b"GET /m/behind HTTP/1.1\r\nHost: a\r\n\r\n")
    check_refused(client, 400)
    assert requests_seen(upstream) == before


def test_trace_is_refused(client: Wire) -> None:
    client.send(b"TRACE /m/x HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = client.read_response()
    assert (answer.status, answer.get("allow")) == (405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")


# --- sizes ---


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"a" * 9000 + b"\r\n\r\n",
        GET + b"".join(b"X%d: %b\r\n" % (n, b"a" * 900) for n in range(10)) + b"\r\n",
        GET + b"X" * 9000 + b": a\r\n\r\n",
    ],
    ids=["one value", "many fields", "a name"],
)
def test_a_header_section_over_the_limit_is_431(client: Wire, head: bytes) -> None:
    client.send(head)
    check_refused(client, 431)


def test_a_header_section_that_never_ends_is_431_before_it_ends(client: Wire) -> None:
    client.send(GET)
    client.send(b"X: 123456789\r\n" * 15 + b"Y: ")
    client.send(b"a" * 12_000)
    check_refused(client, 431)


def test_a_header_section_over_the_limit_behind_another_request_is_431(client: Wire) -> None:
    client.send(GET + b"\r\n" + GET + b"X: " + b"a" * 9000 + b"\r\n\r\n")
    assert [client.read_response().status for _ in range(2)] == [200, 431]
    assert client.wait_closed(within=1.0)


def test_too_many_fields_are_431_and_as_many_as_allowed_are_not(client: Wire) -> None:
    client.send(GET + b"X: 1\r\n" * 19 + b"\r\n")
    assert client.read_response().status == 200
    client.send(GET + b"X: 1\r\n" * 20 + b"\r\n")
    answer = client.read_response()
    assert answer.status == 431
    assert client.wait_closed(within=1.0)


def test_a_target_over_the_limit_is_414(client: Wire) -> None:
    client.send(b"GET /m/" + b"a" * 2100 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    check_refused(client, 414)


def test_a_target_that_never_ends_is_414(client: Wire) -> None:
    client.send(b"GET /m/" + b"a" * 3000)
    check_refused(client, 414)


def test_trailers_without_end_are_431(client: Wire) -> None:
    client.send(CHUNKED + b"1\r\nZ\r\n0\r\n")
    until(lambda: client_sends(client, b"X: " + b"a" * 3000), "the refusal of trailers", 5.0)
    check_refused(client, 431)


def client_sends(client: Wire, data: bytes) -> bool:
    """Send and look whether there is an answer."""
    client.send(data)
    client.sock.settimeout(0.02)
    try:
        client.fill()
    except TimeoutError:
        return False
    finally:
        client.sock.settimeout(5.0)
    return True


@pytest.mark.parametrize(
    ("target", "size"),
    [
        (b"/m/x", 102_401),
        (b"/m/x", 10**15),
        (b"/v1/chat/completions", 33 * 2**20),
        (b"/any/x", 2**63),
        (b"/any/x", 10**18),
    ],
)
def test_a_length_over_the_limit_is_413_before_a_byte_of_the_body_came(client: Wire, target: bytes, size: int) -> None:
    client.send(b"POST " + target + b" HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    check_refused(client, 413)


def test_chunks_over_the_limit_are_413_when_the_limit_is_passed(client: Wire, upstream: RawUpstream) -> None:
    before = requests_seen(upstream)
    client.send(CHUNKED)
    for _ in range(11):
        client.send_chunk(b"x" * 10_000)
    check_refused(client, 413)
    assert requests_seen(upstream) == before


def test_a_body_as_large_as_allowed_is_not_refused(client: Wire) -> None:
    client.send(POST + b"Content-Length: 102400\r\n\r\n" + b"x" * 102_400)
    assert client.read_response().status == 200


def test_a_body_to_be_read_for_its_model_has_the_models_own_limit(client: Wire) -> None:
    head = b"POST /models/chat/v1/completions HTTP/1.1\r\nHost: a\r\n"
    client.send(head + b"Content-Length: 1025\r\n\r\n")
    check_refused(client, 413)


@pytest.mark.parametrize("size", [30_000, 100_000])
def test_a_chunk_extension_over_the_limit_is_431(client: Wire, size: int) -> None:
    client.send(CHUNKED + b"5;x=" + b"a" * size + b"\r\nhello\r\n0\r\n\r\n")
    check_refused(client, 431)


def test_many_chunk_extensions_over_the_limit_are_431(client: Wire) -> None:
    client.send(CHUNKED + b"1;x=" + b"a" * 100 + b"\r\nZ\r\n")
    until(lambda: client_sends(client, b"1;x=" + b"a" * 100 + b"\r\nZ\r\n"), "the refusal of extensions", 10.0)
    check_refused(client, 431)


@pytest.mark.parametrize("size", [9_000, 100_000])
def test_trailers_over_the_limit_are_431_though_they_end(client: Wire, size: int) -> None:
    client.send(CHUNKED + b"1\r\nZ\r\n0\r\nX: " + b"a" * size + b"\r\n\r\n")
    check_refused(client, 431)


def test_chunks_of_one_byte_are_no_extensions(client: Wire) -> None:
    client.send(CHUNKED + b"1\r\nZ\r\n" * 20_000 + b"0\r\n\r\n")
    assert client.read_response().body == b"Z" * 20_000


def test_a_connection_ends_behind_its_last_request(client: Wire) -> None:
    for number in range(50):
        client.send(GET + b"\r\n")
        assert client.read_response().get("connection") == ("close" if number == 49 else None)
    assert client.wait_closed(within=2.0)


# --- time ---


def test_a_head_that_stalls_is_408_at_its_limit(client: Wire) -> None:
    began = time.monotonic()
    client.send(GET + b"X: ")
    check_refused(client, 408)
    assert 0.3 <= time.monotonic() - began < 0.3 + LATE


def test_a_head_that_drips_is_408_however_steadily(client: Wire) -> None:
    began = time.monotonic()
    client.send(GET)
    until(lambda: client_sends(client, b"X: 1\r\n"), "the refusal of a dripping head", 2.0)
    check_refused(client, 408)
    assert time.monotonic() - began < 0.3 + 2 * LATE


def test_a_head_that_drips_behind_an_answered_request_is_408(client: Wire) -> None:
    client.send(GET + b"\r\n")
    assert client.read_response().status == 200
    began = time.monotonic()
    client.send(GET)
    assert client.read_response().status == 408
    assert 0.3 <= time.monotonic() - began < 0.3 + LATE


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
def test_a_body_that_stalls_is_408_and_the_model_server_is_let_go(
    client: Wire, upstream: RawUpstream, framing: bytes
) -> None:
    began = time.monotonic()
    opened = len(upstream.connections)
    client.send(POST + framing)
    check_refused(client, 408)
    assert 0.3 <= time.monotonic() - began < 0.3 + LATE
    upstream.wait_connections(opened + 1)
    assert upstream.connections[opened].ended.wait(1.0)


def test_a_body_that_is_read_for_its_model_and_stalls_is_408(client: Wire) -> None:
    client.send(b'POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"model": ')
    check_refused(client, 408)


def test_a_body_that_comes_slowly_but_comes_is_taken(client: Wire) -> None:
    client.send(POST + b"Content-Length: 8\r\n\r\n")
    client.drip(b"12345678", every=0.1)
    assert client.read_response().body == b"12345678"


def test_a_body_that_comes_too_slowly_is_408_however_steadily(client: Wire) -> None:
    began = time.monotonic()
    client.send(POST + b"Content-Length: 1000\r\n\r\n")
    until(lambda: client_sends(client, b"1"), "the refusal of a dripping body", 5.0, every=0.2)
    check_refused(client, 408)
    assert time.monotonic() - began < 2 * 0.3 + 2 * LATE


def test_a_client_that_says_nothing_is_let_go(gateway: Gateway) -> None:
    with gateway.raw() as silent:
        began = time.monotonic()
        assert silent.wait_closed(within=2.0)
        assert silent.received == b""
        assert time.monotonic() - began < 0.3 + LATE


def test_an_idle_connection_is_closed_without_a_word_after_its_time(client: Wire) -> None:
    client.send(GET + b"\r\n")
    client.read_response()
    began = time.monotonic()
    assert client.wait_closed(within=3.0)
    assert client.buffer == b""
    assert 0.5 <= time.monotonic() - began < 0.6 + LATE


def test_many_clients_that_stall_do_not_hold_up_one_that_does_not(gateway: Gateway) -> None:
    stalled = []
    for _ in range(30):
        stalled.append(gateway.raw())
        stalled[-1].send(GET)
    with gateway.raw() as client:
        client.send(GET + b"\r\n")
        assert client.read_response().status == 200
    for wire in stalled:
        assert wire.read_response().status == 408
        wire.close()


# --- how it is told ---


def test_a_refusal_is_logged_as_the_clients_fault_with_its_request_id(gateway: Gateway, client: Wire) -> None:
    client.send(b"GET /m/x HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n")
    request_id = client.read_response().get("x-request-id")

    def line() -> dict[str, object]:
        return next((line for line in gateway.access_log() if line["request_id"] == request_id), {})

    found = until(line, "the log line")
    assert (found["status"], found["error_owner"], found["error_code"]) == (400, "client", "bad_request")
