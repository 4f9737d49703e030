"""What a policy for language models needs to know of a request, read from its body.

Only routes with such a policy have this in their chain. A prompt is taken as the bytes of the JSON that holds it, which
begin alike where prompts do, so that nothing of it is decoded: what precedes the others in the engine's template comes
first. Whatever has no prompt (another protocol, a body too large to be read here) is known by its size.
"""

import re
from array import array
from collections.abc import Awaitable
from time import monotonic
from typing import Final

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.core.body import Replay
from gateway.core.headers import get
from gateway.core.inference import Inference
from gateway.core.prompt import CHARACTERS, Prompt, read_prompt
from gateway.edge.body import at_hand, read_body
from gateway.edge.form import is_form
from gateway.edge.match import BODY_METHODS
from gateway.edge.usage import ATTACHMENT, ATTACHMENT_TOKENS, Wish, ask_plainly, may_attach, tokens_by_size
from gateway.model import Exchange

_FIRST: Final = re.compile(rb'\[\s*(["\d\[])')  # what a list is of: texts, tokens, lists of tokens
_TEXTS: Final = msgspec.json.Decoder(list[str])
_TOKENS: Final = msgspec.json.Decoder(list[int | list[int]])


class _Body(Wish):
    """The members that hold a prompt, as they came, in the order of the engines' templates."""

    tools: msgspec.Raw = msgspec.Raw()
    system: msgspec.Raw = msgspec.Raw()  # Anthropic's
    instructions: msgspec.Raw = msgspec.Raw()  # OpenAI's responses
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()  # embeddings, and OpenAI's responses
    inputs: msgspec.Raw = msgspec.Raw()  # TGI's
    stream: bool | None = None

    def text(self) -> bytes:
        body = bytes(self.messages or self.prompt or self.input)
        if not body and bytes(self.inputs)[:1] == b'"':  # else they are tensors, of which nothing is cached
            body = bytes(self.inputs)
        return b"".join((self.tools, self.system, self.instructions, _plain(body)))


_decode = msgspec.json.Decoder(_Body).decode


class Infer:
    """Sets `exchange.inference`, and lets it see the answer. `bound`: bytes of the largest body that is read for it."""

    def __init__(self, app: ASGIApp, *, bound: int) -> None:
        self.app = app
        self.bound = bound

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        if scope["method"] not in BODY_METHODS:
            return self.app(scope, receive, send)
        fields, body = exchange.fields, exchange.body
        length = fields.get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        if body is None and 0 < size <= self.bound and b"json" in fields.get(b"content-type", b"").lower():
            body = at_hand(receive, self.bound)
            if body is None:
                return self._read(scope, receive, send)
            exchange.body, receive = body, Replay(body, receive)
        return self._infer(body, size, scope, receive, send)

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        body = exchange.body = await read_body(receive, self.bound)
        await self._infer(body, len(body), scope, Replay(body, receive), send)

    def _infer(self, body: bytes | None, size: int, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange: Exchange = scope["exchange"]
        principal = exchange.principal.id
        if body is not None and not is_form(exchange.fields.get(b"content-type", b"")):
            inference = inference_of(body, principal)
        else:
            tokens = tokens_by_size(len(body) if body is not None else size, exchange)
            inference = Inference(Prompt(tokens, principal=principal))
        exchange.inference = inference
        ask_plainly(scope)
        return self.app(scope, receive, _Answer(exchange, inference, send))


class _Answer:
    """A `send` that shows what passes to an inference."""

    __slots__ = ("exchange", "inference", "send")

    def __init__(self, exchange: Exchange, inference: Inference, send: Send) -> None:
        self.exchange = exchange
        self.inference = inference
        self.send = send

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.body":
            self.inference.pass_on(message.get("body", b""), self.exchange.endpoint, monotonic())
        elif message["type"] == "http.response.start":
            kind = get(message["headers"], b"content-type") or b""
            self.inference.begin(is_stream=message["status"] == 200 and b"event-stream" in kind)
        return self.send(message)


def inference_of(body: bytes, principal: str = "") -> Inference:
    """The features of a request with this body, whatever it is."""
    try:
        found = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Inference(_by_size(len(body), principal))
    text = found.text()
    if not text:
        return Inference(_by_size(len(body), principal))
    attachments = 0
    if may_attach(text):
        text, attachments = ATTACHMENT.subn(_digest, text)
    prompt = read_prompt(text, output=found.tokens(), principal=principal)
    prompt.tokens += attachments * ATTACHMENT_TOKENS
    # An embedding has an `input` and generates nothing; a response has one too, and more that says what it is.
    is_embedding = bool(found.input) and not (found.messages or found.prompt or found.instructions or found.tokens())
    return Inference(prompt, is_streamed=bool(found.stream) or is_embedding)


def _by_size(size: int, principal: str) -> Prompt:
    return Prompt(size // CHARACTERS, principal=principal)


def _plain(value: bytes) -> bytes:
    """A prompt of several texts as one, and a prompt of tokens as CHARACTERS bytes for each; all others as they are."""
    match = _FIRST.match(value)
    if match is None:
        return value
    try:
        if match[1] == b'"':
            return "".join(_TEXTS.decode(value)).encode()
        flat = array("i")
        for each in _TOKENS.decode(value):
            flat.extend([each] if isinstance(each, int) else each)
        return flat.tobytes()
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return value


def _digest(match: re.Match[bytes]) -> bytes:
    return b'"%d"' % hash(match[1])
