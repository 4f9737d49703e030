"""How many tokens a request takes: an estimate before it runs, and what its answer says afterwards.

Only routes with a limit in tokens have this in their chain.
"""

import re
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

import msgspec
from starlette.types import Message, Scope, Send

from gateway.core.headers import get
from gateway.core.prompt import CHARACTERS
from gateway.core.usage import Tail
from gateway.edge.form import is_form
from gateway.model import Exchange

# An image or a sound, whose slashes some write as "\/".
ATTACHMENT: Final = re.compile(rb'"(?:data:[^,"]{0,100};base64,)?([A-Za-z0-9+/\\]{1024,}={0,2})"')
ATTACHMENT_TOKENS: Final = 1000  # of it: from 85 to some thousands, as model and size have it


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
    """The prompt is a quarter of the body's bytes, but for what is attached; the completion is what the body asks for
    at most, where a layer has read it (0 where it streams through, or asks for nothing)."""
    body = exchange.body
    if body is None or is_form(exchange.fields.get(b"content-type", b"")):
        length = get(scope["headers"], b"content-length") or b""
        size = len(body) if body is not None else int(length) if length.isdigit() else 0
        return Estimate(tokens_by_size(size, exchange), 0)
    try:
        completion = _decode_wish(body).tokens()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        completion = 0  # the model server will say what is wrong with it
    return Estimate(_prompt(body), completion)


def _prompt(body: bytes) -> int:
    size, attached = len(body), 0
    if size > ATTACHMENT_TOKENS * CHARACTERS and may_attach(body):
        for found in ATTACHMENT.finditer(body):
            size -= found.end() - found.start()
            attached += ATTACHMENT_TOKENS
    return size // CHARACTERS + attached


def tokens_by_size(size: int, exchange: Exchange) -> int:
    """Tokens of a body in which nobody looks for a prompt. A form has a file."""
    tokens = size // CHARACTERS
    return min(tokens, ATTACHMENT_TOKENS) if is_form(exchange.fields.get(b"content-type", b"")) else tokens


def may_attach(text: bytes) -> bool:
    """False if nothing is attached to a request's JSON, for certain."""
    return b"64," in text or b'"data"' in text or b'"images"' in text  # Ollama's


def ask_plainly(scope: Scope) -> None:
    """For an answer that is not compressed: of another one nothing is read. Clients' libraries take gzip unasked."""
    headers = scope["headers"]
    if get(headers, b"accept-encoding") is not None:
        kept = [header for header in headers if header[0] != b"accept-encoding"]
        scope["headers"] = [*kept, (b"accept-encoding", b"identity")]


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
            kind = get(message["headers"], b"content-type") or b""
            if b"ndjson" in kind:  # Ollama's: a token a line
                self.tail.mark = b"\n"
            self.tail.is_stream = b"event-stream" in kind or b"ndjson" in kind
        return self.send(message)

    def tokens(self, expected: Estimate, *, has_left: bool) -> int:
        """What to charge for. A request that failed costs nothing, unless its client left: that costs the prompt, and
        what it had been sent."""
        if self.status == 0:
            return expected.prompt if has_left else 0
        if self.status >= 400:
            return 0
        tail = self.tail
        told = billed(tail.usage(), expected.prompt)
        if told is not None:
            return told
        return expected.prompt + (tail.events if tail.is_stream else tail.bytes // CHARACTERS)


def billed(usage: dict[str, Any] | None, prompt: int) -> int | None:
    """Tokens in all; `prompt` stands in for a count it lacks."""
    if usage is None:
        return None
    total = usage.get("total_tokens")
    if not isinstance(total, int):
        read = usage.get("prompt_tokens", usage.get("input_tokens", prompt))
        wrote = usage.get("completion_tokens", usage.get("output_tokens", 0))
        total = read + wrote if isinstance(read, int) and isinstance(wrote, int) else None
    return max(total, 0) if total is not None else None
