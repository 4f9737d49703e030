"""Answers that are kept, for `response_cache`: whether one may be, for how long, and where."""

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from starlette.types import Send

from gateway.model import Exchange, Header

_FORBIDDING = frozenset(("no-store", "no-cache", "private"))
# What an answer takes besides its bytes, in bytes, measured with tracemalloc on CPython 3.11.
_PER_ANSWER = 340
_PER_HEADER = 136


class Freshness:
    """What an answer's headers say about keeping it (RFC 9111, 3 and 4.2). Times are in seconds."""

    def __init__(self, headers: Iterable[Header]) -> None:
        self.fields: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            self.fields.setdefault(name, []).append(value)
        self.directives = directives(self.fields.get(b"cache-control", ()))
        self.is_stream = (self._text(b"content-type") or "").lower().startswith("text/event-stream")
        self.age = seconds(self._text(b"age"), 0.0)  # spent in caches before this one
        self.length = self._text(b"content-length")

    def may_store(self, key_fields: Collection[bytes]) -> bool:
        """False for what is private, and for what varies by a header that is not among `key_fields`."""
        varies = {name.strip().lower() for value in self.fields.get(b"vary", ()) for name in value.split(b",")}
        varies.discard(b"")
        return not (self.directives.keys() & _FORBIDDING or b"set-cookie" in self.fields or varies - {*key_fields})

    def lifetime(self, default: float) -> float:
        """From now on; `default` where the answer does not say. A rule that cannot be read means stale (4.2.1)."""
        return self._declared(default) - self.age

    def _declared(self, default: float) -> float:
        for name in ("s-maxage", "max-age"):
            if name in self.directives:
                return seconds(self.directives[name], 0.0)
        expires, date = self._text(b"expires"), self._text(b"date")
        if expires is None:
            return default
        try:
            since = parsedate_to_datetime(date).timestamp() if date else time.time()
            return parsedate_to_datetime(expires).timestamp() - since
        except ValueError:
            return 0.0

    def _text(self, name: bytes) -> str | None:
        values = self.fields.get(name)
        return values[0].decode("latin-1") if values else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, status 200. Times are of the cache's clock, in seconds."""

    headers: list[Header]
    body: bytes
    born: float
    expires: float

    @property
    def size(self) -> int:
        fields = sum(_PER_HEADER + len(name) + len(value) for name, value in self.headers)
        return _PER_ANSWER + fields + len(self.body)

    def age(self, now: float) -> int:
        return int(now - self.born)

    async def give(self, exchange: Exchange, send: Send, now: float) -> None:
        headers = [
            *self.headers,
            (b"content-length", b"%d" % len(self.body)),
            (b"age", b"%d" % self.age(now)),
            (b"x-cache", b"hit"),
            *exchange.answer_headers,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class Store:
    """Answers by key, at most `max_bytes` of them; the least recently used is forgotten first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self.answers: OrderedDict[bytes, Answer] = OrderedDict()

    def get(self, key: bytes, now: float) -> Answer | None:
        answer = self.answers.get(key)
        if answer is None:
            return None
        if now >= answer.expires:
            self.drop(key)
            return None
        self.answers.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: Answer) -> None:
        self.drop(key)
        if answer.size > self.max_bytes:
            return
        self.answers[key] = answer
        self.size += answer.size
        while self.size > self.max_bytes:
            self.drop(next(iter(self.answers)))

    def drop(self, key: bytes) -> None:
        answer = self.answers.pop(key, None)
        if answer is not None:
            self.size -= answer.size

    def __repr__(self) -> str:
        return f"<Store {len(self.answers)} answers, {self.size} of {self.max_bytes} bytes>"


def directives(values: Iterable[bytes]) -> dict[str, str]:
    """Cache-Control as name -> argument, "" for none; names in lower case."""
    found = {}
    for value in values:
        for part in value.decode("latin-1").split(","):
            name, _, argument = part.partition("=")
            found[name.strip().lower()] = argument.strip().strip('"')
    return found


def seconds(text: str | None, default: float) -> float:
    """A delta-seconds (RFC 9111, 1.2.2): `default` where there is none, 0 where it cannot be read."""
    if text is None:
        return default
    return float(text[:12]) if text.isascii() and text.isdigit() else 0.0
