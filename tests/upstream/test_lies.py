"""Model servers that break every rule of HTTP/1.1, and what becomes of their answers.

Each kind lies on its first connection and tells the truth on the next. Whatever it says, the client gets a correct
answer, an error of the gateway, or an answer that is seen to be broken; the next request goes over another connection,
and gets nothing of what the lie left behind.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from gateway.errors import GatewayError, UpstreamError
from tests.upstream.forwarding import Answer, Bench, Peer, Server, run

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"
CLOSE, RESET, STAY = "close", "reset", "stay"

REFUSED, BROKEN = "refused", "broken"  # an error of the gateway; an answer that is seen to break off


class Lie(NamedTuple):
    said: bytes
    end: str = STAY  # what becomes of the connection then
    becomes: str | tuple[int, bytes] = REFUSED  # or the status and body of a correct answer
    method: str = "GET"


def field(line: bytes, body: bytes = b"hello") -> Lie:
    """An answer with one odd field, complete otherwise."""
    return Lie(OK + line + b"\r\n\r\n" + body)


LIES: dict[str, Lie] = {
    # --- lengths ---
    "two lengths": field(b"content-length: 5\r\ncontent-length: 6"),
    "two lengths that are equal": field(b"content-length: 5\r\ncontent-length: 5"),
    "a list of lengths": field(b"content-length: 5, 5"),
    "a list of lengths that differ": field(b"content-length: 5, 6"),
    "a length with a plus": field(b"content-length: +5"),
    "a negative length": field(b"content-length: -5"),
    "a hexadecimal length": field(b"content-length: 0x5"),
    "a length of nothing": field(b"content-length:"),
    "a length of two words": field(b"content-length: 5 5"),
    "a length with letters": field(b"content-length: 5x"),
    "a length with a point": field(b"content-length: 5.0"),
    "a length beyond all numbers": field(b"content-length: 99999999999999999999999999"),
    "a length that is never reached, and an end": Lie(OK + b"content-length: 9\r\n\r\nhell", CLOSE, BROKEN),
    "a length that is never reached, and a reset": Lie(OK + b"content-length: 9\r\n\r\nhell", RESET, BROKEN),
    "a length that is never reached, and silence": Lie(OK + b"content-length: 9\r\n\r\nhell", STAY, BROKEN),
    # --- codings ---
    "a length and chunks": field(b"content-length: 5\r\ntransfer-encoding: chunked", b"0\r\n\r\n"),
    "chunks and a length": field(b"transfer-encoding: chunked\r\ncontent-length: 5", b"0\r\n\r\n"),
    "a coding that nobody knows": field(b"transfer-encoding: gzip"),
    "a coding in front of chunks": field(b"transfer-encoding: gzip, chunked", b"0\r\n\r\n"),
    "chunks twice": field(b"transfer-encoding: chunked, chunked", b"0\r\n\r\n"),
    "chunks in two fields": field(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked", b"0\r\n\r\n"),
    "chunks that are not last": field(b"transfer-encoding: chunked, identity", b"0\r\n\r\n"),
    "no coding at all": field(b"transfer-encoding: identity"),
    "nearly chunks": field(b"transfer-encoding: xchunked", b"0\r\n\r\n"),
    "chunks with a parameter": field(b"transfer-encoding: chunked;q=1", b"0\r\n\r\n"),
    "chunks with a vertical tab": field(b"transfer-encoding: \x0bchunked", b"0\r\n\r\n"),
    "chunks on a line that goes on": field(b"transfer-encoding:\r\n chunked", b"0\r\n\r\n"),
    "chunks in HTTP/1.0": Lie(b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    # --- chunks ---
    "a chunk of no size": Lie(CHUNKED + b"\r\nhello\r\n0\r\n\r\n"),
    "a chunk of words": Lie(CHUNKED + b"five\r\nhello\r\n0\r\n\r\n"),
    "a chunk of a negative size": Lie(CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"),
    "a chunk with a prefix": Lie(CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n"),
    "a chunk beyond all numbers": Lie(CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    "a chunk longer than it says": Lie(CHUNKED + b"3\r\nhello\r\n0\r\n\r\n", STAY, BROKEN),
    "a chunk shorter than it says": Lie(CHUNKED + b"9\r\nhello\r\n0\r\n\r\n", CLOSE, BROKEN),
    "a chunk that ends in LF": Lie(CHUNKED + b"5\nhello\r\n0\r\n\r\n"),
    "a chunk with NUL in its extension": Lie(CHUNKED + b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
    "a bad chunk after a good one": Lie(CHUNKED + b"5\r\nhello\r\nx\r\n", STAY, BROKEN),
    "chunks without an end": Lie(CHUNKED + b"5\r\nhello\r\n", CLOSE, BROKEN),
    "chunks without an end, and a reset": Lie(CHUNKED + b"5\r\nhello\r\n", RESET, BROKEN),
    "chunks without the last line": Lie(CHUNKED + b"5\r\nhello\r\n0\r\n", CLOSE, BROKEN),
    "a trailer that is none": Lie(CHUNKED + b"5\r\nhello\r\n0\r\nfoo\r\n\r\n", STAY, BROKEN),
    # --- fields ---
    "NUL in a value": field(b"x: a\0b\r\ncontent-length: 5"),
    "a bell in a value": field(b"x: a\x07b\r\ncontent-length: 5"),
    "an escape in a value": field(b"x: \x1b[2J\r\ncontent-length: 5"),
    "DEL in a value": field(b"x: a\x7fb\r\ncontent-length: 5"),
    "CR in a value": field(b"x: a\rb\r\ncontent-length: 5"),
    "NUL in a name": field(b"x\0y: a\r\ncontent-length: 5"),
    "a space in a name": field(b"x y: a\r\ncontent-length: 5"),
    "a space behind a name": field(b"content-length : 5"),
    "a tab behind a name": field(b"content-length\t: 5"),
    "letters beyond ASCII in a name": field(b"x\xe4: a\r\ncontent-length: 5"),
    "a line that goes on": field(b"x: a\r\n b\r\ncontent-length: 5"),
    "a first line that goes on": field(b" x: a\r\ncontent-length: 5"),
    "a field without a colon": field(b"foo\r\ncontent-length: 5"),
    "a field without a name": field(b": a\r\ncontent-length: 5"),
    "a megabyte of a field": field(b"x: " + b"a" * 2**20 + b"\r\ncontent-length: 5"),
    "a thousand fields": field(b"x: a\r\n" * 1000 + b"content-length: 5"),
    # --- status lines ---
    "no HTTP": Lie(b"220 smtp.example ESMTP\r\n\r\n"),
    "HTTP/0.9": Lie(b"<html>hello</html>", CLOSE),
    "HTTP/2": Lie(b"HTTP/2 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "HTTP/3.1": Lie(b"HTTP/3.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "the preface of HTTP/2": Lie(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "frames of HTTP/2": Lie(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\0" * 18),
    "a request": Lie(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
    "an alert of TLS": Lie(b"\x15\x03\x01\x00\x02\x02\x28", CLOSE),
    "a radio station": Lie(b"ICY 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "a protocol in small letters": Lie(b"http/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "a status of two digits": Lie(b"HTTP/1.1 20 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "a status of four digits": Lie(b"HTTP/1.1 2000 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "a status of letters": Lie(b"HTTP/1.1 2xx OK\r\ncontent-length: 5\r\n\r\nhello"),
    "a status under 100": Lie(b"HTTP/1.1 099 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "a status over 599": Lie(b"HTTP/1.1 600 OK\r\ncontent-length: 5\r\n\r\nhello"),
    "a megabyte of a reason": Lie(b"HTTP/1.1 200 " + b"a" * 2**20 + b"\r\ncontent-length: 5\r\n\r\nhello"),
    "words in front of the answer": Lie(b"warning: x\r\n" + GOOD),
    # --- interim answers ---
    "a switch of protocols": Lie(b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nevil"),
    "a switch of protocols without its fields": Lie(b"HTTP/1.1 101 X\r\n\r\n" + GOOD),
    "a flood of interim answers": Lie(b"HTTP/1.1 103 X\r\n\r\n" * 5000),
    "an interim answer and no other": Lie(b"HTTP/1.1 102 X\r\n\r\n", CLOSE),
    "an interim answer and silence": Lie(b"HTTP/1.1 102 X\r\n\r\n"),
    "an interim answer with a length": Lie(
        b"HTTP/1.1 103 X\r\ncontent-length: 4\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello", CLOSE, (200, b"hello")
    ),
    "interim answers, then a good one": Lie(
        b"HTTP/1.1 100 X\r\n\r\nHTTP/1.1 103 X\r\nlink: </x>\r\n\r\n" + OK + b"content-length: 5\r\n\r\nhello",
        CLOSE,
        (200, b"hello"),
    ),
    # --- nothing ---
    "nothing, and an end": Lie(b"", CLOSE),
    "nothing, and a reset": Lie(b"", RESET),
    "nothing, and silence": Lie(b""),
    "an empty line, and an end": Lie(b"\r\n", CLOSE),
    "half a head, and an end": Lie(OK + b"content-len", CLOSE),
    "half a head, and a reset": Lie(OK + b"content-len", RESET),
    "half a head, and silence": Lie(OK + b"content-len"),
    # --- more than an answer ---
    "more than its length": Lie(OK + b"content-length: 5\r\n\r\nhello" + EVIL, STAY, (200, b"hello")),
    "more than its chunks": Lie(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + EVIL, STAY, (200, b"hello")),
    "a body behind 204": Lie(b"HTTP/1.1 204 X\r\ncontent-length: 4\r\n\r\nevil", STAY, (204, b"")),
    "chunks behind 204": Lie(
        b"HTTP/1.1 204 X\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", STAY, (204, b"")
    ),
    "a body behind 304": Lie(b"HTTP/1.1 304 X\r\ncontent-length: 4\r\n\r\nevil", STAY, (304, b"")),
    "an answer behind 304": Lie(b"HTTP/1.1 304 X\r\n\r\n" + EVIL, STAY, (304, b"")),
    "a body behind HEAD": Lie(OK + b"content-length: 4\r\n\r\nevil", STAY, (200, b""), "HEAD"),
    "chunks behind HEAD": Lie(CHUNKED + b"4\r\nevil\r\n0\r\n\r\n", STAY, (200, b""), "HEAD"),
    "a body of any length behind HEAD": Lie(OK + b"\r\nevil", CLOSE, (200, b""), "HEAD"),
    # --- answers that end with the connection ---
    "no length, and an end": Lie(OK + b"\r\nhello", CLOSE, (200, b"hello")),
    "no length, and a reset": Lie(OK + b"\r\nhello", RESET, BROKEN),
    "no length, and silence": Lie(OK + b"\r\nhello", STAY, BROKEN),
}  # fmt: skip

TIMES = {"first_byte": "300ms", "idle": "300ms"}


def lying(said: bytes, end: str) -> Peer:
    """The lie on the first connection, the truth on all others."""
    connections: list[asyncio.StreamWriter] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer not in connections:
            connections.append(writer)
        if connections[0] is not writer:
            writer.write(GOOD)
            return
        writer.write(said)
        if end == STAY:
            return
        await writer.drain()
        if end == RESET:
            sock = writer.get_extra_info("socket")
            await asyncio.sleep(0.02)  # what was said is read first: a reset may drop what is under way
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError

    return peer


@pytest.mark.parametrize("title", LIES)
def test_a_lie_is_an_error_or_seen_to_be_broken_and_reaches_nobody_else(title: str) -> None:
    lie = LIES[title]

    async def test(bench: Bench, server: Server) -> None:
        answer, error = Answer(), None
        try:
            await bench.ask(lie.method, answer=answer)
        except GatewayError as caught:
            error = caught
        assert b"evil" not in answer.body
        if isinstance(lie.becomes, tuple):
            assert (error, answer.status, answer.body, answer.is_complete) == (None, *lie.becomes, True)
        else:
            assert isinstance(error, UpstreamError)
            assert error.status in (502, 504)
            assert not answer.is_complete
            assert (answer.status == 0) is not (lie.becomes == BROKEN) or not answer.body
            check_says_nothing(error)
        for _ in range(2):
            next_one = await bench.ask()
            assert (next_one.status, next_one.body, next_one.is_complete) == (200, b"good", True)

    run(test, lying(lie.said, lie.end), timeouts=TIMES, retry={"attempts": 1})


def check_says_nothing(error: GatewayError) -> None:
    """Of the inside: no address, no path, nothing that the server said."""
    told = error.body("r-1")
    for secret in (b"127.0.0.1", b"Traceback", b"evil", b"hello", b".py", b"Errno"):
        assert secret not in told


def test_there_are_more_than_forty_kinds_of_them() -> None:
    assert len(LIES) >= 40
    assert len({lie[:4] for lie in LIES.values()}) == len(LIES)


# --- cut at every byte ---

WHOLE = {
    "a length": (OK + b"content-length: 5\r\n\r\nhello", b"hello"),
    "chunks": (CHUNKED + b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nx: y\r\n\r\n", b"hello"),
    "an interim answer": (b"HTTP/1.1 103 X\r\nlink: </x>\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", b""),
    "the end of the connection": (OK + b"x: y\r\n\r\nhello", b"hello"),
    "no body": (b"HTTP/1.1 204 X\r\nx: y\r\n\r\n", b""),
}


def cuts() -> Iterator[tuple[str, str]]:
    for title in WHOLE:
        yield from ((title, end) for end in (CLOSE, RESET))


@pytest.mark.parametrize(("title", "end"), list(cuts()))
def test_an_answer_that_is_cut_at_any_byte_never_looks_whole(title: str, end: str) -> None:
    data, body = WHOLE[title]
    is_open = title == "the end of the connection"

    async def one(bench: Bench, at: int) -> None:
        answer, error = Answer(), None
        try:
            await bench.ask(answer=answer)
        except GatewayError as caught:
            error = caught
        if error is not None:
            assert isinstance(error, UpstreamError)
            assert not answer.is_complete
            assert body.startswith(answer.body)
        elif is_open and end == CLOSE:  # that is how it ends, wherever it does
            assert data[at - len(answer.body) : at] == answer.body
            assert at >= data.index(b"\r\n\r\n") + 4
        else:
            assert at == len(data)
            assert answer.body == body

    for at in range(len(data) + 1):
        first = data[:at]

        async def test(bench: Bench, server: Server, at: int = at) -> None:
            await one(bench, at)
            assert (await bench.ask()).body == b"good"

        run(test, lying(first, end), timeouts=TIMES, retry={"attempts": 1})


@pytest.mark.parametrize("title", WHOLE)
def test_an_answer_that_comes_byte_by_byte_is_the_same_answer(title: str) -> None:
    data, body = WHOLE[title]

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)
        if title == "the end of the connection":
            raise ConnectionError

    async def test(bench: Bench, server: Server) -> None:
        for _ in range(2):
            answer = await bench.ask()
            assert (answer.body, answer.is_complete) == (body, True)

    run(test, dripping)


def test_an_empty_line_behind_an_answer_is_no_part_of_the_next() -> None:
    """Old servers send one; a parser skips it (RFC 9112, 2.2)."""

    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD + b"\r\n")

    async def test(bench: Bench, server: Server) -> None:
        for _ in range(3):
            assert (await bench.ask()).body == b"good"

    run(test, polite)


def test_a_reason_is_the_gateways_own() -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 O\0\x1bK\r\ncontent-length: 5\r\n\r\nhello")

    async def test(bench: Bench, server: Server) -> None:
        answer = await bench.ask()
        assert (answer.status, answer.body) == (200, b"hello")
        assert not any(b"\x1b" in name + value for name, value in answer.headers)

    run(test, odd)


# --- a stale connection ---


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_kept_connection_that_has_ended_is_nobodys_error(end: str) -> None:
    async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers, and is gone as the next request comes."""
        writer.write(GOOD)
        await writer.drain()
        await reader.read(1)
        if end == RESET:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError

    async def test(bench: Bench, server: Server) -> None:
        for _ in range(5):
            assert (await bench.ask("POST", body=b"hello")).body == b"good"

    run(test, leaving)


def test_what_comes_while_nobody_asks_answers_nobody() -> None:
    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GOOD)
        await writer.drain()
        await asyncio.sleep(0.03)
        writer.write(EVIL)

    async def test(bench: Bench, server: Server) -> None:
        for _ in range(3):
            assert (await bench.ask()).body == b"good"
            await asyncio.sleep(0.1)

    run(test, talking)


def test_a_server_that_answers_before_it_has_the_request_is_heard_and_left() -> None:
    """The rest of the body has nobody to go to: the connection serves nobody else."""

    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 5\r\n\r\nlarge")

    class Hasty(Server):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await hasty(reader, writer)
            await reader.read()
            writer.close()

    async def main() -> None:
        server = Hasty(hasty)
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        bench = Bench([server.url], {})
        for asked in (1, 2):
            answer = await bench.ask("POST", body=[b"a" * 10, b"b" * 10])
            assert (answer.status, answer.body) == (413, b"large")
            assert len(server.heads) == asked
        bench.close()
        listener.close()

    asyncio.run(asyncio.wait_for(main(), 20))
