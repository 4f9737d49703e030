"""How many tokens a request takes: an estimate before it runs, and what its answer says afterwards.

Only routes with a limit in tokens have this in their chain. Of an answer no more is kept than its last few kilobytes,
where `usage` is (OpenAI's APIs and those who speak them; a stream has it in its last chunk if the client or the server
asks for it), and no more is looked at than its events are counted.
"""

import json
from collections import deque
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

import msgspec
from starlette.types import Message, Scope, Send

from gateway.core.headers import get
from gateway.model import Exchange

_TAIL: Final = 4096  # bytes of an answer's end that are kept; vLLM, SGLang and llama.cpp put `usage` in the last 1 KiB
_BYTES_PER_TOKEN: Final = 4  # of English text, by OpenAI's rule of thumb
_scan = json.JSONDecoder().raw_decode


class _Options(msgspec.Struct):
    """What TGI has beside `inputs`."""

    max_new_tokens: int | None = None


class _Wish(msgspec.Struct):
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


_decode_wish = msgspec.json.Decoder(_Wish).decode


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
    except msgspec.DecodeError:
        completion = 0  # the model server will say what is wrong with it
    return Estimate(len(body) // _BYTES_PER_TOKEN, completion)


class Usage:
    """A `send` that finds out what its answer took."""

    __slots__ = ("bytes", "events", "is_stream", "kept", "parts", "send", "status")

    def __init__(self, send: Send) -> None:
        self.send = send
        self.status = 0
        self.is_stream = False
        self.bytes = 0
        self.events = 0
        self.parts: deque[bytes] = deque()  # the last _TAIL bytes, and what else is in the oldest part
        self.kept = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.body":
            self._look(message.get("body", b""))
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_stream = b"event-stream" in (get(message["headers"], b"content-type") or b"")
        return self.send(message)

    def _look(self, body: bytes) -> None:
        self.bytes += len(body)
        if self.is_stream:
            self.events += body.count(b"data:")
        self.parts.append(body)
        self.kept += len(body)
        while self.kept - len(self.parts[0]) >= _TAIL:
            self.kept -= len(self.parts.popleft())

    def tokens(self, expected: Estimate, *, has_left: bool) -> int:
        """What to charge for. A request that failed costs nothing, unless its client left: that costs the prompt, and
        what it had been sent."""
        if self.status == 0:
            return expected.prompt if has_left else 0
        if self.status >= 400:
            return 0
        told = usage_in(b"".join(self.parts), expected.prompt)
        if told is not None:
            return told
        return expected.prompt + (self.events if self.is_stream else self.bytes // _BYTES_PER_TOKEN)


def usage_in(tail: bytes, prompt: int) -> int | None:
    """Tokens in all, by the last `usage` object in the end of an answer; `prompt` stands in for a count it lacks.

    Inside a JSON string the name's closing quote would be escaped, so that no text a model writes is taken for it."""
    start = tail.rfind(b'"usage":')
    if start < 0:
        return None
    try:
        usage: Any = _scan(tail[start + 8 :].decode("utf-8", "replace").lstrip())[0]
    except ValueError:
        return None
    if not isinstance(usage, dict):
        return None
    total = usage.get("total_tokens")
    if not isinstance(total, int):
        read = usage.get("prompt_tokens", usage.get("input_tokens", prompt))
        wrote = usage.get("completion_tokens", usage.get("output_tokens", 0))
        total = read + wrote if isinstance(read, int) and isinstance(wrote, int) else None
    return max(total, 0) if total is not None else None
