"""The time that a client gives a request: `x-request-timeout`, seconds or with a unit, and gRPC's `grpc-timeout`.

What goes on upstream is what is left of it, in the notation that it came in, so that a model server stops when its
answer would come too late. A field that cannot be read is refused: its client would wait for longer than it said.
"""

import re
from collections.abc import Mapping
from math import inf

from gateway.errors import BadRequest
from gateway.model import Header

OURS, GRPC = b"x-request-timeout", b"grpc-timeout"
_NAMES = frozenset((OURS, GRPC))
_OURS = re.compile(rb"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h)?")
_GRPC = re.compile(rb"(\d{1,8})([HMSmun])")  # gRPC over HTTP/2, "Timeout"
_SECONDS = {
    b"s": 1.0, b"m": 60.0, b"h": 3600.0,
    b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"u": 1e-6, b"n": 1e-9,
}  # fmt: skip


def given(fields: Mapping[bytes, bytes]) -> float:
    """Seconds that the client gives the request, the shorter of two; inf if it says nothing. Raises BadRequest."""
    return min((_read(name, fields[name]) for name in (OURS, GRPC) if name in fields), default=inf)


def reduced(headers: list[Header], left: float) -> list[Header]:
    """The fields with what is `left` in place of what the client gave, never nothing: 0 has no meaning to some."""
    kept = [header for header in headers if header[0] not in _NAMES]
    kept += [(name, _write(name, value, max(left, 0.001))) for name, value in dict(headers).items() if name in _NAMES]
    return kept


def _read(name: bytes, value: bytes) -> float:
    match = (_GRPC if name == GRPC else _OURS).fullmatch(value.strip())
    if match is None:
        example = "a number and one of H, M, S, m, u, n" if name == GRPC else "seconds, or 500ms, 5s, 2m, 1h"
        raise BadRequest(f"{name.decode()} is not a time: {example}.")
    number, unit = match.groups()
    if unit == (b"m" if name == GRPC else b"ms"):
        return float(number) / 1000  # the nearest double to what is written, as multiplying by 0.001 is not
    return float(number) * _SECONDS[unit or b"s"]


def _write(name: bytes, value: bytes, left: float) -> bytes:
    if name == GRPC:
        millis = int(left * 1000)
        return b"%dm" % millis if millis < 10**8 else b"%dS" % int(left)
    if value.strip()[-1:].isdigit():
        return b"%d.%03d" % divmod(int(left * 1000), 1000)
    return b"%dms" % int(left * 1000)
