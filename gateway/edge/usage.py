"""How many tokens a request takes: an estimate before it runs, and what its answer says afterwards.

Only routes with a limit in tokens have this in their chain.
"""

from collections.abc import Awaitable
from typing import Final, NamedTuple

import msgspec
from starlette.types import Message, Scope, Send

from gateway.core.headers import get
from gateway.core.usage import Tail, last_usage
from gateway.model import Exchange

_BYTES_PER_TOKEN: Final = 4  # of English text, by OpenAI's rule of thumb


class _Options(msgspec.Struct):
    """What TGI has beside `inputs`."""

    max_new_tokens: int | None = None


class Wish(msgspec.Struct):
    """How much a request may generate, as the known APIs call it."""

    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    max_output_tokens: int | None = None
    parameters: _Options | None = None
    n: int | None = None

    def tokens(self) -> int:
        options = self.parameters.max_new_tokens if self.parameters else None
        each = self.max_completion_tokens or self.max_tokens or self.max_output_tokens or options or 0
        return max(each, 0) * max(self.n or 1, 1)


_decode_wish = msgspec.json.Decoder(Wish).decode


class Estimate(NamedTuple):
    prompt: int
    completion: int

    @property
    def tokens(self) -> int:
        return max(self.prompt + self.completion, 1)


def estimate(exchange: Exchange, scope: Scope) -> Estimate:
    """The prompt is a quarter of the body's bytes; the completion is what the body asks for at most, where a layer has
    read it (0 where it streams through, or asks for nothing)."""
    body = exchange.body
    if body is None:
        length = get(scope["headers"], b"content-length") or b""
        return Estimate(int(length) // _BYTES_PER_TOKEN if length.isdigit() else 0, 0)
    try:
        completion = _decode_wish(body).tokens()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        completion = 0  # the model server will say what is wrong with it
    return Estimate(len(body) // _BYTES_PER_TOKEN, completion)


class Usage:
    """A `send` that finds out what its answer took."""

    __slots__ = ("send", "status", "tail")

    def __init__(self, send: Send) -> None:
        self.send = send
        self.status = 0
        self.tail = Tail()

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.body":
            self.tail.add(message.get("body", b""))
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            self.tail.is_stream = b"event-stream" in (get(message["headers"], b"content-type") or b"")
        return self.send(message)

    def tokens(self, expected: Estimate, *, has_left: bool) -> int:
        """What to charge for. A request that failed costs nothing, unless its client left: that costs the prompt, and
        what it had been sent."""
        if self.status == 0:
            return expected.prompt if has_left else 0
        if self.status >= 400:
            return 0
        tail = self.tail
        told = usage_in(tail.end(), expected.prompt)
        if told is not None:
            return told
        return expected.prompt + (tail.events if tail.is_stream else tail.bytes // _BYTES_PER_TOKEN)


def usage_in(tail: bytes, prompt: int) -> int | None:
    """Tokens in all, by the end of an answer; `prompt` stands in for a count it lacks."""
    usage = last_usage(tail)
    if usage is None:
        return None
    total = usage.get("total_tokens")
    if not isinstance(total, int):
        read = usage.get("prompt_tokens", usage.get("input_tokens", prompt))
        wrote = usage.get("completion_tokens", usage.get("output_tokens", 0))
        total = read + wrote if isinstance(read, int) and isinstance(wrote, int) else None
    return max(total, 0) if total is not None else None
