"""What stands in front of a request line: nothing, or empty lines (RFC 9112, 2.2). llhttp skips any mixture of CR and
LF there, of which we take CR LF alone, as everywhere else: a bare CR or LF may be an empty line to one recipient and
part of the method to another.

The first bytes of a read are looked at as they come. A request behind another one in the same read (pipelining) is
found by llhttp, which does not say where: only then is the read searched.
"""

import re
import sys
from contextlib import suppress
from typing import Final

import httptools

CLEAN: Final = 0  # states of what stands in front of a request
AFTER_CR: Final = 1
ODD: Final = 2

_CR: Final = ord("\r")
_LF: Final = ord("\n")
# A bare CR or LF, and behind it what may be a request line, or the beginning of one that the read cuts.
_SUSPECT: Final = re.compile(
    rb"(?:\r(?!\n)|(?<=[^\r])\n)[\r\n]*[A-Z\-]+(?:\Z| [^ \r\n]*(?:\Z| +(?:HTTP/|[HTP]*\Z)))"
)  # fmt: skip


class Lead:
    """What stands in front of the requests of one connection. It is told of each read and of each request that begins;
    `body` is how many bytes of the latest body have come, which `is_chunked` or of known length."""

    __slots__ = ("first", "read", "since", "starts", "state", "tail")

    def __init__(self) -> None:
        self.state = CLEAN
        self.read = b""  # what is being parsed; b"" once a second request was found in it
        self.tail = b""  # the last bytes of the head of which it is more
        self.since = -1  # bytes of the body that had come before it; -1: it began within no body
        self.first: int | None = None  # where the first request ends of which it has bytes, once another one begins
        self.starts = 0  # requests that may begin behind that

    def past(self, data: bytes) -> bytes:
        """What is behind the empty lines that a read begins with: the parser would pass over other ones too."""
        rest = data.lstrip(b"\r\n")
        self.state = after(self.state, data[: len(data) - len(rest)])
        return rest

    def may_begin(self, body: int, *, is_chunked: bool) -> bool:
        """Whether another request may, in the read that is being parsed: nothing odd stands in front of it."""
        if self.read:
            self.first = self._end_of_first(self.read, body, is_chunked=is_chunked)
            self.starts = starts(self.read, self.first)
            self.read = b""
        self.starts -= 1
        return self.starts >= 0

    def keep(self, data: bytes) -> None:
        """The read was of a head that has not ended."""
        self.tail = (self.tail + data)[-3:]

    def look_behind(self, data: bytes, body: int, *, is_chunked: bool) -> None:
        """The read ended with a request: behind it there may be the beginning of an empty line."""
        if data[-1] <= _CR and not _ends_a_head(data):
            first = self.first
            self.state = behind(data, self._end_of_first(data, body, is_chunked=is_chunked) if first is None else first)

    def _end_of_first(self, data: bytes, body: int, *, is_chunked: bool) -> int:
        """0: it is not known, but the read began with a request; -1: nor did it."""
        if is_chunked:
            return 0 if not self.tail and self.since < 0 else -1
        if self.since >= 0:
            return body - self.since
        return (self.tail + data).find(b"\r\n\r\n") + 4 - len(self.tail) + body


def _ends_a_head(data: bytes) -> bool:
    """It ends with one empty line, as what has no body does."""
    size = len(data)
    return size > 4 and data[size - 4] == data[size - 2] == _CR and data[size - 3] == _LF and data[size - 5] > _CR


def after(state: int, ends: bytes) -> int:
    """The state in front of a request behind more of CR and LF."""
    for byte in ends:
        if byte == _CR and state == CLEAN:
            state = AFTER_CR
        elif byte == _LF and state == AFTER_CR:
            state = CLEAN
        else:
            return ODD
    return state


def starts(data: bytes, first: int) -> int:
    """How many requests may begin in a read behind the `first` one, which ends there, before odd bytes stand in front
    of one. Where that end is not known (-1), what looks like an odd request is one."""
    if first < 0:
        return 0 if _SUSPECT.search(data) else sys.maxsize
    rest = data[first:]
    if rest[0] > _CR and not _SUSPECT.search(rest):
        return sys.maxsize
    return _Walk(rest).begun - (first == 0)


def behind(data: bytes, first: int) -> int:
    """The state behind the last request of a read, of which the `first` one ends there."""
    if first < 0:
        ends = data[len(data.rstrip(b"\r\n")) :].removeprefix(b"\n")  # its CR may have come earlier
        return after(CLEAN, ends)
    return _Walk(data[first:]).state


class _Walk:
    """Goes through a read that begins with a request, as far as it can be parsed or until something odd stands in front
    of one. Byte by byte, since only so is it known where each request ends: seldom, and of one read."""

    def __init__(self, data: bytes) -> None:
        self.begun = 0
        self.state = CLEAN
        self._is_between = True
        parser = httptools.HttpRequestParser(self)
        try:
            for at in range(len(data)):
                byte = data[at : at + 1]
                if self._is_between and byte in b"\r\n":
                    self.state = after(self.state, byte)
                elif self._is_between and self.state != CLEAN:
                    return
                else:
                    with suppress(httptools.HttpParserUpgrade):  # which is ignored
                        parser.feed_data(byte)
        except httptools.HttpParserError:
            self.begun = sys.maxsize  # the parser of the connection finds it too, and nothing behind it

    def on_message_begin(self) -> None:
        self.begun += 1
        self._is_between = False

    def on_message_complete(self) -> None:
        self._is_between = True
