"""The OpenAI API: chat and text completions, streamed or not, embeddings, and the list of models.

A chat answer repeats what it was told, and an embedding is a hash of its text: equal texts, equal vectors.
"""

import asyncio
import hashlib
import itertools
import math
import re
import secrets
import struct
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gateway.demo.wire import Demo, Refused, as_json, read

Delta = Callable[[str | None, str | None], dict[str, Any]]  # (token, why the text ends here) -> a chunk's one choice


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Generation(msgspec.Struct, kw_only=True):
    """What chat and text completions share (the part of the OpenAI API that the stand-in understands)."""

    model: str
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    ignore_eos: bool = False  # vLLM's: generate until max_tokens
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions | None = None


class Part(msgspec.Struct):
    type: str
    text: str = ""


class ChatMessage(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class ChatRequest(Generation, kw_only=True):
    messages: list[ChatMessage]


class CompletionRequest(Generation, kw_only=True):
    prompt: str | list[str | int]  # texts, or the tokens of one


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[Any]  # texts, tokens, or lists of tokens
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int = 8


class Answer(msgspec.Struct):
    """A generated text and its bill."""

    tokens: list[str]
    finish: Literal["stop", "length"]
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        total = self.prompt_tokens + len(self.tokens)
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": len(self.tokens), "total_tokens": total}


class OpenAI:
    def __init__(self, demo: Demo) -> None:
        self.demo = demo

    def routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/embeddings", self.embed, methods=["POST"]),
            Route("/v1/models", self.models),
        ]

    async def chat(self, request: Request) -> Response:
        call = await read(request, ChatRequest)
        if not call.messages:
            raise Refused("messages: at least one is needed")
        said = next((m.text for m in reversed(call.messages) if m.role == "user"), "")
        answer = self.generate(call, f"{self.demo} here. You said: {said}", " ".join(m.text for m in call.messages))
        head = self._head("chatcmpl-", call.model)
        if call.stream:
            return self._stream(call, answer, head | {"object": "chat.completion.chunk"}, _chat_delta)
        message = {"role": "assistant", "content": "".join(answer.tokens)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish}
        return as_json(head | {"object": "chat.completion", "choices": [choice], "usage": answer.usage})

    async def complete(self, request: Request) -> Response:
        call = await read(request, CompletionRequest)
        prompt = call.prompt if isinstance(call.prompt, str) else " ".join(map(str, call.prompt))
        answer = self.generate(call, f"{self.demo} continues: {prompt}", prompt)
        head = self._head("cmpl-", call.model) | {"object": "text_completion"}
        if call.stream:
            return self._stream(call, answer, head, _text_delta)
        choice = _text_delta("".join(answer.tokens), answer.finish)
        return as_json(head | {"choices": [choice], "usage": answer.usage})

    async def embed(self, request: Request) -> Response:
        call = await read(request, EmbeddingRequest)
        self.demo.check(call.model)
        if not call.input or not 1 <= call.dimensions <= 4096:
            raise Refused("input must not be empty, and dimensions must be from 1 to 4096")
        is_one = isinstance(call.input, str) or isinstance(call.input[0], int)
        data = []
        for index, item in enumerate([call.input] if is_one else call.input):
            vector = _embedding(str(item), call.dimensions)
            packed = b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            shown = packed if call.encoding_format == "base64" else vector
            data.append({"object": "embedding", "index": index, "embedding": shown})
        spent = len(str(call.input).split())
        usage = {"prompt_tokens": spent, "total_tokens": spent}
        return as_json({"object": "list", "data": data, "model": call.model, "usage": usage})

    async def models(self, request: Request) -> Response:
        card = {"id": self.demo.name, "object": "model", "created": 0, "owned_by": str(self.demo)}
        return as_json({"object": "list", "data": [card]})

    def generate(self, call: Generation, text: str, prompt: str) -> Answer:
        """The answer's tokens, which are words: no more than asked for, and as many as asked for with `ignore_eos`."""
        self.demo.check(call.model)
        limit = call.max_completion_tokens or call.max_tokens
        if call.n != 1 or (limit is not None and not 1 <= limit <= 1_000_000):
            raise Refused("n must be 1, and max_tokens from 1 to 1000000")
        words = re.findall(r"\s*\S+", text)
        source: Iterator[str] = iter(words)
        if call.ignore_eos and limit:
            source = itertools.chain(words, itertools.cycle([" and", " so", " on"]))
        tokens = list(itertools.islice(source, limit))
        return Answer(tokens, "length" if len(tokens) == limit else "stop", len(prompt.split()))

    def _head(self, prefix: str, model: str) -> dict[str, Any]:
        about = {"id": prefix + secrets.token_hex(12), "created": int(time.time()), "model": model}
        return about | {"system_fingerprint": str(self.demo)}

    def _stream(self, call: Generation, answer: Answer, head: dict[str, Any], delta: Delta) -> Response:
        with_usage = call.stream_options is not None and call.stream_options.include_usage
        choices = [delta(None, None), *(delta(token, None) for token in answer.tokens), delta("", answer.finish)]
        chunks = [head | {"choices": [choice]} for choice in choices]
        if with_usage:
            chunks = [chunk | {"usage": None} for chunk in chunks]
            chunks.append(head | {"choices": [], "usage": answer.usage})
        return StreamingResponse(self._events(chunks), media_type="text/event-stream")

    async def _events(self, chunks: list[dict[str, Any]]) -> AsyncIterator[bytes]:
        for chunk in chunks:
            if self.demo.delay:
                await asyncio.sleep(self.demo.delay)
            yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
        yield b"data: [DONE]\n\n"


def _chat_delta(token: str | None, finish: str | None) -> dict[str, Any]:
    """The first delta (token None) names the role, and the last is empty."""
    delta = {"role": "assistant", "content": ""} if token is None else {"content": token} if token else {}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _text_delta(token: str | None, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": token or "", "logprobs": None, "finish_reason": finish}


def _embedding(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    raw = hashlib.shake_128(text.encode("utf-8", "replace")).digest(2 * dimensions)
    vector = [value / 32768 for value in struct.unpack(f"<{dimensions}h", raw)]
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]
