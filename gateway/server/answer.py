"""One request and its answer on a client connection: the ASGI `receive` and `send` of `protocol.py`.

The answer's framing is decided here and nowhere else (RFC 9112, 6): by the length an app gives, by chunks, or, to
HTTP/1.0, by closing.
"""

import asyncio
import http
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, cast

from gateway.clock import monotonic
from gateway.core.body import Receiver
from gateway.core.deadlines import NEVER
from gateway.core.headers import Lines, get, is_broken
from gateway.errors import ClientLeft, GatewayError
from gateway.model import Exchange, Header

if TYPE_CHECKING:
    from gateway.server.protocol import EdgeProtocol

_log = logging.getLogger("gateway.server")

_BODY_BOUND: Final = 256 * 1024  # bytes of a request's body held before reading pauses: one read of the transport
_WRITE_BOUND: Final = 64 * 1024  # bytes framed and encrypted before the client has to take some
_JOIN_BOUND: Final = 32 * 1024  # bytes; a larger body is cheaper to write on its own than to copy behind its head
_STATUS_LINES: Final = {
    **{code: b"HTTP/1.1 %d " % code for code in range(100, 600)},
    **{s.value: f"HTTP/1.1 {s.value} {s.phrase}".encode() for s in http.HTTPStatus},
}
_BODILESS: Final = frozenset((204, 304))
_OURS: Final = frozenset((b"transfer-encoding", b"connection", b"keep-alive"))  # of the fields that an app may give
_NOTABLE: Final = _OURS | {b"content-length", b"date"}
_LINES: Final = Lines()
_SIZES: Final = [b"%x\r\n" % size for size in range(4096)]  # of chunks; to say one costs 700 instructions
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Done:
    """A coroutine that has ended: what awaits it goes on at once. One for all, since there is nothing in it."""

    def __await__(self) -> Generator[None, None, None]:
        return _NOTHING

    def send(self, value: None) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        pass


_NOTHING: Final = cast("Generator[None, None, None]", iter(()))
_DONE: Final = _Done()
Coroutine.register(_Done)  # so that a task can be made of it


class Answer(Receiver):
    """One exchange as the server sees it, and its ASGI `receive`."""

    __slots__ = (
        "chunks", "exchange", "expects", "failure", "head", "is_body_done", "is_chunked", "is_done", "is_empty",
        "is_end_told", "is_kept", "is_started", "protocol", "remaining", "scope", "size", "task", "waiter",
    )  # fmt: skip

    def __init__(self, protocol: "EdgeProtocol", scope: dict[str, Any]) -> None:
        self.protocol = protocol
        self.scope = scope
        self.exchange: Exchange = scope["exchange"]
        self.chunks: list[bytes] = []  # of the request's body, not yet received by the app
        self.size = 0
        self.is_body_done = False
        self.is_end_told = False
        self.expects = False  # the client waits for 100 Continue
        self.is_kept = True  # the connection may serve another request
        self.failure: GatewayError | None = None  # why the request's body will not be completed
        self.waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.head: tuple[int, list[Header]] | None = None  # given by the app, not yet written
        self.is_started = False  # bytes of the answer were written
        self.is_done = False
        self.is_chunked = False
        self.is_empty = False
        self.remaining = -1  # bytes that Content-Length still promises; -1: no promise

    async def run(self, app: Any) -> None:
        """Run the app for this request, and make sure that its answer ends, cleanly or visibly broken."""
        try:
            await app(self.scope, self, self.send)
        except Exception:  # a task's border: the app's own rescue has answered or logged what it could
            if not self.exchange.departed and not self.is_started:
                _log.exception("a request failed outside the layers")
        except (KeyboardInterrupt, SystemExit):  # costs this request only: the process belongs to its signals
            _log.error("the app tried to end the process")
        finally:  # cancelled, too: by a plugin that lets a cancellation of its own escape
            if self.is_done:
                self.protocol.answered(self, is_reusable=self.is_kept and self.is_body_done)
            else:
                if not self.protocol.transport.is_closing():
                    self._break_off()
                self.protocol.answer = None
            if self.exchange.error is not None:
                _let_go(self.exchange.error)

    def _break_off(self) -> None:
        """End the connection so that nobody takes the answer for complete. Where nothing but its end tells that it is,
        by a reset: an end of TLS without close_notify is a clean one to clients that ignore unexpected ends."""
        transport = self.protocol.transport
        if self.is_started and not self.is_chunked and self.remaining < 0:
            _reset_at_end(transport)
        transport.abort()

    # --- fed by the protocol ---

    def feed(self, body: bytes) -> None:
        self.chunks.append(body)
        self.size += len(body)
        self.exchange.bytes_in += len(body)
        protocol = self.protocol
        is_full = self.size > _BODY_BOUND
        if is_full:
            protocol.transport.pause_reading()
        if protocol.answer is self and not protocol.taker.is_paused:
            # While it is full, it is the upstream that is slow.
            protocol.deadline = NEVER if is_full else monotonic() + protocol.limits.body_idle
        self._wake()

    def feed_eof(self) -> None:
        self.is_body_done = True
        if self.protocol.answer is self and not self.protocol.taker.is_paused:
            self.protocol.deadline = NEVER
        self._wake()

    @property
    def is_body_due(self) -> bool:
        """It is the client that owes some of the request's body, not we who do not read it."""
        return not self.is_body_done and self.size <= _BODY_BOUND

    def fail(self, failure: GatewayError) -> None:
        """The request's body is broken or late: whoever waits for it is told, the connection will close."""
        self.failure = failure
        self.is_kept = False
        if self.is_started and self.exchange.on_leave is not None:
            self.exchange.leave()
        self._wake()

    def lost(self) -> None:
        """The client's connection is gone."""
        exchange = self.exchange
        if not self.is_done:
            if exchange.on_leave is None and self.waiter is None and self.task is not None:
                self.task.cancel()  # no call upstream to end, nobody to tell: a layer waits for something of its own
            exchange.leave()
        self._wake()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    # --- called by the app ---

    def take(self) -> bytes | None:
        is_here = self.is_body_done and not self.is_end_told and self.size <= _BODY_BOUND
        if not is_here or self.failure is not None or self.exchange.departed:
            return None
        return self._take_chunks()

    async def __call__(self) -> dict[str, Any]:
        """ASGI `receive`: the next part of the request's body, or the news that the client left."""
        protocol = self.protocol
        if self.expects:
            self.expects = False
            if not self.is_body_done and not self.is_started and not protocol.closing:
                protocol.transport.write(_CONTINUE)
                protocol.deadline = monotonic() + protocol.limits.body_idle
        while not self.chunks:
            if self.failure is not None:
                raise self.failure
            if self.exchange.departed or self.is_done:
                return {"type": "http.disconnect"}
            if self.is_body_done and not self.is_end_told:
                self.is_end_told = True
                return {"type": "http.request", "body": b"", "more_body": False}
            self.waiter = protocol.loop.create_future()
            await self.waiter
        if self.size > _BODY_BOUND:
            protocol.transport.resume_reading()
            if not self.is_body_done and not protocol.taker.is_paused:
                protocol.deadline = monotonic() + protocol.limits.body_idle
        return {"type": "http.request", "body": self._take_chunks(), "more_body": not self.is_body_done}

    def _take_chunks(self) -> bytes:
        body = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks = []
        self.size = 0
        self.is_end_told = self.is_body_done
        return body

    def send(self, message: dict[str, Any]) -> Awaitable[None]:
        """ASGI: the answer. Raises ClientLeft when nobody is there to take it. Most that is sent is taken at once, and
        then there is no coroutine to make."""
        if self.exchange.departed:
            raise ClientLeft
        kind = message["type"]
        if kind == "http.response.body":
            body: bytes = message.get("body", b"")
            is_last = not message.get("more_body", False)
            if len(body) > _WRITE_BOUND:
                return self._send_parts(body, is_last=is_last)
            self._write(body, len(body) if is_last else -1, is_last=is_last)
            if self.protocol.taker.is_paused:
                return self._wait_for_room()
        elif kind == "http.response.start":
            if self.is_started:  # until then, an error may take the place of a head that nothing followed
                raise RuntimeError("an answer starts once")
            self.head = (message["status"], list(message.get("headers", ())))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        return _DONE

    async def _send_parts(self, body: bytes, *, is_last: bool) -> None:
        length = len(body) if is_last else -1
        for start in range(0, len(body), _WRITE_BOUND):
            part = body[start : start + _WRITE_BOUND]
            self._write(part, length, is_last=is_last and start + len(part) == len(body))
            if self.protocol.taker.is_paused:
                await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        await self.protocol.taker.drain()
        if self.exchange.departed:
            raise ClientLeft

    def _write(self, body: bytes, length: int, *, is_last: bool) -> None:
        """`length` is that of the whole body where it is known, else -1."""
        if self.is_done:
            raise RuntimeError("the answer is complete already")
        parts: list[bytes] = []
        if self.head is not None:
            status, headers = self.head
            self.head = None
            parts.append(self._compose(status, headers, length))
            self.is_started = True
            self.exchange.status = status
            self.exchange.first_byte = monotonic()
        elif not self.is_started:
            raise RuntimeError("an answer's body came before its start")
        if body and not self.is_empty:
            self._frame(body, parts)
        if is_last:
            if self.remaining > 0 and not self.is_empty:
                raise RuntimeError("the answer's body is shorter than its Content-Length")
            if self.is_chunked:
                parts.append(b"0\r\n\r\n")
            self.is_done = True
        self._put(parts)

    def _frame(self, body: bytes, parts: list[bytes]) -> None:
        self.exchange.bytes_out += len(body)
        if self.is_chunked:
            size = len(body)
            parts += (_SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size, body, b"\r\n")
            return
        if self.remaining >= 0:
            self.remaining -= len(body)
            if self.remaining < 0:
                raise RuntimeError("the answer's body is longer than its Content-Length")
        parts.append(body)

    def _put(self, parts: list[bytes]) -> None:
        transport = self.protocol.transport
        if len(parts) == 1:
            transport.write(parts[0])
        elif len(parts) == 2 and len(parts[1]) > _JOIN_BOUND:
            transport.write(parts[0])
            transport.write(parts[1])
        elif parts:
            transport.write(b"".join(parts))

    def _compose(self, status: int, headers: list[Header], length: int) -> bytes:
        """Head of the answer. `length` is the body's, -1 while it is not known."""
        declared: bytes | None = None
        is_dated = is_odd = False
        for name, value in headers:
            if name in _NOTABLE:
                if name == b"date":
                    is_dated = True
                elif name == b"content-length" and declared is None:
                    declared = value
                else:
                    is_odd = True
        if is_odd:
            headers = _cleaned(headers)
            declared = get(headers, b"content-length")
        if not is_dated:
            headers += self.protocol.state.default_headers
        self.is_empty = status in _BODILESS or self.scope["method"] == "HEAD"
        if status == 204 and declared is not None:  # RFC 9110, 8.6
            headers = [header for header in headers if header[0] != b"content-length"]
        fields = _LINES.pieces(headers)
        if is_broken(fields):  # by a plugin or an upstream
            raise RuntimeError("a header field of the answer contains a control character")
        ending = self._frame_as(declared, length)  # last: an error may yet take the place of a head that cannot be
        return b"".join([_STATUS_LINES[status], *fields, *ending, b"\r\n\r\n"])

    def _frame_as(self, declared: bytes | None, length: int) -> list[bytes]:
        """Decide how the body ends and whether the connection is kept; -> the lines that say so."""
        ending = []
        is_old = self.scope["http_version"] == "1.0"
        if self.is_empty:
            pass
        elif declared is not None:
            self.remaining = _length(declared)
        elif length >= 0:
            self.remaining = length
            ending.append(b"\r\ncontent-length: %d" % length)
        elif is_old:
            self.is_kept = False
        else:
            self.is_chunked = True
            ending.append(b"\r\ntransfer-encoding: chunked")
        if not self.is_body_done or self.failure is not None:
            self.is_kept = False
        if not self.is_kept:
            ending.append(b"\r\nconnection: close")
        elif is_old:
            ending.append(b"\r\nconnection: keep-alive")
        return ending

    def __repr__(self) -> str:
        return f"<Answer {self.scope['method']} done={self.is_done} started={self.is_started} body={self.size}>"


def _let_go(error: BaseException | None) -> None:
    """Take from an error, and what led to it, the frames that it went through: they hold buffers of megabytes, and the
    exchange, which holds the error. Cycles are collected too seldom for that: see `garbage.settle`."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _reset_at_end(transport: asyncio.Transport) -> None:
    """Have the kernel close the connection by RST (socket(7), SO_LINGER of 0)."""
    opened = transport.get_extra_info("socket")
    if opened is not None:
        with socket.socket(fileno=os.dup(opened.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _cleaned(headers: list[Header]) -> list[Header]:
    """Without the fields that are ours to set, and with one Content-Length at most."""
    kept = [header for header in headers if header[0] not in _OURS]
    lengths = {value for name, value in kept if name == b"content-length"}
    if len(lengths) > 1:
        raise RuntimeError("the answer has several lengths")
    for length in lengths:
        kept = [header for header in kept if header[0] != b"content-length"]
        kept.append((b"content-length", length))
    return kept


def _length(value: bytes) -> int:
    if not value.isdigit() and not value.strip(b" \t").isdigit():
        raise RuntimeError("the answer's Content-Length is not a number")
    return int(value)
