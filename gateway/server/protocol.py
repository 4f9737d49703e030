"""The server's side of a client connection: HTTP/1.1 on httptools, one ASGI task per request.

uvicorn stays the server (sockets, TLS, lifecycle) and takes this class by its `http=` option. What it brings that
uvicorn's own lacks: deadlines for a silent or dripping client, limits on head and target, a visibly broken stream
where an answer cannot be completed, and the news that a client left, at once.

Rules of this module:
- One `Answer` is current; requests that arrive behind it (pipelining) wait. When a few do, nothing more is read, and
  what was read already is not looked at: no more of them wait than one piece of a read can hold.
- A head that cannot be accepted becomes a scope with `refusal` in it and travels through the same app, so that it is
  answered, logged and counted like any other; the connection closes behind it.
- An answer that ends early is never ended cleanly: the transport is aborted.
- What comes of a head is kept in `head.py`, how a body comes in `upload.py`, how an answer is taken in `taker.py`: they
  say what is too much or too slow, and this module acts on it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.clock import monotonic
from gateway.core.deadlines import NEVER, Deadlines
from gateway.errors import BadRequest, BodyTimeout, GatewayError, HeadersTooLarge
from gateway.model import Exchange
from gateway.server.answer import Answer
from gateway.server.bounds import Bounds
from gateway.server.head import SLICE, Head
from gateway.server.lead import CLEAN, Lead
from gateway.server.scope import outermost, scope_of
from gateway.server.taker import LINGER, Taker
from gateway.server.target import prepare
from gateway.server.upload import Upload

_PIPELINE_PAUSE: Final = 8  # requests that wait before reading pauses; while it does, nobody sees a client leave
_FAREWELL: Final = 1.0  # seconds that an idle connection is kept when the server stops
_CR: Final = ord("\r")


class EdgeConfig(Config):
    """uvicorn's configuration and what our protocol needs beside it."""

    limits: Bounds
    deadlines: Deadlines


class EdgeProtocol(asyncio.Protocol):
    """One connection. The attributes are what `Answer` reads and what a debugger wants to see."""

    __slots__ = (
        "announced", "answer", "app", "begun", "client", "closing", "deadline", "deadlines", "entry", "head", "held",
        "is_chunked", "is_ending", "lead", "leave", "limits", "loop", "parser", "pipeline", "scope", "state", "taker",
        "transport", "upload",
    )  # fmt: skip

    def __init__(self, config: EdgeConfig, server_state: ServerState, app_state: Any, _loop: Any = None) -> None:
        self.app = config.loaded_app
        self.entry = outermost(self.app)
        self.limits = config.limits
        self.deadlines = config.deadlines
        self.loop: asyncio.AbstractEventLoop = _loop or asyncio.get_running_loop()
        self.state = server_state
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.announced: tuple[str, int] | None = None  # the client, if a trusted proxy has said who it is
        self.leave: Callable[[], None] | None = None  # gives the connection's place back
        self.parser = httptools.HttpRequestParser(self)
        self.answer: Answer | None = None
        self.pipeline: deque[Answer] = deque()
        self.held = b""  # what was read, and is looked at when fewer requests wait
        self.deadline = NEVER
        self.closing = False  # whatever comes is not read any more
        self.is_ending = False
        self.is_chunked = False  # the body under way is
        self.begun = 0  # requests
        self.lead = Lead()
        self.head = Head(config.limits)
        self.upload = Upload(config.limits)
        self.taker = Taker(config.limits)
        self.scope: dict[str, Any] = {}  # what every request's begins as

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.state.connections.add(cast(Any, self))
        self.deadlines.watched.add(self)
        self.deadline = monotonic() + self.limits.headers_timeout
        self.transport.set_write_buffer_limits(self.limits.write_bytes)  # uvloop has 512 KiB under TLS
        self.scope = scope_of(self.app, transport, self.announced)
        self.client: tuple[str, int] = self.scope["client"]

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(cast(Any, self))
        self.deadlines.watched.discard(self)
        if self.leave is not None:
            self.leave()
        # The parser holds us, and the collector of cycles comes seldom: what a head and TLS hold goes now.
        self.parser = cast(Any, None)
        self.head.clear()
        self.closing = True
        self.held = b""
        self.resume_writing()
        self.pipeline.clear()
        if self.answer is not None:
            self.answer.lost()

    def eof_received(self) -> None:
        """A half-closed connection counts as closed: over TLS it cannot be told apart. What was written may be on its
        way still."""
        self.closing = True
        self.deadline = self.taker.linger(LINGER)

    def data_received(self, data: bytes) -> None:
        if self.closing or not data:
            return
        if self.held:
            self.held += data
            return
        head = self.head
        if head.is_done:
            return self._body_received(data)
        if len(data) > SLICE:
            return self._received_much(data)
        head.feed(len(data))
        if head.is_first and self.answer is None:
            self.deadline = monotonic() + self.limits.headers_timeout
        lead = self.lead
        lead.since = -1
        if not head.is_begun:
            lead.tail = b""
            if data[0] <= _CR or lead.state != CLEAN:
                data = self._past_lead(data)
        rest = self._feed(data) if data else b""
        if rest:
            self.data_received(rest)
        elif data and not head.is_done and not self.closing:
            self._look_at_end(data)

    def _look_at_end(self, data: bytes) -> None:
        if self.head.fed and self.head.outgrows(data):
            self._refuse(HeadersTooLarge())
        if self.head.is_begun:
            self.lead.keep(data)
        else:
            self.lead.look_behind(data, self._latest().exchange.bytes_in, is_chunked=self.is_chunked)

    def _past_lead(self, data: bytes) -> bytes:
        rest = self.lead.past(data)
        if self.head.fed > self.limits.header_bytes:
            self._refuse(HeadersTooLarge())
        elif rest and self.lead.state != CLEAN:
            self.head.clear()
            self._refuse(_odd_lead())
        return b"" if self.closing else rest

    def _received_much(self, data: bytes) -> None:
        """Piece by piece, so that no limit is passed by far; a body of known length has none to pass."""
        at = 0
        while at < len(data):
            if len(self.pipeline) >= _PIPELINE_PAUSE:
                self.held = data[at:]
                return
            end = at + (SLICE if self.is_chunked or not self.head.is_done else self._missing())
            self.data_received(data[at:end])
            at = end

    def _missing(self) -> int:
        """Bytes of the body under way, whose length is known."""
        exchange = self._latest().exchange
        return max(int(exchange.fields.get(b"content-length", b"0")) - exchange.bytes_in, 1)

    def _read_on(self) -> None:
        """Fewer requests wait."""
        held, self.held = self.held, b""
        if held:
            self.data_received(held)
        if not self.held and len(self.pipeline) < _PIPELINE_PAUSE:
            self.transport.resume_reading()

    def _body_received(self, data: bytes) -> None:
        if len(data) > SLICE and (self.is_chunked or len(data) > self._missing()):
            return self._received_much(data)
        latest = self._latest()
        before = latest.exchange.bytes_in
        self.lead.since = before
        rest = self._feed(data)
        if latest.is_body_done:
            self.upload.end()
            if rest:
                self.data_received(rest)
            elif not self.head.is_done:
                self._look_at_end(data)
        elif self.upload.outgrows(len(data), latest.exchange.bytes_in - before):
            self._refuse(HeadersTooLarge("The request's chunk extensions are too large."))
        elif self.deadline > self.upload.due:
            self._check_pace(latest)

    def _check_pace(self, latest: Answer) -> None:
        if self.deadline == NEVER or latest is not self.answer:
            self.upload.restart()
        elif not self.upload.keeps_pace(monotonic(), latest.exchange.bytes_in):
            self.closing = True
            latest.fail(BodyTimeout("The request's body comes too slowly."))

    def _feed(self, data: bytes) -> bytes:
        """-> what is left of it: the parser stops behind an upgrade."""
        self.lead.read = data
        self.lead.first = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            why = error.__context__  # what a callback raised
            if not isinstance(why, GatewayError):
                why = BadRequest(f"The request is not valid HTTP/1.1: {error}.")
            self._refuse(why)
        self.lead.read = b""
        return b""

    def pause_writing(self) -> None:
        self.deadline = self.taker.pause(self.transport)

    def resume_writing(self) -> None:
        self.taker.resume()
        if self.answer is not None and not self.taker.is_lingering:
            self.deadline = monotonic() + self.limits.body_idle if self.answer.is_body_due else NEVER

    def on_deadline(self, now: float) -> None:
        if self.taker.is_lingering or self.taker.is_paused:
            self.deadline = self.taker.judge(self.transport, now)
        elif self.answer is not None and not self.answer.is_body_done:
            self.closing = True
            self.answer.fail(BodyTimeout())
        elif self.answer is None and not self.head.is_done and self.head.fed:
            self._refuse(BodyTimeout("The request's header section did not arrive in time."))
        elif self.answer is None:
            self._close(linger=0.0)  # it is idle: nothing of an answer can be lost

    # --- the parser's side ---

    def on_message_begin(self) -> None:
        if self.head.fed == 0:  # another one came in the same read
            body = self._latest().exchange.bytes_in
            if not self.lead.may_begin(body, is_chunked=self.is_chunked):
                self.head.clear()
                raise _odd_lead()
        self.head.clear()
        self.head.is_begun = True

    def on_url(self, url: bytes) -> None:
        self.head.add_target(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head.is_done:
            self.head.add_trailer(name, value)
        else:
            self.head.add(name, value)

    def on_headers_complete(self) -> None:
        head, parser = self.head, self.parser
        head.is_done = True
        head.check_fields(is_alone=self.answer is None)
        method = head.method(parser)
        version = head.version(parser, method, self.lead.read)
        scope = self._scope(method, version)
        answer = Answer(self, scope)
        self.begun += 1
        answer.is_kept = (
            not self.is_ending
            and self.begun < self.limits.requests
            and (parser.should_keep_alive() or parser.should_upgrade())
        )
        fields = answer.exchange.fields = head.fields
        self.is_chunked = b"transfer-encoding" in fields
        if b"expect" in fields:
            answer.expects = version == "1.1" and fields[b"expect"].lower() == b"100-continue"
        try:
            prepare(scope, fields)
        except GatewayError as refusal:
            scope["refusal"] = refusal
            answer.is_kept = False
        self._enqueue(answer)

    def on_body(self, body: bytes) -> None:
        self._latest().feed(body)

    def on_message_complete(self) -> None:
        self._latest().feed_eof()
        self.head.end()

    # --- for Answer ---

    def answered(self, answer: Answer, *, is_reusable: bool) -> None:
        """The app has sent all of an answer: go on with the next request, wait for one, or close."""
        self.state.total_requests += 1
        self.answer = None
        if is_reusable and self.pipeline and not self.taker.is_lingering:
            self._start(self.pipeline.popleft())
            if len(self.pipeline) < _PIPELINE_PAUSE:
                self._read_on()
        elif self.closing or not is_reusable:
            self._close()
        else:
            self.deadline = monotonic() + self.limits.keep_alive
            self.transport.resume_reading()

    @property
    def is_idle(self) -> bool:
        """It waits for another request, and nothing of one is there."""
        return self.answer is None and self.begun > 0 and self.head.fed == 0 and not self.closing

    @property
    def is_stalled(self) -> bool:
        """It has sent some of a head, and no answer is under way."""
        return self.answer is None and self.head.fed > 0 and not self.head.is_done and not self.closing

    def retire(self) -> None:
        """Close it, idle as it is, to make room."""
        self._close(linger=0.0)

    def shutdown(self) -> None:
        """uvicorn's call when the server stops: a busy connection closes after its answers. An idle one gets the time
        for one more request, which may be on its way, and closes behind its answer."""
        self.is_ending = True
        if self.answer is None:
            self.deadline = min(self.deadline, monotonic() + _FAREWELL)
        else:
            self._latest().is_kept = False

    # --- inside ---

    def _scope(self, method: str, version: str) -> dict[str, Any]:
        exchange = Exchange("", monotonic(), self.client[0])
        exchange.wire_counts = True
        scope = self.scope.copy()  # half of what it takes to write one out
        scope["http_version"] = version
        scope["method"] = method
        scope["raw_path"] = self.head.target
        scope["headers"] = self.head.headers
        scope["exchange"] = exchange
        return scope

    def _latest(self) -> Answer:
        return self.pipeline[-1] if self.pipeline else cast(Answer, self.answer)

    def _enqueue(self, answer: Answer) -> None:
        if self.answer is None:
            self._start(answer)
        else:
            self.pipeline.append(answer)
            if len(self.pipeline) >= _PIPELINE_PAUSE:
                self.transport.pause_reading()

    def _start(self, answer: Answer) -> None:
        self.answer = answer
        if answer.is_body_done or answer.expects:  # who waits for 100 Continue waits for us
            self.deadline = NEVER
        else:
            self.deadline = monotonic() + self.limits.body_idle
            self.upload.restart()
        # No set of tasks and no callback to leave it: what a task waits for holds it, and a server that stops waits
        # for connections.
        # A name that tells tasks apart would have to be made for each.
        answer.task = asyncio.Task(answer.run(self.entry), loop=self.loop, name="request")

    def _refuse(self, refusal: GatewayError) -> None:
        """Answer what cannot be parsed once, behind what is under way, and read no more."""
        self.closing = True
        latest = self._latest() if self.answer is not None else None
        if latest is not None and not latest.is_body_done:
            latest.fail(refusal)
            return
        scope = self._scope(self.head.method(self.parser), "1.1")
        scope["refusal"] = refusal
        answer = Answer(self, scope)
        answer.is_kept = False
        answer.is_body_done = True
        if self.answer is None:
            self._start(answer)
        else:
            self.pipeline.append(answer)

    def _after_upgrade(self, rest: bytes) -> bytes:
        """Upgrade is ignored, as RFC 9110, 7.8 allows: the request is an ordinary one. llhttp stops at its head, so a
        body or a CONNECT, which it would not have framed, is refused rather than guessed at."""
        self.lead.read = b""
        answer = self._latest()
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.head.headers)
        if answer.scope["method"] == "CONNECT" or has_body:
            answer.is_kept = False
            answer.scope["refusal"] = BadRequest("This gateway offers no such upgrade or tunnel.")
        return rest if answer.is_kept else b""

    def _close(self, *, linger: float = LINGER) -> None:
        """Close our side behind what was written, and take no notice of what comes until the client closes its own:
        a connection closed on unread bytes is reset, and with it goes an answer that was not read yet (RFC 9112, 9.6).
        A TLS transport does so by itself."""
        self.closing = True
        self.head.clear()
        transport = self.transport
        if transport.is_closing():
            return
        self.deadline = self.taker.linger(linger)
        transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def __repr__(self) -> str:
        return f"<EdgeProtocol {self.client} answer={self.answer!r} queued={len(self.pipeline)} closing={self.closing}>"


def _odd_lead() -> BadRequest:
    return BadRequest("Nothing but empty lines that end with CR LF may stand in front of a request.")
