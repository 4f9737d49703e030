"""What a fuzzer feeds: functions of bytes that raise where a promise is broken. See README.md."""

import re
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.core.client import Trust, client_ip, hops
from gateway.core.headers import compile_edit, nominated, serialise
from gateway.core.paths import encode_query, normalise
from gateway.core.session import Sessions
from gateway.errors import BadRequest, UpstreamInvalid
from gateway.server import announced
from gateway.upstream.reply import Reply
from tests.e2e.harness_strict import parse, smuggled
from tests.server.client_side import outcomes

_TRUST = Trust([ip_network("10.0.0.0/8")])
_BOOK = Sessions([b"0123456789abcdef" * 4]).of("m", {"v1": ["http://127.0.0.1:1"]})
_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+: [^\r\n\0]*\r\n")
_NORMAL = re.compile(rb"/[!$&'()*+,\-0-9:;=@A-Z_a-z~/.%]*")


def _cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """All but the first byte, whole and in pieces of as many bytes as the first says."""
    size = max(1, data[0] if data else 1)
    raw = data[1:]
    return raw, [raw[at : at + size] for at in range(0, len(raw), size)]


def requests(data: bytes) -> None:
    raw, pieces = _cut(data)
    whole, cut = outcomes([[raw], pieces])
    assert (whole.forwarded, whole.statuses, whole.is_closed) == (cut.forwarded, cut.statuses, cut.is_closed)
    assert not whole.loop_errors
    found = [request for one in whole.forwarded for request in parse(one)]
    assert len(found) == len(whole.forwarded)
    assert smuggled(raw, found) == ""


def replies(data: bytes) -> None:
    raw, pieces = _cut(data)
    whole, cut = _answer([raw]), _answer(pieces)
    assert whole == cut or None in (whole, cut) or not (whole[3] and cut[3])


def _answer(pieces: list[bytes]) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool] | None:
    """Status, fields, body, and whether it is complete; None: refused."""
    reply = Reply(is_head=False)
    body = b""
    try:
        for piece in pieces:
            reply.feed(piece)
            body += reply.take()
            if reply.is_complete:
                break
    except UpstreamInvalid:
        return None
    return reply.status, reply.headers, body, reply.is_complete


def announcements(data: bytes) -> None:
    try:
        found = announced.parse(data)
    except ValueError:
        return
    if found is None:
        return
    assert 0 < found.length <= len(data)
    assert announced.parse(data[: found.length]) == found
    assert found.client is None or ip_address(found.client[0])


def paths(data: bytes) -> None:
    encode_query(data)
    try:
        path = normalise(data)
    except BadRequest:
        return
    assert _NORMAL.fullmatch(path), path
    assert normalise(path) == path
    assert not {b".", b".."} & set(path.split(b"/"))


def cookies(data: bytes) -> None:
    found = _BOOK.open(data, 0.0)
    assert found is None, "nobody guesses a MAC"
    sealed = _BOOK.seal("v1", "http://127.0.0.1:1", 1000.0, data)
    mine = _BOOK.open(sealed, 0.0)
    assert mine is not None
    assert (mine.version, mine.url) == ("v1", "http://127.0.0.1:1")
    assert re.fullmatch(rb"[A-Za-z0-9_.-]*", sealed)


def forwarded(data: bytes) -> None:
    name, _, value = data.partition(b"\0")
    fields = [b"x-forwarded-for", b"forwarded", b"x-real-ip"]
    headers = [(fields[len(name) % 3], value)]
    told = hops(headers)
    assert client_ip("203.0.113.9", told, _TRUST) == "203.0.113.9"
    ip_address(client_ip("10.0.0.1", told, _TRUST))


def fields(data: bytes) -> None:
    pairs = [line.partition(b":") for line in data.replace(b"\r", b"").replace(b"\0", b"").split(b"\n")]
    headers = [(name.lower(), value) for name, _, value in pairs if _LINE.fullmatch(name.lower() + b": x\r\n")]
    gone = nominated([value for name, value in headers if name == b"connection"])
    edit = compile_edit({"x-a": "1"}, {"x-b": "2"}, ["cookie"])
    assert edit is not None
    edited = edit([header for header in headers if header[0] not in gone])
    lines = serialise(edited)
    assert lines.count(b"\r\n") == len(edited)
    assert [value for name, value in edited if name == b"x-a"] == [b"1"]
    assert b"cookie" not in dict(edited)


def config(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "routes.yaml"
        file.write_bytes(data)
        with suppress(ConfigError):
            load(file)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "requests": requests,
    "replies": replies,
    "announced": announcements,
    "paths": paths,
    "cookies": cookies,
    "forwarded": forwarded,
    "fields": fields,
    "config": config,
}
