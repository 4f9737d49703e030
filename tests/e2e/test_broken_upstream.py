"""Model servers that break every rule: the client is told, never deceived, and nobody else notices."""

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.e2e.harness import Gateway, material, served, until
from tests.e2e.harness_upstream import (
    Connection,
    RawUpstream,
    Script,
    answering,
    closing_after_request,
    hanging,
    refused_port,
    resetting,
    resetting_after_request,
    response,
    saying,
    saying_once,
)
from tests.e2e.harness_wire import RawMessage, Truncated, Wire

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"


def stalling(connection: Connection) -> None:
    connection.read_request()
    connection.send(CHUNKED + b"5\r\nhello\r\n")
    connection.hang()


def dripping(connection: Connection) -> None:
    """A byte now and then, without end."""
    connection.read_request()
    connection.send(CHUNKED)
    while True:
        connection.send_chunk(b".")
        time.sleep(0.1)


def resetting_in_mid_body(connection: Connection) -> None:
    connection.read_request()
    connection.send(CHUNKED + b"5\r\nhello\r\n")
    time.sleep(0.1)
    connection.reset()


def talking_out_of_turn(connection: Connection) -> None:
    """Answers, and a moment later sends an answer nobody asked for."""
    while True:
        connection.read_request()
        connection.send(response(b"asked"))
        time.sleep(0.05)
        connection.send(EVIL)


def head_in_drips(connection: Connection) -> None:
    connection.read_request()
    connection.send(OK)
    while True:
        connection.send(b"X: " + b"a" * 8000 + b"\r\n")


def trailers_without_end(connection: Connection) -> None:
    connection.read_request()
    connection.send(CHUNKED + b"5\r\nhello\r\n0\r\nX: ")
    time.sleep(0.1)
    while True:
        connection.send(b"a" * 65536)
        time.sleep(0.001)


# The same over TLS, where an end can be told from a cut (RFC 9112, 9.8).
UNENDING = OK + b"\r\nhello"


def ending_tls(connection: Connection) -> None:
    connection.read_request()
    connection.send(UNENDING)
    with suppress(OSError):  # the gateway does not wait for ours
        connection.sock.unwrap()  # type: ignore[attr-defined]


def resetting_without_a_length(connection: Connection) -> None:
    connection.read_request()
    connection.send(UNENDING)
    time.sleep(0.1)
    connection.reset()


def speaking_plainly(connection: Connection) -> None:
    connection.sock.recv(10)
    connection.send(EVIL)


def leaving_in_the_handshake(connection: Connection) -> None:
    connection.sock.recv(10)


# What is answered to the client where not a byte of a good answer came.
REFUSED: dict[str, tuple[Script, int, str]] = {
    "resets when it was asked": (resetting_after_request, 502, "upstream_closed"),
    "closes without an answer": (closing_after_request, 502, "upstream_closed"),
    "closes in mid head": (saying_once(OK + b"content-le"), 502, "upstream_closed"),
    "says nothing": (hanging, 504, "upstream_timeout"),
    "speaks no HTTP": (saying(b"220 smtp.example ESMTP\r\n"), 502, "upstream_invalid_response"),
    "speaks HTTP/0.9": (saying_once(b"<html>hello</html>"), 502, "upstream_invalid_response"),
    "speaks HTTP/2.0": (
        saying(b"HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok"), 502, "upstream_invalid_response",
    ),
    "speaks RTSP": (saying_once(b"RTSP/1.0 200 OK\r\n\r\nhello"), 502, "upstream_invalid_response"),
    "speaks ICE": (saying_once(b"ICE/1.0 200 OK\r\n\r\nhello"), 502, "upstream_invalid_response"),
    "has a status of no kind": (saying_once(b"HTTP/1.1 999 X\r\n\r\n"), 502, "upstream_invalid_response"),
    "has a status that is no number": (saying(b"HTTP/1.1 2x0 X\r\n\r\n"), 502, "upstream_invalid_response"),
    "has two lengths": (
        saying(OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nokk"), 502, "upstream_invalid_response",
    ),
    "has a negative length": (saying(OK + b"content-length: -2\r\n\r\nok"), 502, "upstream_invalid_response"),
    "has a length and chunks": (
        saying(OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), 502,
        "upstream_invalid_response",
    ),
    "has an unknown coding": (
        saying_once(OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 502, "upstream_invalid_response",
    ),
    "has chunks in HTTP/1.0": (
        saying_once(b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), 502,
        "upstream_invalid_response",
    ),
    "has a bad chunk at once": (saying_once(CHUNKED + b"x\r\nhello\r\n"), 502, "upstream_invalid_response"),
    "has NUL in a field": (saying(OK + b"x: a\0b\r\ncontent-length: 0\r\n\r\n"), 502, "upstream_invalid_response"),
    "has CR in a field": (saying(OK + b"x: a\rb\r\ncontent-length: 0\r\n\r\n"), 502, "upstream_invalid_response"),
    "has LF in a field": (saying(OK + b"x: a\nb\r\ncontent-length: 0\r\n\r\n"), 502, "upstream_invalid_response"),
    "has a field without a colon": (saying(OK + b"foo\r\ncontent-length: 0\r\n\r\n"), 502, "upstream_invalid_response"),
    "switches protocols": (
        saying(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"), 502,
        "upstream_invalid_response",
    ),
    "never gets beyond interim answers": (
        saying(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3000), 502, "upstream_invalid_response",
    ),
    "has a huge field": (
        saying(OK + b"x: " + b"a" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n"), 502, "upstream_invalid_response",
    ),
    "has too many fields": (
        saying(OK + b"x: 1\r\n" * 300 + b"content-length: 0\r\n\r\n"), 502, "upstream_invalid_response",
    ),
    "has a head without end": (head_in_drips, 502, "upstream_invalid_response"),
}  # fmt: skip

# What breaks off when a part of the answer has gone to the client.
BROKEN: dict[str, tuple[Script, bytes]] = {
    "resets in mid body": (resetting_in_mid_body, b"hello"),
    "closes before its length": (saying_once(OK + b"content-length: 10\r\n\r\nhello"), b"hello"),
    "closes between chunks": (saying_once(CHUNKED + b"5\r\nhello\r\n"), b"hello"),
    "closes in a chunk": (saying_once(CHUNKED + b"9\r\nhello"), b"hello"),
    "goes silent": (stalling, b"hello"),
    "drips beyond the total": (dripping, b".."),
    "sends trailers without end": (trailers_without_end, b"hello"),
    "sends a trailer without end": (saying_once(CHUNKED + b"5\r\nhello\r\n0\r\nx: " + b"a" * 300_000), b"hello"),
    "resets without a length": (resetting_without_a_length, b"hello"),
}

# What is more than an answer: the answer is good, the rest belongs to nobody.
SURPLUS: dict[str, tuple[Script, str, int, bytes]] = {
    "more than its length": (saying(OK + b"content-length: 5\r\n\r\nasked" + EVIL), "GET", 200, b"asked"),
    "more than its chunks": (saying(CHUNKED + b"5\r\nasked\r\n0\r\n\r\n" + EVIL), "GET", 200, b"asked"),
    "an answer unasked": (talking_out_of_turn, "GET", 200, b"asked"),
    "a body behind 204": (saying(b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL), "GET", 204, b""),
    "a body behind 304": (saying(b"HTTP/1.1 304 X\r\ncontent-length: 4\r\n\r\nevil"), "GET", 304, b""),
    "a body behind HEAD": (saying(OK + b"content-length: 4\r\n\r\nevil"), "HEAD", 200, b""),
    "a chunked body behind HEAD": (saying(CHUNKED + b"4\r\nevil\r\n0\r\n\r\n"), "HEAD", 200, b""),
}


def name_of(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower())


def tls_context() -> ssl.SSLContext:
    folder, _ = material()
    certificate = next((folder / "certs").glob("*.crt"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    scripts = {title: script for table in (REFUSED, BROKEN, SURPLUS) for title, (script, *_) in table.items()}
    timeouts = {"first_byte": "400ms", "idle": "400ms", "total": "1s"}
    with ExitStack() as stack:
        good = stack.enter_context(RawUpstream(answering(b"good")))
        gone = stack.enter_context(refused_port())
        models = {
            "good": served([good.url], auth=[]),
            "resets-at-once": served([stack.enter_context(RawUpstream(resetting)).url], auth=[]),
            "gone": served([f"http://127.0.0.1:{gone}"], auth=[]),
        }
        for title, script in scripts.items():
            url = stack.enter_context(RawUpstream(script)).url
            models[name_of(title)] = served([url], auth=[], timeouts=timeouts)
        for name, script, is_tls in (
            ("cut-tls", saying_once(UNENDING), True),
            ("ended-tls", ending_tls, True),
            ("half-a-handshake", leaving_in_the_handshake, False),
            ("plain-where-tls-belongs", speaking_plainly, False),
        ):
            upstream = stack.enter_context(RawUpstream(script, context=tls_context() if is_tls else None))
            url = upstream.url.replace("http://", "https://")
            models[name] = served([url], auth=[], timeouts=timeouts, upstream_tls={"insecure": True})
        with Gateway(models) as gateway:
            yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Wire]:
    with gateway.raw() as client:
        yield client


def ask(client: Wire, model: str, method: str = "GET") -> RawMessage:
    client.send(f"{method} /models/{model}/x HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return client.read_response(method)


def check_serves_on(client: Wire) -> None:
    assert ask(client, "good").body == b"good"


def log_line(gateway: Gateway, model: str) -> dict[str, object]:
    """The newest line of a model."""
    found = until(lambda: [line for line in gateway.access_log() if line["model"] == model], "a log line")
    return found[-1]


@pytest.mark.parametrize("title", REFUSED)
def test_without_a_good_answer_the_client_gets_an_error_of_the_gateway(
    gateway: Gateway, client: Wire, title: str
) -> None:
    _, status, code = REFUSED[title]
    answer = ask(client, name_of(title))
    assert (answer.status, answer.get("content-type")) == (status, "application/json")
    assert f'"code":"{code}"'.encode() in answer.body
    check_serves_on(client)
    line = log_line(gateway, name_of(title))
    assert (line["status"], line["error_owner"], line["error_code"]) == (status, "upstream", code)


def test_one_that_resets_before_it_is_asked_is_502(client: Wire) -> None:
    answer = ask(client, "resets-at-once")
    assert answer.status == 502
    assert re.search(rb'"code":"upstream_(closed|unreachable)"', answer.body), "before or after it counts as connected"
    check_serves_on(client)


def test_a_model_server_that_refuses_is_502(client: Wire) -> None:
    answer = ask(client, "gone")
    assert answer.status == 502
    assert b'"code":"upstream_unreachable"' in answer.body
    check_serves_on(client)


def test_silence_is_told_when_its_time_is_over(client: Wire) -> None:
    began = time.monotonic()
    assert ask(client, "says-nothing").status == 504
    assert 0.4 <= time.monotonic() - began < 1.5


@pytest.mark.parametrize("title", BROKEN)
def test_an_answer_that_breaks_off_is_seen_to_be_broken(gateway: Gateway, client: Wire, title: str) -> None:
    _, part = BROKEN[title]
    with pytest.raises(Truncated) as caught:
        ask(client, name_of(title))
    assert caught.value.partial is not None
    assert (caught.value.partial.status, caught.value.partial.body[: len(part)]) == (200, part)
    assert client.wait_closed(within=1.0)
    with gateway.raw() as other:
        check_serves_on(other)
    line = log_line(gateway, name_of(title))
    assert (line["status"], line["error_owner"]) == (200, "upstream")


def test_a_clean_end_of_tls_is_an_end_and_a_cut_is_seen(client: Wire) -> None:
    assert ask(client, "ended-tls").body == b"hello"
    with pytest.raises(Truncated):
        ask(client, "cut-tls")


@pytest.mark.parametrize("model", ["half-a-handshake", "plain-where-tls-belongs"])
def test_a_server_that_finds_no_tls_with_us_is_502_and_heard_of_nothing(client: Wire, model: str) -> None:
    answer = ask(client, model)
    assert answer.status == 502
    assert b"evil" not in answer.body
    assert re.search(rb'"code":"upstream_(untrusted|unreachable)"', answer.body)
    check_serves_on(client)


def test_an_old_client_sees_a_broken_answer_too(gateway: Gateway, client: Wire) -> None:
    """Without chunks, only an end that is no clean end of TLS tells it (RFC 9112, 9.8)."""
    client.send(b"GET /models/closes-between-chunks/x HTTP/1.0\r\n\r\n")
    client.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
    assert client.read_head().get("content-length") is None
    with pytest.raises(OSError, match=r"EOF|reset|closed"):
        while client.sock.recv(1000):
            pass


@pytest.mark.parametrize("title", SURPLUS)
def test_what_is_more_than_an_answer_reaches_nobody(gateway: Gateway, title: str) -> None:
    _, method, status, body = SURPLUS[title]
    for _ in range(3):
        with gateway.raw() as client:
            for _ in range(2):
                answer = ask(client, name_of(title), method)
                assert (answer.status, answer.body) == (status, body)
                time.sleep(0.07)
            check_serves_on(client)
            assert b"evil" not in client.received


def test_a_body_longer_than_its_length_says_is_cut_at_its_length(client: Wire) -> None:
    answer = ask(client, name_of("more than its length"))
    assert (answer.get("content-length"), answer.body) == ("5", b"asked")
    assert client.buffer == b""


def test_nothing_of_this_is_a_bug_of_the_gateway(gateway: Gateway, client: Wire) -> None:
    ask(client, name_of("has a bad chunk at once"))
    assert "Traceback" not in gateway.output
    assert {error["owner"] for error in gateway.status()["errors"]} == {"upstream"}
