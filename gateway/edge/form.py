"""The `model` of a form with files (multipart/form-data, RFC 7578): so OpenAI's clients send sounds and images.

Read as strictly as may be, for others read the same bytes behind us: one part of that name, with nothing about it that
could make it another value to them, or the form is refused.
"""

import re
from typing import Final, NamedTuple

from gateway.errors import BadRequest

_BOUNDARY: Final = re.compile(
    rb'multipart/form-data[ \t]*;(?:[^"]*;)?[ \t]*boundary=(?:"([^"\\]{1,70})"|([^\s";,\\]{1,70}))[ \t]*(?:;.*)?',
    re.IGNORECASE,
)
_NAME: Final = re.compile(rb';[ \t]*name[ \t]*(\*?=)[ \t]*(?:"([^"\\]*)"|([^\s";]+))', re.IGNORECASE)
_NAMES: Final = re.compile(rb";[ \t]*name\b", re.IGNORECASE)
# What libraries say of a plain field: .NET and aiohttp its type, OkHttp its length, Retrofit that it is binary.
_PLAIN: Final = re.compile(
    rb'content-type:[ \t]*text/plain(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*|content-length:[ \t]*\d+[ \t]*'
    rb"|content-transfer-encoding:[ \t]*(?:binary|8bit|7bit)[ \t]*",
    re.IGNORECASE,
)


class Place(NamedTuple):
    """Where in the body the model's name stands."""

    start: int
    end: int


def is_form(kind: bytes) -> bool:
    return kind[:10].lower() == b"multipart/"


def model_in_form(body: bytes, kind: bytes) -> str | None:
    """The `model` of a form of this content type; None if it has none. Raises BadRequest."""
    place = _place(body, kind)
    if place is None:
        return None
    try:
        return body[place.start : place.end].decode()
    except UnicodeDecodeError:
        raise BadRequest("The form's `model` is not UTF-8.") from None


def rename_in_form(body: bytes, kind: bytes, model: str) -> bytes:
    """The form with its `model` replaced; all else keeps its exact bytes. Raises BadRequest."""
    place = _place(body, kind)
    return body if place is None else b"%b%b%b" % (body[: place.start], model.encode(), body[place.end :])


def _place(body: bytes, kind: bytes) -> Place | None:
    found = _BOUNDARY.fullmatch(kind)
    if found is None or kind.lower().count(b"boundary=") > 1:
        raise BadRequest("The form's content type has no boundary that can be read.")
    delimiter = b"--" + (found[1] or found[2])
    if not body.startswith(delimiter):
        raise BadRequest("The form does not begin with its boundary.")
    places, at, delimiter = [], len(delimiter), b"\r\n" + delimiter
    while body[at : at + 2] != b"--":
        start, end = body.find(b"\r\n\r\n", at) + 4, body.find(delimiter, at)
        if body[at : at + 2] != b"\r\n" or end < 0 or not 4 <= start <= end:
            raise BadRequest("The form has a part that does not end, or has no head.")
        if _is_model(body[at + 2 : start - 4]):
            places.append(Place(start, end))
        at = end + len(delimiter)
    if len(places) > 1:
        raise BadRequest("The form names its model more than once.")
    return places[0] if places else None


def _is_model(head: bytes) -> bool:
    """Whether a part with these fields is the `model`. Raises BadRequest if others might see that in another way."""
    lines = head.split(b"\r\n")
    said = [line for line in lines if line[:20].lower() == b"content-disposition:"]
    name = _NAME.search(said[0]) if len(said) == 1 else None
    # Folded, or cut by some readers.
    is_odd = any(line[:1] in (b" ", b"\t") or b"\n" in line or b"\r" in line for line in lines)
    if name is None or name[1] != b"=" or len(_NAMES.findall(said[0])) > 1 or is_odd:
        raise BadRequest("The form has a part whose name is not plain.")
    if (name[2] if name[2] is not None else name[3]) != b"model":
        return False
    if b"filename" in said[0].lower() or any(line not in said and not _PLAIN.fullmatch(line) for line in lines):
        raise BadRequest("The form's `model` is no plain field.")
    return True
