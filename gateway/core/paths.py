"""A request's path, brought once into the one form that is matched, authorised, limited and forwarded.

RFC 3986, 6.2.2: unreserved characters are decoded, percent-encodings upper-cased, dot segments removed; empty segments
are merged as nginx does, and what RFC 3986 has no place for is encoded. What could mean two things to two servers is
refused: a backslash, NUL or another control character, raw or encoded, and a `%` that encodes nothing.
"""

import re
from functools import lru_cache
from typing import Final

from gateway.errors import BadRequest

_ODD: Final = re.compile(rb"[^!$&'()*+,\-0-9:;=@A-Z_a-z~/.]|//|/\.")
_ENCODED: Final = re.compile(rb"%(..?)?", re.DOTALL)
_FORBIDDEN: Final = re.compile(rb"[\x00-\x20\x7f\\]|%(?:[01][0-9A-F]|7F|5C)")
_NO_PCHAR: Final = re.compile(rb"[^!$&'()*+,\-0-9:;=@A-Z_a-z~/.%]")
_NO_QUERY: Final = re.compile(rb"[^!$&'()*+,\-0-9:;=@A-Z_a-z~/.%?]|%(?![0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HEX: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


@lru_cache(maxsize=4096)
def known(path: bytes) -> tuple[bytes, str]:
    """`normalise` and `decode` of a whole path, remembered: clients ask for few paths. Raises BadRequest."""
    path = normalise(path)
    return path, decode(path)


def normalise(path: bytes) -> bytes:
    """The path in its normal form. Raises BadRequest. Most paths pass the first line unchanged."""
    if _ODD.search(path) is None and path[:1] == b"/":
        return path
    path = _ENCODED.sub(_decode, path)
    if path[:1] != b"/":
        raise BadRequest("The request's path does not start with a slash.")
    if _FORBIDDEN.search(path) is not None:
        raise BadRequest("The request's path contains a forbidden character.")
    return _resolve(_NO_PCHAR.sub(_encode, path))


def encode_query(query: bytes) -> bytes:
    """The query with what RFC 3986, 3.4 does not allow in it percent-encoded, as browsers do with some of it; so is a
    `%` that encodes nothing, which those who take it at all take for itself."""
    return _NO_QUERY.sub(_encode, query)


def decode(segment: bytes) -> str:
    """A normalised segment as text; bytes that are not UTF-8 become U+FFFD."""
    if b"%" in segment:
        segment = _HEX.sub(lambda match: bytes([int(match[1], 16)]), segment)
    return segment.decode("utf-8", "replace")


def _decode(match: re.Match[bytes]) -> bytes:
    if _HEX.fullmatch(match[0]) is None:
        raise BadRequest("The request's path contains a broken percent-encoding.")
    byte = int(match[1], 16)
    return bytes([byte]) if byte in _UNRESERVED else b"%" + match[1].upper()


def _encode(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def _resolve(path: bytes) -> bytes:
    """RFC 3986, 5.2.4, over segments; going above the root is refused, as it never means well."""
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments:
        if segment == b"..":
            if not kept:
                raise BadRequest("The request's path leads above the root.")
            kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    is_folder = segments[-1] in (b"", b".", b"..")
    return b"/" + b"/".join(kept) + (b"/" if is_folder and kept else b"")
