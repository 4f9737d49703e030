from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import UpstreamInvalid
from gateway.upstream.reply import Reply

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "length": (OK + b"Content-Length: 5\r\nX-A: 1\r\n\r\nhello", b"hello"),
    "chunks": (OK + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", b""),
    "behind hours of interim answers": (
        b"HTTP/1.1 102 Processing\r\n\r\n" * 1000 + OK + b"Content-Length: 0\r\n\r\n",
        b"",
    ),
    "behind interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
        b"hello",
    ),
}


def fed(data: bytes, *, is_head: bool = False, cuts: Sequence[int] = (), reply: Reply | None = None) -> Reply:
    """A reply that got these bytes, cut at these places."""
    reply = reply or Reply(is_head=is_head)
    for start, end in pairwise([0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]):
        if start != end:
            reply.feed(data[start:end])
    return reply


@given(st.sampled_from(sorted(WHOLE)), st.lists(st.integers(0, 300), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(name: str, cuts: list[int]) -> None:
    data, body = WHOLE[name]
    reply = fed(data, cuts=cuts)
    assert (reply.is_complete, reply.take(), reply.is_kept, reply.is_surplus) == (True, body, True, False)
    assert (b"link", b"x") not in reply.headers, "an interim answer's fields are its own"


@given(st.sampled_from(sorted(WHOLE)), st.sampled_from(sorted(WHOLE)))
def test_a_reply_serves_one_answer_after_another(first: str, second: str) -> None:
    reply = fed(WHOLE[first][0])
    reply.begin(is_head=False)
    data, body = WHOLE[second]
    fed(data, reply=reply)
    assert (reply.is_complete, reply.take()) == (True, body)


@given(st.binary(max_size=80), st.booleans())
@example(OK, False)
def test_whatever_comes_is_an_answer_in_the_making_or_refused(data: bytes, is_head: bool) -> None:
    try:
        reply = fed(data, is_head=is_head)
    except UpstreamInvalid:
        return
    assert not reply.is_complete or reply.status >= 200


def test_fields_are_kept_in_order_with_lower_case_names() -> None:
    reply = fed(OK + b"Set-Cookie: a\r\nX-B:  2\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n")
    assert reply.headers == [(b"set-cookie", b"a"), (b"x-b", b"2"), (b"set-cookie", b"b"), (b"content-length", b"0")]
    assert reply.status == 200


@pytest.mark.parametrize("fields", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_an_answer_to_head_ends_with_its_head(fields: bytes) -> None:
    reply = fed(OK + fields + b"\r\n", is_head=True)
    assert (reply.is_complete, reply.take(), reply.is_surplus) == (True, b"", False)


@pytest.mark.parametrize(
    ("data", "is_head"),
    [
        (WHOLE["length"][0] + b"x", False),
        (WHOLE["length"][0] + WHOLE["length"][0], False),
        (WHOLE["chunks"][0] + b"x", False),
        (WHOLE["no content"][0] + b"x", False),
        (WHOLE["not modified"][0] + b"hello", False),
        (WHOLE["length"][0], True),
    ],
)
@pytest.mark.parametrize("is_cut", [False, True])
def test_bytes_behind_an_answer_are_noticed_and_are_no_part_of_it(data: bytes, is_head: bool, is_cut: bool) -> None:
    cuts = range(len(data)) if is_cut else ()
    reply = fed(data, is_head=is_head, cuts=cuts)
    assert (reply.is_complete, reply.is_surplus) == (True, True)
    assert reply.take() in (b"hello", b"")


def test_an_answer_may_end_with_its_connection_if_it_says_nothing_else() -> None:
    reply = fed(OK + b"Connection: close\r\n\r\nhel")
    fed(b"lo", reply=reply)
    assert not reply.is_complete
    assert reply.feed_eof()
    assert (reply.take(), reply.is_kept) == (b"hello", False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        OK,
        OK + b"Content-Length: 5\r\n\r\nhell",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)
def test_an_end_in_the_middle_is_no_end(data: bytes) -> None:
    reply = fed(data)
    assert not reply.feed_eof()
    assert not reply.is_complete


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 X\r\n\r\nHTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 600 X\r\n\r\n",
        b"HTTP/1.1 101 X\r\n\r\n",
        b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        OK + b"Content-Length: 5, 5\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\t\r\n\r\n",
        OK + b"Transfer-Encoding: chunked;x\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"X: a\rb\r\n\r\n",
        OK + b"X: a\x00b\r\n\r\n",
        OK + b"X: 1\r\n folded\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        b"HTTP/1.1 100 X\r\n\r\n" * 4000,
        OK + b"X: " + b"a" * 66_000 + b"\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: " + b"a" * 66_000,
        OK + b"X: 1\r\n" * 300 + b"\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 300,
    ],
)
def test_what_rfc_9112_does_not_know_is_refused(data: bytes) -> None:
    with pytest.raises(UpstreamInvalid):
        fed(data)


@pytest.mark.parametrize("framing", [b"0\r\nX: ", b"0\r\nX", b"1;x="])
def test_what_is_no_body_and_never_ends_is_refused_before_it_is_large(framing: bytes) -> None:
    reply = fed(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nZ\r\n" + framing)
    reply.take()
    with pytest.raises(UpstreamInvalid):
        for _ in range(100):
            fed(b"a" * 1000, reply=reply)


def test_framing_that_comes_apart_from_its_chunks_is_no_trailer() -> None:
    reply = fed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(20_000):
        fed(b"00001\r\n", reply=reply)
        fed(b"Z\r\n", reply=reply)
        assert reply.take() == b"Z"


def test_a_version_that_comes_in_pieces_is_looked_at() -> None:
    assert fed(OK + b"Content-Length: 0\r\n\r\n", cuts=range(1, 20)).is_complete
    with pytest.raises(UpstreamInvalid):
        fed(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", cuts=range(1, 20))


def test_a_large_body_in_one_read_with_its_head_is_no_large_head() -> None:
    reply = fed(OK + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000)
    assert (reply.is_complete, len(reply.take())) == (True, 200_000)


def test_what_waits_is_counted_and_taken_once() -> None:
    reply = fed(OK + b"Content-Length: 6\r\n\r\nabc")
    fed(b"d", reply=reply)
    assert reply.size == 4
    assert (reply.take(), reply.take(), reply.size) == (b"abcd", b"", 0)
