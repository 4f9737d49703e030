# ruff: noqa: E501  (a case a line)
"""Requests that are odd and right: all are forwarded, as what they are, and what is forwarded a strict server takes."""

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Gateway, served
from tests.e2e.harness_strict import Clean, parse
from tests.e2e.harness_upstream import Connection, RawUpstream, response
from tests.e2e.harness_wire import Wire

HOST = b"\r\nHost: a\r\n"
LONG = b"x" * 8000


def echoing(connection: Connection) -> None:
    """Answers with the request's body, and with fields that nobody may touch."""
    fields = [
        ("allow", "GET, X-ODD"), ("www-authenticate", 'Basic realm="a", Digest realm="b"'), ("vary", "*"),
        ("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-odd", "caf\xe9"), ("location", "http://inside/x"),
    ]  # fmt: skip
    while True:
        request = connection.read_request()
        answer = response(request.body, 302 if request.target == "/m/moved" else 200, fields)
        if request.method == "HEAD":
            answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        connection.send(answer)


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(echoing) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    models = {
        "m": served([upstream.url], auth=[], match=[{"prefix": "/m"}]),
        "locked": served([upstream.url], match=[{"prefix": "/locked"}]),
    }
    with Gateway(models) as gateway:
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def chunked(*frames: bytes, fields: bytes = b"") -> bytes:
    return b"POST /m/x HTTP/1.1" + HOST + b"Transfer-Encoding: chunked\r\n" + fields + b"\r\n" + b"".join(frames)


def head(*lines: bytes, start: bytes = b"GET /m/x HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: a", *lines, b"", b""])


# name -> what is sent, then what the model server is to see: method, target, body, some of the fields
ODD: dict[str, tuple[bytes, bytes, bytes, bytes, dict[bytes, bytes]]] = {
    "a GET with a body": (head(b"Content-Length: 3") + b"abc", b"GET", b"/m/x", b"abc", {}),
    "a GET with a chunked body": (
        head(b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n", b"GET", b"/m/x", b"abc", {}),
    "a DELETE with a body": (head(b"Content-Length: 2", start=b"DELETE /m/x HTTP/1.1") + b"{}", b"DELETE", b"/m/x", b"{}", {}),
    "a HEAD with a body": (head(b"Content-Length: 2", start=b"HEAD /m/x HTTP/1.1") + b"{}", b"HEAD", b"/m/x", b"{}", {}),
    "a POST without one": (head(b"Content-Length: 0", start=b"POST /m/x HTTP/1.1"), b"POST", b"/m/x", b"", {b"content-length": b"0"}),
    "a POST without any framing": (head(start=b"POST /m/x HTTP/1.1"), b"POST", b"/m/x", b"", {b"content-length": b"0"}),
    "a length with zeros in front": (head(b"Content-Length: 0003", start=b"POST /m/x HTTP/1.1") + b"abc", b"POST", b"/m/x", b"abc", {}),
    "OPTIONS of a path": (head(start=b"OPTIONS /m/x HTTP/1.1"), b"OPTIONS", b"/m/x", b"", {}),
    "a method of WebDAV": (head(start=b"PROPFIND /m/x HTTP/1.1"), b"PROPFIND", b"/m/x", b"", {}),
    "a method with a hyphen": (head(start=b"M-SEARCH /m/x HTTP/1.1"), b"M-SEARCH", b"/m/x", b"", {}),
    "PATCH": (head(b"Content-Length: 2", start=b"PATCH /m/x HTTP/1.1") + b"{}", b"PATCH", b"/m/x", b"{}", {}),
    "an empty line in front": (b"\r\n" + head(), b"GET", b"/m/x", b"", {}),
    "three empty lines in front": (b"\r\n\r\n\r\n" + head(), b"GET", b"/m/x", b"", {}),
    "absolute-form": (b"GET http://b.example/m/x HTTP/1.1" + HOST + b"\r\n", b"GET", b"/m/x", b"", {b"x-forwarded-host": b"b.example"}),
    "absolute-form with a port and a query": (
        b"GET http://b:81/m/x?y=1 HTTP/1.1" + HOST + b"\r\n", b"GET", b"/m/x?y=1", b"", {b"x-forwarded-host": b"b:81"}),
    "absolute-form of https, in capitals": (b"GET HTTPS://B/m/x HTTP/1.1" + HOST + b"\r\n", b"GET", b"/m/x", b"", {}),
    "a Host of IPv6": (b"GET /m/x HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n", b"GET", b"/m/x", b"", {b"x-forwarded-host": b"[::1]:8443"}),
    "a Host with an empty port": (b"GET /m/x HTTP/1.1\r\nHost: a:\r\n\r\n", b"GET", b"/m/x", b"", {b"x-forwarded-host": b"a"}),
    "absolute-form with an empty port": (b"GET http://b:/m/x HTTP/1.1" + HOST + b"\r\n", b"GET", b"/m/x", b"", {b"x-forwarded-host": b"b"}),
    "a percent sign in a query that encodes nothing": (
        head(start=b"GET /m/x?a=100%&b=%4&c=%41 HTTP/1.1"), b"GET", b"/m/x?a=100%25&b=%254&c=%41", b"", {}),
    "a Host in capitals": (b"GET /m/x HTTP/1.1\r\nHOST: A.EXAMPLE\r\n\r\n", b"GET", b"/m/x", b"", {}),
    "an empty Host": (b"GET /m/x HTTP/1.1\r\nHost:\r\n\r\n", b"GET", b"/m/x", b"", {}),
    "HTTP/1.0 without Host": (b"GET /m/x HTTP/1.0\r\n\r\n", b"GET", b"/m/x", b"", {b"via": b"1.0 gateway"}),
    "HTTP/1.0 with a body": (b"POST /m/x HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", b"POST", b"/m/x", b"abc", {}),
    "obs-text in a value": (head(b"X-A: caf\xe9 \xff"), b"GET", b"/m/x", b"", {b"x-a": b"caf\xe9 \xff"}),
    "UTF-8 in a value": (head("X-A: 日本語".encode()), b"GET", b"/m/x", b"", {b"x-a": "日本語".encode()}),
    "an empty value": (head(b"X-A:"), b"GET", b"/m/x", b"", {b"x-a": b""}),
    "whitespace around a value": (head(b"X-A: \t b \t "), b"GET", b"/m/x", b"", {b"x-a": b"b"}),
    "tabs inside a value": (head(b"X-A: a\tb"), b"GET", b"/m/x", b"", {b"x-a": b"a\tb"}),
    "no space behind the colon": (head(b"X-A:b"), b"GET", b"/m/x", b"", {b"x-a": b"b"}),
    "every character a name may have": (head(b"X!#$%&'*+-.^_`|~0: 1"), b"GET", b"/m/x", b"", {b"x!#$%&'*+-.^_`|~0": b"1"}),
    "a value with colons and quotes": (head(b'X-A: "a: b"; c="\\""'), b"GET", b"/m/x", b"", {b"x-a": b'"a: b"; c="\\""'}),
    "a value of 8 KB": (head(b"X-A: " + LONG), b"GET", b"/m/x", b"", {b"x-a": LONG}),
    "a target of 8 KB": (b"GET /m/" + LONG + b" HTTP/1.1" + HOST + b"\r\n", b"GET", b"/m/" + LONG, b"", {}),
    "every character a path may have": (
        head(start=b"GET /m/!$&'()*+,-.0:;=@_~%C3%A9 HTTP/1.1"), b"GET", b"/m/!$&'()*+,-.0:;=@_~%C3%A9", b"", {}),
    "parameters in a path": (head(start=b"GET /m/x;v=1/y;w HTTP/1.1"), b"GET", b"/m/x;v=1/y;w", b"", {}),
    "an encoded slash": (head(start=b"GET /m/a%2Fb HTTP/1.1"), b"GET", b"/m/a%2Fb", b"", {}),
    "an empty query": (head(start=b"GET /m/x? HTTP/1.1"), b"GET", b"/m/x", b"", {}),
    "a query with questions and slashes": (head(start=b"GET /m/x?a=?/b&c=%2F HTTP/1.1"), b"GET", b"/m/x?a=?/b&c=%2F", b"", {}),
    "a query that is an URL": (head(start=b"GET /m/x?u=http://b:1/../c HTTP/1.1"), b"GET", b"/m/x?u=http://b:1/../c", b"", {}),
    "chunk extensions": (chunked(b"3;a\r\nabc\r\n", b"2;b=c;d=\"e\"\r\nde\r\n", b"0;f\r\n\r\n"), b"POST", b"/m/x", b"abcde", {}),
    "chunk sizes in capitals and with zeros": (chunked(b"00A\r\n0123456789\r\n", b"0\r\n\r\n"), b"POST", b"/m/x", b"0123456789", {}),
    "chunks of one byte": (chunked(*[b"1\r\n%c\r\n" % byte for byte in b"hello"], b"0\r\n\r\n"), b"POST", b"/m/x", b"hello", {}),
    "an empty chunked body": (chunked(b"0\r\n\r\n"), b"POST", b"/m/x", b"", {}),
    "trailers": (chunked(b"1\r\nZ\r\n", b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n", fields=b"Trailer: X-Sum\r\n"), b"POST", b"/m/x", b"Z", {}),
    "a coding in capitals": (chunked(b"1\r\nZ\r\n", b"0\r\n\r\n").replace(b": chunked", b": CHUNKED"), b"POST", b"/m/x", b"Z", {}),
    "a body that looks like a request": (
        head(b"Content-Length: 26", start=b"POST /m/x HTTP/1.1") + b"GET /s HTTP/1.1\r\nHost: a\r\n", b"POST", b"/m/x",
        b"GET /s HTTP/1.1\r\nHost: a\r\n", {}),
    "a body of zeros": (head(b"Content-Length: 4", start=b"POST /m/x HTTP/1.1") + bytes(4), b"POST", b"/m/x", bytes(4), {}),
    "Connection with empty members": (head(b"Connection: ,, keep-alive ,,X-Gone,", b"X-Gone: 1", b"X-Kept: 2"), b"GET", b"/m/x", b"", {b"x-kept": b"2"}),
    "Connection twice": (head(b"Connection: x-a", b"Connection: x-b", b"X-A: 1", b"X-B: 1", b"X-C: 1"), b"GET", b"/m/x", b"", {b"x-c": b"1"}),
    "an upgrade that is not taken": (head(b"Connection: Upgrade", b"Upgrade: foo/2"), b"GET", b"/m/x", b"", {}),
    "an upgrade to HTTP/2": (head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"), b"GET", b"/m/x", b"", {}),
    "an unknown expectation": (head(b"Expect: tea"), b"GET", b"/m/x", b"", {}),
    "Max-Forwards where it means nothing": (head(b"Max-Forwards: 5"), b"GET", b"/m/x", b"", {b"max-forwards": b"5"}),
    "Max-Forwards of OPTIONS": (head(b"Max-Forwards: 5", start=b"OPTIONS /m/x HTTP/1.1"), b"OPTIONS", b"/m/x", b"", {b"max-forwards": b"4"}),
    "conditions": (
        head(b'If-None-Match: "a", W/"b"', b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", b"If-Match: *", b"If-Range: x",
             b"If-Unmodified-Since: junk", b"Range: bytes=0-1,5-"), b"GET", b"/m/x", b"",
        {b"if-none-match": b'"a", W/"b"', b"if-modified-since": b"Sun, 06 Nov 1994 08:49:37 GMT", b"if-match": b"*",
         b"if-range": b"x", b"if-unmodified-since": b"junk", b"range": b"bytes=0-1,5-"}),
    "Content-Range and Content-Location": (
        head(b"Content-Range: bytes 0-1/2", b"Content-Location: /y", b"Referer: http://a/", start=b"PUT /m/x HTTP/1.1"), b"PUT", b"/m/x", b"",
        {b"content-range": b"bytes 0-1/2", b"content-location": b"/y", b"referer": b"http://a/"}),
    "a Via of somebody before us": (head(b"Via: 1.0 fred, 1.1 p.example (Apache)"), b"GET", b"/m/x", b"", {b"via": b"1.0 fred, 1.1 p.example (Apache), 1.1 gateway"}),
}  # fmt: skip


def seen(upstream: RawUpstream) -> Clean:
    """The last request that the model server received, read as a strict server would."""
    connection = max((each for each in upstream.connections if each.requests), key=lambda each: each.requests[-1].at)
    return parse(connection.received)[-1]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_request_that_is_right_is_forwarded_as_what_it_is(
    client: Wire, upstream: RawUpstream, name: str
) -> None:
    raw, method, target, body, fields = ODD[name]
    client.send(raw)
    answer = client.read_response(method.decode())
    assert answer.status == 200, answer
    request = seen(upstream)
    assert (request.method, request.target, request.body) == (method, target, body)
    forwarded = dict(request.fields)
    assert {field: forwarded.get(field) for field in fields} == fields
    gone = {
        b"connection",
        b"upgrade",
        b"http2-settings",
        b"x-gone",
        b"x-a" if b"x-c" in fields else b"",
        b"te",
        b"expect",
    }
    assert not gone & forwarded.keys()
    assert (b"max-forwards" in forwarded) == (b"max-forwards" in fields), "none is made up"
    if b"HTTP/1.0" not in raw:
        client.send(head())
        assert client.read_response().status == 200, "the connection goes on behind it"


def test_there_are_enough_of_them() -> None:
    assert len(ODD) >= 40


@pytest.mark.parametrize("count", [500, 3000])
def test_hundreds_of_pipelined_requests_are_answered_each_with_its_own(client: Wire, count: int) -> None:
    post = b"POST /m/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
    bodies = [b"%d" % number for number in range(count)]
    client.send(b"".join(post % (len(body), body) for body in bodies))
    assert [client.read_response().body for _ in bodies] == bodies


def test_what_a_model_server_says_of_itself_is_not_touched_and_a_redirect_not_followed(client: Wire) -> None:
    client.send(head(start=b"GET /m/moved HTTP/1.1"))
    answer = client.read_response()
    assert (answer.status, answer.get("location")) == (302, "http://inside/x")
    assert (answer.get("allow"), answer.get("vary")) == ("GET, X-ODD", "*")
    assert answer.get("www-authenticate") == 'Basic realm="a", Digest realm="b"'
    assert answer.all("set-cookie") == ["a=1", "b=2"]
    assert answer.get("x-odd") == "caf\xe9"


def test_an_answer_without_a_date_gets_one_and_none_tells_the_server(client: Wire) -> None:
    client.send(head() + b"GET /nowhere HTTP/1.1" + HOST + b"\r\n" + b"broken\r\n\r\n")
    for status in (200, 404, 400):
        answer = client.read_response()
        assert (answer.status, answer.get("server")) == (status, None)
        assert answer.get("date")


def test_each_request_of_a_connection_is_authenticated_on_its_own(gateway: Gateway, client: Wire) -> None:
    credential = b"Authorization: Bearer " + gateway.key.encode()
    for fields, status in (((credential,), 200), ((), 401), ((credential,), 200)):
        client.send(head(*fields, start=b"GET /locked/x HTTP/1.1"))
        assert client.read_response().status == status


@pytest.mark.parametrize(
    "target",
    [
        b"http:///m/x",
        b"https:///m/x",
        b"http://u:p@a/m/x",
        b"http://a@/m/x",
        b"ftp://a/m/x",
        b"http://:/m/x",
        b"http://:80/m/x",
    ],
)
def test_a_target_without_a_host_or_with_credentials_is_refused(client: Wire, target: bytes) -> None:
    client.send(b"GET " + target + b" HTTP/1.1" + HOST + b"\r\n")
    assert client.read_response().status == 400
    assert client.wait_closed(2.0)


def test_a_request_that_goes_in_a_circle_is_stopped(client: Wire) -> None:
    client.send(head(b"Via: 1.1 gateway, 1.1 gateway"))
    assert client.read_response().status == 200, "two gateways in a row are none"
    client.send(head(b"Via: " + b", ".join([b"1.1 gateway"] * 12)))
    answer = client.read_response()
    assert (answer.status, b"loop_detected" in answer.body) == (508, True)
