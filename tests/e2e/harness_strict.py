"""A judge of HTTP/1.1 requests that forgives nothing: what RFC 9110 and 9112 say a sender must send.

`parse` reads the bytes of a connection as a strict server would; a message that is not clean raises `Unclean`. What a
client may send and an intermediary need not pass on (chunk extensions, trailers, empty lines in front, an absolute or
odd target, whitespace behind a value, zeros in front of a length) is clean only where `may_extend`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PCHAR = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
_START = re.compile(rb"(" + _TOKEN + rb") (/(?:" + _PCHAR + rb"|/)*(?:\?(?:" + _PCHAR + rb"|[/?])*)?) HTTP/1\.1")
_ODD_START = re.compile(rb"(" + _TOKEN + rb") +([^\x00-\x20\x7f#]+) +HTTP/1\.[01]")
_FIELD = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::[0-9]+)?")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")  # 64 bits
_NOT_FORWARDED = {b"CONNECT", b"TRACE", b"PRI"}


class Unclean(AssertionError):
    """Bytes that a strict server refuses."""


@dataclass
class Clean:
    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    is_complete: bool


def parse(data: bytes, *, may_extend: bool = False) -> list[Clean]:
    """The requests of one connection; only the last may be incomplete. Raises Unclean."""
    found = []
    while data:
        while may_extend and data[:2] == b"\r\n" and data[2:]:
            data = data[2:]
        head, end, data = data.partition(b"\r\n\r\n")
        if not end:
            raise Unclean(f"a head without an end: {head!r}")
        start, *lines = head.split(b"\r\n")
        matched = (_ODD_START if may_extend else _START).fullmatch(start)
        if matched is None or matched[1] in _NOT_FORWARDED:
            raise Unclean(f"the start line {start!r}")
        fields = [_field(line.rstrip(b" \t") if may_extend else line) for line in lines]
        body, data, is_complete = _body(fields, data, may_extend)
        found.append(Clean(matched[1], matched[2], fields, body, is_complete))
    return found


def _field(line: bytes) -> tuple[bytes, bytes]:
    matched = _FIELD.fullmatch(line)
    if matched is None:
        raise Unclean(f"the field {line!r}")
    return matched[1].lower(), matched[2] or b""


def _body(fields: list[tuple[bytes, bytes]], data: bytes, may_extend: bool) -> tuple[bytes, bytes, bool]:
    """-> the body, what is behind it, whether it is complete."""
    hosts, lengths, codings = (
        [value for name, value in fields if name == wanted]
        for wanted in (b"host", b"content-length", b"transfer-encoding")
    )
    is_odd = may_extend and len(hosts) == 1 and (not hosts[0] or _HOST.fullmatch(hosts[0].removesuffix(b":")))
    if len(hosts) != 1 or not (_HOST.fullmatch(hosts[0]) or is_odd):
        raise Unclean(f"the hosts {hosts}")
    if codings:
        if lengths or codings != [b"chunked"]:
            raise Unclean(f"the framing {codings} {lengths}")
        return _chunks(data, may_extend)
    if not lengths:
        return b"", data, True
    if len(lengths) > 1 or not re.fullmatch(rb"0*[0-9]{1,18}" if may_extend else rb"0|[1-9][0-9]{0,17}", lengths[0]):
        raise Unclean(f"the lengths {lengths}")
    size = int(lengths[0])
    return data[:size], data[size:], len(data) >= size


def _chunks(data: bytes, may_extend: bool) -> tuple[bytes, bytes, bool]:
    body = b""
    while data:
        line, end, rest = data.partition(b"\r\n")
        digits = line.partition(b";")[0] if may_extend else line
        if not end or not _SIZE.fullmatch(digits):
            raise Unclean(f"the chunk size {line!r}")
        size = int(digits, 16)
        if size == 0:
            if rest[:2] == b"\r\n":
                return body, rest[2:], True
            trailers, end, rest = rest.partition(b"\r\n\r\n")
            if not may_extend or not end:
                raise Unclean(f"a trailer section: {trailers[:80]!r}")
            return body, rest, True
        if rest[size : size + 2] not in (b"\r\n", b""):
            raise Unclean("a chunk that is longer than it says")
        body += rest[:size]
        data = rest[size + 2 :]
    return body, b"", False


def smuggled(raw: bytes, forwarded: Sequence[Clean]) -> str:
    """ "" if the requests that were forwarded are those that the client sent, else what is not."""
    meant, is_whole = meant_by(raw)
    for index, request in enumerate(forwarded):
        if index >= len(meant) + (not is_whole):
            return f"smuggled: {request}"
        if index < len(meant) and not _is_of(request, meant[index]):
            return f"smuggled: {request} for {meant[index]}"
    return ""


def _is_of(request: Clean, meant: Clean) -> bool:
    """One that broke off may have less of the body: what is wrong behind that came before the rest was passed on."""
    is_body = request.body == meant.body or (not request.is_complete and meant.body.startswith(request.body))
    return request.method == meant.method and is_body


def meant_by(raw: bytes) -> tuple[list[Clean], bool]:
    """The requests that a client's bytes are, read strictly, and whether that is all that they are."""
    for end in range(len(raw), 0, -1):
        try:
            return parse(raw[:end], may_extend=True), end == len(raw)
        except Unclean:
            continue
    return [], False
