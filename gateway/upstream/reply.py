"""An upstream's answer as it is parsed: httptools callbacks in, parts to forward out.

Rules of this module: interim answers (1xx) are dropped, and count as bytes of the head; the framing must be one that
RFC 9112, 6.3 knows; trailers are dropped; bytes after the end make the connection useless but not the answer.
"""

from typing import Final

import httptools

from gateway.core.headers import get_all, lower_case
from gateway.errors import UpstreamInvalid
from gateway.model import Header

# Bytes of an answer's header section, as for requests, and of all 1xx answers before it: a server may say 102 for hours
# while it works (RFC 9110, 15.2 sets no bound), but a flood of them is an attack.
_HEAD_BOUND: Final = 64 * 1024
_FIELD_BOUND: Final = 256
# Bytes behind the head, in a row, that hold nothing of a body: of a trailer, an extension.
_BARREN_BOUND: Final = 64 * 1024
_START: Final = b"HTTP/1."


class Reply:
    """One answer. A connection feeds it; `Forward` reads it."""

    __slots__ = (
        "barren", "bytes_seen", "chunks", "error", "fields", "headers", "is_complete", "is_head",
        "is_head_done", "is_interim", "is_kept", "is_odd", "is_surplus", "is_until_close", "parser", "size", "status",
        "trailers",
    )  # fmt: skip

    def __init__(self, *, is_head: bool) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.begin(is_head=is_head)

    def begin(self, *, is_head: bool) -> None:
        """Make ready for the answer to a new request; `is_head`: the request's method is HEAD (no body comes)."""
        self.is_head = is_head
        self.status = 0
        self.headers: list[Header] = []
        self.fields: dict[bytes, bytes] = {}  # the same by name
        self.chunks: list[bytes] = []
        self.size = 0  # bytes in chunks
        self.bytes_seen = 0  # of the head
        self.barren = 0
        self.trailers = 0
        self.is_head_done = False
        self.is_interim = False
        self.is_odd = False  # its version has to be looked at
        self.is_complete = False
        self.is_kept = False
        self.is_until_close = False
        self.is_surplus = False
        self.error: str | None = None

    def feed(self, data: bytes) -> None:
        """Raises UpstreamInvalid. Bytes behind a complete answer only set `is_surplus`."""
        if self.is_complete:
            self.is_surplus = True
            return
        if not self.is_head_done:
            if self.bytes_seen == 0 and not data.startswith(_START):
                self.is_odd = True
                if data.lstrip(b"\r\n")[:1] not in b"H":  # llhttp takes RTSP/1.0 and ICE/1.0 for HTTP/1.0
                    raise UpstreamInvalid
            self.bytes_seen += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise UpstreamInvalid("The model server switched protocols unasked.") from None
        except httptools.HttpParserError as error:
            self._on_error(error)
        if not self.is_head_done:
            if self.bytes_seen > _HEAD_BOUND:
                raise UpstreamInvalid("The model server's header section is too large.")
        elif not self.chunks and not self.is_complete:
            self._count_barren(len(data))

    def _count_barren(self, count: int) -> None:
        """llhttp keeps nothing of a chunk extension, but all of a trailer field until it ends."""
        self.barren += count
        if self.barren > _BARREN_BOUND:
            raise UpstreamInvalid("The model server's trailer section is too large.")

    def _on_error(self, error: httptools.HttpParserError) -> None:
        if not self.is_complete:
            raise UpstreamInvalid(self.error) from error
        self.is_surplus = True

    def feed_eof(self) -> bool:
        """The connection ended. True if that is how this answer was to end."""
        if self.is_until_close and self.is_head_done and not self.is_complete:
            self.is_complete = True
            self.is_kept = False
        return self.is_complete

    def take(self) -> bytes:
        """What has arrived of the body since the last call."""
        chunks = self.chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.chunks = []
        self.size = 0
        self.barren = 0
        return body

    # --- httptools ---

    def on_message_begin(self) -> None:
        if self.is_complete:
            self.is_surplus = True
            raise UpstreamInvalid

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_head_done:
            name = lower_case(name)
            self.headers.append((name, value))
            self.fields[name] = value
            return
        self.trailers += 1  # dropped (RFC 9110, 6.5.1), but not for ever
        if self.trailers > _FIELD_BOUND:
            self._stop("The model server's trailer section is too large.")

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if self.is_odd and self.parser.get_http_version() not in ("1.1", "1.0"):
            self._stop("The model server speaks another version of HTTP.")
        if status < 200:
            self._on_interim(status)
            return
        if status > 599:
            self._stop("The model server's status is not one of HTTP.")
        if len(self.headers) > _FIELD_BOUND:
            self._stop("The model server's header section is too large.")
        if self.bytes_seen > _HEAD_BOUND and sum(len(n) + len(v) + 4 for n, v in self.headers) > _HEAD_BOUND:
            self._stop("The model server's header section is too large.")
        self.status = status
        self.is_kept = self.parser.should_keep_alive()
        self._check_framing()
        self.is_head_done = True
        if self.is_head:
            self.is_complete = True

    def on_body(self, body: bytes) -> None:
        if self.is_head:  # RFC 9112, 6.3: no body follows, whatever the fields say
            self.is_surplus = True
            return
        self.chunks.append(body)
        self.size += len(body)

    def on_message_complete(self) -> None:
        if self.is_interim:
            self.is_interim = False
            self.headers = []
            self.fields = {}
            return
        self.is_complete = True

    def _on_interim(self, status: int) -> None:
        self.is_odd = True
        if status == 101:
            self._stop("The model server switched protocols unasked.")
        if status < 100:
            self._stop("The model server's status is not one of HTTP.")
        self.is_interim = True

    def _check_framing(self) -> None:
        headers, fields = self.headers, self.fields
        has_length = b"content-length" in fields
        has_coding = b"transfer-encoding" in fields
        if has_coding:
            codings = get_all(headers, b"transfer-encoding")
            if has_length or not self._is_chunked_only(codings):
                self._stop("The model server's answer has no framing that can be trusted.")
        elif has_length and len(fields) != len(headers) and len(get_all(headers, b"content-length")) > 1:
            self._stop("The model server's answer has more than one length.")
        self.is_until_close = not (has_length or has_coding or self.is_head or self.status in (204, 304))

    def _is_chunked_only(self, codings: list[bytes]) -> bool:
        """RFC 9112, 6.1: HTTP/1.0 has no transfer codings. To the letter: llhttp does not see it with a tab behind."""
        return [coding.lower() for coding in codings] == [b"chunked"] and self.parser.get_http_version() == "1.1"

    def _stop(self, message: str) -> None:
        self.error = message
        raise UpstreamInvalid(message)

    def __repr__(self) -> str:
        return f"<Reply {self.status or '-'} complete={self.is_complete} waiting={self.size} kept={self.is_kept}>"
