"""Requests near the edge of HTTP/1.1: the public vectors, cut, joined and spiced with what parsers disagree about."""

import base64
import json
import random
from pathlib import Path

VECTORS = Path(__file__).parents[1] / "e2e" / "vectors" / "http1_requests.jsonl"
_LONGEST = 4000  # bytes

_REQUESTS = (
    b"POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: 1\r\n\r\n"
    b"GET /n HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /r HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /n HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://b:80/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x-a\r\nUpgrade: websocket\r\nX-A: 1\r\n\r\n"
    b"GET /n HTTP/1.1\r\nHost: a\r\n\r\n",
)
TOKENS = (
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"\x0b", b"\x0c", b"\x85", b"\xa0", b"\xff", b"+",
    b"-", b"0", b"0x", b"_", b'"', b"\\", b"chunked", b"Chunked", b"identity", b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n", b"transfer-encoding: chunked, chunked\r\n", b"Transfer_Encoding: chunked\r\n",
    b"Host: b\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: content-length\r\n", b"Connection: transfer-encoding, host\r\n", b"Expect: 100-continue\r\n",
    b"HTTP/1.0", b"HTTP/1.1", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/2.0", b"RTSP/1.0", b"0\r\n\r\n",
    b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n", b"CONNECT a:1", b"TRACE", b"PRI", b"M-SEARCH", b"SOURCE", b"http://x/",
    b"//", b"/../", b"%2f", b"%2e%2e", b"%00", b"%0d%0a", b"#", b"?", b"\xe2\x80\xa8", b"Keep-Alive: x\r\n",
    b"Via: 1.1 x\r\n",
    b"Cookie: a=b\r\n", b"Max-Forwards: 0\r\n", b"ffffffffffffffff", b"7fffffffffffffff", b"00000000000000005",
)  # fmt: skip


def public() -> dict[str, bytes]:
    """The public vectors by name."""
    lines = map(json.loads, VECTORS.read_text().splitlines())
    return {f"{v['src']}-{v['id']}": base64.b64decode(v["b64"] + "===") for v in lines}


def mutant(dice: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds after one to five changes."""
    raw = dice.choice(seeds)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5))):
        raw = dice.choice(_CHANGES)(dice, seeds, raw, dice.randrange(len(raw) + 1))
    return raw[:_LONGEST]


def seeds() -> list[bytes]:
    return [*public().values(), *_REQUESTS]


def _insert(dice: random.Random, _: list[bytes], raw: bytes, at: int) -> bytes:
    return raw[:at] + dice.choice(TOKENS) + raw[at:]


def _replace(dice: random.Random, _: list[bytes], raw: bytes, at: int) -> bytes:
    return raw[:at] + dice.choice(TOKENS) + raw[at + 1 :]


def _delete(_dice: random.Random, _: list[bytes], raw: bytes, at: int) -> bytes:
    return raw[:at] + raw[at + 1 :]


def _flip(dice: random.Random, _: list[bytes], raw: bytes, at: int) -> bytes:
    return raw[:at] + dice.randbytes(1) + raw[at + 1 :]


def _repeat_line(dice: random.Random, _: list[bytes], raw: bytes, _at: int) -> bytes:
    lines = raw.split(b"\r\n")
    lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
    return b"\r\n".join(lines)


def _add_line(dice: random.Random, _: list[bytes], raw: bytes, _at: int) -> bytes:
    lines = raw.split(b"\r\n")
    lines.insert(dice.randrange(1, len(lines) + 1), dice.choice(TOKENS).rstrip(b"\r\n"))
    return b"\r\n".join(lines)


def _splice(dice: random.Random, seeds: list[bytes], raw: bytes, at: int) -> bytes:
    other = dice.choice(seeds)
    return raw[:at] + other[dice.randrange(len(other) + 1) :]


def _append(dice: random.Random, seeds: list[bytes], raw: bytes, _at: int) -> bytes:
    return raw + dice.choice(seeds)


_CHANGES = (_insert, _replace, _delete, _flip, _repeat_line, _add_line, _splice, _append)
