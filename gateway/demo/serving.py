"""An engine against the wall clock: chat and text completions as a GPU server would give them, and its `/metrics`.

The texts are of no interest, their times are. A token is four characters of a prompt; an answer has as many tokens as
it was asked for. The head of a stream is sent at once and its first event with the first token, as vLLM does.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from gateway.demo.engine import BLOCK, Engine, Job, Profile
from gateway.demo.openai import ChatRequest, CompletionRequest, Generation
from gateway.demo.wire import Demo, Refused, as_json, read

_CHARACTERS = 4  # of a token
_TOKENS = 128  # of an answer that nobody asked to be shorter or longer
_FAILURE = 0.005  # seconds that an answer of a broken engine takes
_SSE = [(b"content-type", b"text/event-stream; charset=utf-8")]


class Serving:
    """One engine, and all who wait for its tokens."""

    def __init__(self, demo: Demo, profile: Profile, *, speed: float = 1.0, interval: int = 1) -> None:
        """`speed`: seconds of the engine in one of the clock. `interval`: tokens in one event of a stream, after the
        first (vLLM's --stream-interval)."""
        self.demo = demo
        self.engine = Engine(profile)
        self.speed = speed
        self.interval = interval
        self.is_failing = False  # answers 500 at once, as a server does whose GPU is gone
        self.generated = 0  # tokens, in all
        self.running: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", _Completions(self, ChatRequest, is_chat=True), methods=["POST"]),
            Route("/v1/completions", _Completions(self, CompletionRequest, is_chat=False), methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]

    async def health(self, request: Request) -> Response:
        return Response(status_code=200)

    async def metrics(self, request: Request) -> Response:
        engine = self.engine
        gauges = {
            "num_requests_running": len(engine.running),
            "num_requests_waiting": len(engine.waiting),
            "kv_cache_usage_perc": engine.usage,
        }
        counters = {
            "prefix_cache_queries_total": engine.prefix_queries,
            "prefix_cache_hits_total": engine.prefix_hits,
            "num_preemptions_total": engine.preempted,
            "generation_tokens_total": self.generated,
        }
        lines = []
        for kind, samples in (("gauge", gauges), ("counter", counters)):
            for name, value in samples.items():
                lines += [f"# TYPE vllm:{name} {kind}", f'vllm:{name}{{model_name="{self.demo.name}"}} {value:g}']
        blocks = engine.profile.kv // BLOCK
        lines.append("# TYPE vllm:cache_config_info gauge")
        lines.append(f'vllm:cache_config_info{{block_size="{BLOCK}",num_gpu_blocks="{blocks}"}} 1')
        return PlainTextResponse("\n".join(lines) + "\n")

    def add(self, job: Job) -> None:
        self.engine.add(job)
        if self.running is None:
            self.running = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Step by step until nothing is left to do. A step begins where the one before ended, not where the loop woke
        up: the engine's clock does not lose what the machine is late."""
        engine = self.engine
        at = time.monotonic()
        while seconds := engine.begin():
            at += seconds / self.speed
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            engine.end()
        self.running = None


class _Completions:
    """One of the two APIs, as a raw ASGI application: of an answer's cost, nothing is the framework's."""

    def __init__(self, serving: Serving, kind: type[Generation], *, is_chat: bool) -> None:
        self.serving = serving
        self.kind = kind
        self.is_chat = is_chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            call = await read(request, self.kind)
        except ClientDisconnect:
            return
        serving = self.serving
        serving.demo.check(call.model)
        if serving.is_failing:
            await asyncio.sleep(_FAILURE)
            raise Refused("The engine is dead.", 500)
        answer = _Answer(call, is_chat=self.is_chat)
        job = Job(answer.prompt_tokens, answer.limit, answer.blocks, answer.on_token)
        watching = asyncio.get_running_loop().create_task(_until_left(receive, answer))
        serving.add(job)
        try:
            if call.stream:
                await self._stream(job, answer, send)
            else:
                await self._whole(job, answer, scope, receive, send)
        finally:
            watching.cancel()
            serving.generated += job.generated
            serving.engine.remove(job)

    async def _stream(self, job: Job, answer: "_Answer", send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _SSE})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        answer.due = 1
        while not job.is_done:
            await answer.wait()
            if answer.has_left:
                return
            answer.due = min(job.generated + self.serving.interval, job.output)
            await send(_part(answer.event(job.generated, is_last=job.is_done), is_last=job.is_done))

    async def _whole(self, job: Job, answer: "_Answer", scope: Scope, receive: Receive, send: Send) -> None:
        answer.due = job.output
        await answer.wait()
        if not answer.has_left:
            await as_json(answer.whole())(scope, receive, send)


class _Answer:
    """What is said to one request, and where its tokens are waited for."""

    def __init__(self, call: Generation, *, is_chat: bool) -> None:
        self.model = call.model
        self.is_chat = is_chat
        self.prompt_tokens, self.blocks = measure(call)
        self.limit = call.max_completion_tokens or call.max_tokens or _TOKENS
        if call.n != 1 or not 1 <= self.limit <= 1_000_000:
            raise Refused("n must be 1, and max_tokens from 1 to 1000000")
        self.has_usage = call.stream_options is not None and call.stream_options.include_usage
        self.id = ("chatcmpl-" if is_chat else "cmpl-") + secrets.token_hex(8)
        self.created = int(time.time())
        self.sent = 0  # tokens
        self.due = 1  # tokens that wake who waits
        self.has_left = False
        self.waiter: asyncio.Future[None] | None = None

    def on_token(self, job: Job) -> None:
        if job.generated >= self.due:
            self._wake()

    def on_leave(self) -> None:
        self.has_left = True
        self._wake()

    async def wait(self) -> None:
        if not self.has_left:
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def event(self, generated: int, *, is_last: bool) -> bytes:
        """The tokens since the last event; in the first one the role, in the last one why it ends, and the bill."""
        text = " tok" * (generated - self.sent)
        is_first, self.sent = not self.sent, generated
        finish = "length" if is_last else None
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        if self.is_chat:
            role = {"role": "assistant"} if is_first else {}
            choice["delta"] = {**role, "content": text}
        else:
            choice["text"] = text
        said = b"data: %b\n\n" % msgspec.json.encode({**self._head(".chunk"), "choices": [choice]})
        if is_last and self.has_usage:
            said += b"data: %b\n\n" % msgspec.json.encode(
                {**self._head(".chunk"), "choices": [], "usage": self._usage(generated)}
            )
        return said + b"data: [DONE]\n\n" if is_last else said

    def whole(self) -> dict[str, Any]:
        text = " tok" * self.limit
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        choice = {"index": 0, "finish_reason": "length", **said}
        return {**self._head(""), "choices": [choice], "usage": self._usage(self.limit)}

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = "chat.completion" + suffix if self.is_chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _usage(self, completion: int) -> dict[str, int]:
        total = self.prompt_tokens + completion
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": completion, "total_tokens": total}


def measure(call: Generation) -> tuple[int, Sequence[int]]:
    """The tokens of a prompt, and hashes of its whole blocks, each over all before it. Raises Refused if it is none."""
    prompt: str | list[str | int]
    if isinstance(call, ChatRequest):
        prompt = "".join([f"{message.role}\n{message.text}\n" for message in call.messages])
    else:
        assert isinstance(call, CompletionRequest)
        prompt = call.prompt
    if not prompt:
        raise Refused("a prompt is needed")
    if isinstance(prompt, list) and isinstance(prompt[0], str):
        prompt = "".join(map(str, prompt))
    parts: list[Any]
    if isinstance(prompt, str):
        tokens, size = -(-len(prompt) // _CHARACTERS), BLOCK * _CHARACTERS
        parts = [prompt[at : at + size] for at in range(0, len(prompt) - size + 1, size)]
    else:
        tokens = len(prompt)
        parts = [tuple(prompt[at : at + BLOCK]) for at in range(0, tokens - BLOCK + 1, BLOCK)]
    blocks, before = [], 0
    for part in parts:
        before = hash((before, part))
        blocks.append(before)
    return tokens, blocks


def _part(body: bytes, *, is_last: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not is_last}


async def _until_left(receive: Receive, answer: _Answer) -> None:
    """A client that leaves frees the engine at once."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.on_leave()
