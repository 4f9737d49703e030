"""The harness itself, without a gateway between its two ends."""

import pytest

from tests.e2e.harness_upstream import (
    Connection,
    RawUpstream,
    answering,
    hanging,
    refused_port,
    resetting,
    saying,
    saying_once,
    streaming,
)
from tests.e2e.harness_wire import Truncated, connect

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


def test_an_upstream_records_what_it_receives_and_keeps_the_connection() -> None:
    with (
        RawUpstream(answering(b"hello", fields=[("X-A", "1"), ("X-A", "2")])) as up,
        connect("127.0.0.1", up.port) as c,
    ):
        for _ in range(2):
            c.send(GET)
            answer = c.read_response()
            assert (answer.status, answer.body, answer.all("x-a")) == (200, b"hello", ["1", "2"])
        assert up.connections[0].received == GET * 2
        assert [r.target for r in up.requests] == ["/x", "/x"]


def test_each_connection_gets_its_script_and_the_last_one_all_that_follow() -> None:
    with RawUpstream(resetting, answering(b"b")) as up:
        with connect("127.0.0.1", up.port) as first:
            assert first.wait_closed()
        for _ in range(2):
            with connect("127.0.0.1", up.port) as later:
                later.send(GET)
                assert later.read_response().body == b"b"


def test_a_stream_is_read_chunk_by_chunk_to_its_end() -> None:
    with RawUpstream(streaming([b"1", b"2"], every=0.01)) as up, connect("127.0.0.1", up.port) as c:
        c.send(GET)
        assert c.read_response().body == b"data: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize(
    ("sent", "partial"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n9\r\nde", b"abcde"),
    ],
)
def test_a_response_that_is_not_whole_is_reported_with_what_came_of_it(sent: bytes, partial: bytes) -> None:
    with RawUpstream(saying_once(sent)) as up, connect("127.0.0.1", up.port) as c:
        c.send(GET)
        with pytest.raises(Truncated) as caught:
            c.read_response()
        assert caught.value.partial is not None
        assert caught.value.partial.body == partial


def test_a_chunked_request_is_read_with_its_trailers() -> None:
    with RawUpstream(answering()) as up, connect("127.0.0.1", up.port) as c:
        c.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        c.send_chunk(b"abc")
        c.send(b"0\r\nX-T: 1\r\n\r\n")
        c.read_response()
        assert (up.requests[0].body, up.requests[0].trailers) == (b"abc", [(b"X-T", b"1")])


def test_an_upstream_that_hangs_notices_that_its_peer_leaves() -> None:
    with RawUpstream(hanging) as up:
        with connect("127.0.0.1", up.port) as c:
            c.send(GET)
            up.wait_connections(1)
        assert up.connections[0].ended.wait(5)


def test_an_upstream_can_refuse_and_come_back() -> None:
    with RawUpstream(saying(b"HTTP/1.1 204 X\r\n\r\n")) as up:
        up.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect("127.0.0.1", up.port)
        up.listen()
        with connect("127.0.0.1", up.port) as c:
            c.send(GET)
            assert c.read_response().status == 204


def test_a_refused_port_refuses() -> None:
    with refused_port() as port, pytest.raises(ConnectionRefusedError):
        connect("127.0.0.1", port)


def test_a_mistake_in_a_script_fails_its_test() -> None:
    def wrong(connection: Connection) -> None:
        connection.read_request()
        raise KeyError("mistake")

    with pytest.raises(KeyError, match="mistake"), RawUpstream(wrong) as up, connect("127.0.0.1", up.port) as c:
        c.send(GET)
        assert c.wait_closed()
