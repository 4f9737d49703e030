"""The head of a request as the parser finds it, piece by piece, and how large it may become.

Rules of this module:
- While it comes, bytes count as they were read, whatever the parser makes of them: neither it nor a line of it may grow
  for ever. Once it is complete, its fields count as they are.
- Trailers are counted and dropped (RFC 9110, 6.5.1).
- What may not be is raised. Inside a parser's callback that makes the parser give up, with an error whose
  `__context__` says why.
"""

from typing import Any, Final

from gateway.core.headers import lower_case
from gateway.errors import BadRequest, HeadersTooLarge, TargetTooLong
from gateway.model import Header
from gateway.server.bounds import Bounds

SLICE: Final = 4096  # bytes of a large read, looked at at once: what may hide from the limits in the first and last
_SPACE: Final = ord(" ")
_TAB: Final = ord("\t")
# llhttp takes these behind RTSP/1.0 and ICE/1.0, and calls that version 1.0; the others it knows are HTTP's.
_OTHER_PROTOCOLS: Final = frozenset(
    ("ANNOUNCE", "DESCRIBE", "FLUSH", "GET_PARAMETER", "PAUSE", "PLAY", "RECORD", "REDIRECT", "SETUP", "SET_PARAMETER",
     "SOURCE", "TEARDOWN")
)  # fmt: skip


class _Methods(dict[bytes, str]):
    """Text of a method; llhttp knows some fifty, so that this does not grow without bound."""

    def __missing__(self, method: bytes) -> str:
        text = self[method] = method.decode("ascii")
        return text


_METHODS: Final = _Methods()


class Head:
    """Of the request under way on one connection, or of the one that is yet to come."""

    __slots__ = (
        "fed", "fields", "headers", "is_begun", "is_done", "is_first", "limits", "line", "target", "trailers",
    )  # fmt: skip

    def __init__(self, limits: Bounds) -> None:
        self.limits = limits
        self.is_begun = False  # the request is, with its first byte
        self.is_done = False  # what comes is the body
        self.is_first = False  # it begins with the read that is being parsed
        self.fed = 0  # bytes read of it
        self.line = 0  # bytes of a line of it that has not ended
        self.clear()

    def clear(self) -> None:
        """Let go of what was found."""
        self.target = b""
        self.trailers = 0  # bytes
        self.headers: list[Header] = []
        self.fields: dict[bytes, bytes] = {}  # the same by name; the last one of several

    def feed(self, size: int) -> None:
        """A read of that size is of it."""
        self.is_first = self.fed == 0
        self.fed += size

    def outgrows(self, data: bytes) -> bool:
        """Its bounds, with that read, behind which it is not complete."""
        limits = self.limits
        end = data.rfind(b"\n")
        self.line = len(data) - end - 1 if end >= 0 else self.line + len(data)
        longest = max(limits.header_line_bytes, limits.target_bytes + SLICE)  # it may be the first one
        return self.fed > limits.header_bytes + limits.target_bytes or self.line > longest

    def end(self) -> None:
        """The request is complete: what comes is another one."""
        self.is_begun = self.is_done = False
        self.fed = 0
        self.line = 0

    # --- what the parser finds ---

    def add_target(self, part: bytes) -> None:
        self.target += part
        if len(self.target) > self.limits.target_bytes:
            raise TargetTooLong

    def add(self, name: bytes, value: bytes) -> None:
        name = lower_case(name)
        if value and (value[-1] == _SPACE or value[-1] == _TAB):
            value = value.rstrip(b" \t")  # RFC 9110, 5.5: it is no part of the value, and llhttp leaves it there
        self.headers.append((name, value))
        self.fields[name] = value

    def add_trailer(self, name: bytes, value: bytes) -> None:
        self.trailers += len(name) + len(value) + 4
        if self.trailers > self.limits.trailer_bytes:
            raise HeadersTooLarge("The request's trailer section is too large.")

    def check_fields(self, *, is_alone: bool) -> None:
        """Raises HeadersTooLarge where they are over the limits. Where all that came is under the bound, so are they;
        but what came with an earlier request was not counted (not `is_alone`)."""
        limits, headers = self.limits, self.headers
        if len(headers) > limits.header_count:
            raise HeadersTooLarge
        if self.fed > limits.header_line_bytes or self.fed > limits.header_bytes or not is_alone:
            sizes = [len(name) + len(value) + 4 for name, value in headers]
            if sum(sizes) > limits.header_bytes or max(sizes, default=0) > limits.header_line_bytes:
                raise HeadersTooLarge

    def method(self, parser: Any) -> str:
        """A dash where it is not known that there is one."""
        return _METHODS[parser.get_method()] if self.target else "-"

    def version(self, parser: Any, method: str, read: bytes) -> str:
        """`read` is what is being parsed. Raises BadRequest where it is neither 1.1 nor 1.0."""
        # To ask the parser takes 2,000 instructions.
        version = "1.1" if self._is_seen_as_1_1(method, read) else parser.get_http_version()
        if version != "1.1" and (version != "1.0" or method in _OTHER_PROTOCOLS):
            raise BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        return version

    def _is_seen_as_1_1(self, method: str, read: bytes) -> bool:
        """Whether the request line is seen to end in HTTP/1.1, which is possible where a read begins with it."""
        at = len(method) + len(self.target) + 2
        is_seen = self.is_first and read[at : at + 9] == b"HTTP/1.1\r"
        self.is_first = False
        return is_seen
