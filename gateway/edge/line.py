"""A line of the access log: its fields, and how they are written."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

# PIPE_BUF of Linux: up to this, a write to a pipe shared with other workers is not mixed with theirs (POSIX, write).
ATOMIC_BYTES = 4096
_SHORT = 32  # characters kept of each where escapes to six and twelve would make it longer
_OURS = ("time", "request_id", "client")


class Line(msgspec.Struct, gc=False):
    """The fields, always all of them, in this order. Times are milliseconds but for `time` (RFC 3339, UTC, the end of
    the exchange); sizes are bytes of bodies."""

    time: str
    request_id: str
    client: str
    principal: str
    principal_name: str
    method: str
    path: str  # without the query: keys and tokens travel there
    host: str
    model: str | None
    version: str | None
    endpoint: str | None
    attempts: int
    status: int
    bytes_in: int
    bytes_out: int
    first_byte_ms: float | None
    total_ms: float
    error_owner: str | None
    error_code: str | None
    queued_ms: float | None
    fallback_from: str | None
    user_agent: str


_encoder = msgspec.json.Encoder()


def render(lines: Sequence[Line]) -> bytes:
    """The lines' JSON, each with its LF: printable ASCII, and under ATOMIC_BYTES unless the configuration's own names
    are longer than any client's words may be."""
    try:
        text = _encoder.encode_lines(lines)
    except UnicodeEncodeError:  # half a surrogate pair, out of a token's claims
        text = _DELETE
    if text.isascii() and _DELETE not in text:
        return text
    if len(lines) > 1:  # so that one odd client does not make all lines dear
        return b"".join(render([line]) for line in lines)
    fields = msgspec.structs.asdict(lines[0])
    text = _dump(fields)
    if len(text) >= ATOMIC_BYTES:
        for name, value in fields.items():
            if isinstance(value, str) and name not in _OURS:
                fields[name] = value[:_SHORT]
        text = _dump(fields)
    return text + b"\n"


_DELETE = b"\x7f"


def _dump(fields: dict[str, Any]) -> bytes:
    """As msgspec does, but with whatever is not printable ASCII escaped."""
    return json.dumps(fields, separators=(",", ":")).encode("ascii")
