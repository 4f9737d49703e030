"""What is read of a request for a policy that picks by its prompt."""

import asyncio
import json
from typing import Any

import pytest

from gateway.core.prompt import BLOCK, BLOCK_TOKENS
from gateway.edge.prompt import Infer, inference_of
from gateway.errors import ClientLeft
from gateway.model import Exchange

LONG = "x" * (3 * BLOCK)


def body(**members: Any) -> bytes:
    return json.dumps({"model": "m", **members}).encode()


def chat(text: str, **more: Any) -> bytes:
    return body(messages=[{"role": "system", "content": LONG}, {"role": "user", "content": text}], **more)


def common(first: bytes, second: bytes) -> int:
    """Blocks that two requests' prompts begin with alike."""
    chains = inference_of(first).prompt.chain, inference_of(second).prompt.chain
    return sum(a == b for a, b in zip(*chains, strict=False))


def test_chats_of_one_beginning_share_the_blocks_of_it_and_no_more() -> None:
    assert common(chat("a" * BLOCK * 2), chat("b" * BLOCK * 2)) == 3
    assert common(chat("a"), chat("a", stream=True, max_tokens=5)) == 3
    turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": LONG}]
    assert common(body(messages=turns), body(messages=[*turns, {"role": "user", "content": "more"}])) == 6


def test_where_a_prompt_stands_in_the_body_does_not_matter() -> None:
    assert common(body(prompt=LONG, stream=True), body(stream=True, user="u", prompt=LONG)) == 3


def test_tools_and_system_texts_come_before_the_messages() -> None:
    tools = [{"type": "function", "function": {"name": LONG}}]
    assert common(body(messages="a" * BLOCK, tools=tools), body(tools=tools, messages="b" * BLOCK)) == 3
    assert common(body(system=LONG, messages=["a" * BLOCK]), body(messages=["b" * BLOCK], system=LONG)) == 3


@pytest.mark.parametrize(
    ("members", "tokens"),
    [
        ({"prompt": "x" * 400}, 100),
        ({"prompt": ["x" * 400, "y" * 400]}, 200),
        ({"prompt": list(range(1000, 1100))}, 100),
        ({"prompt": [list(range(60)), list(range(40))]}, 100),
        ({"input": "x" * 400}, 100),
        ({"input": ["x" * 200] * 2}, 100),
        ({"inputs": "x" * 400, "parameters": {"max_new_tokens": 5}}, 100),  # TGI
    ],
)
def test_the_length_of_a_prompt_is_known_in_tokens_however_it_is_sent(members: Any, tokens: int) -> None:
    assert inference_of(body(**members)).prompt.tokens == pytest.approx(tokens, rel=0.02)


def test_prompts_of_tokens_share_blocks_too() -> None:
    tokens = list(range(100_000, 100_000 + 3 * BLOCK_TOKENS))
    assert common(body(prompt=[*tokens, 1]), body(prompt=[*tokens, 2])) == 3
    assert len(inference_of(body(prompt=tokens)).prompt.chain) == 3


def test_a_picture_counts_as_so_many_tokens_and_not_as_its_bytes() -> None:
    def picture(data: str) -> bytes:
        url = {"url": f"data:image/png;base64,{data}"}
        return body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": url}]}, LONG])

    prompt = inference_of(picture("A" * 100_000)).prompt
    assert prompt.tokens == pytest.approx(1000 + len(LONG) / 4, rel=0.1)
    assert common(picture("A" * 100_000), picture("A" * 100_000)) >= 3
    assert common(picture("A" * 100_000), picture("B" * 100_000)) == 0
    assert inference_of(picture("A/" * 50_000).replace(b"/", b"\\/")).prompt.tokens == pytest.approx(1200, rel=0.1)


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}' + b" " * 400,
        b'{"instances":[[1]]}' + b" " * 400,
        b"not json" * 50,
        b'{"messages":' + b"[" * 400,
        b'{"prompt":[99999999999999]}' + b" " * 400,
        b"\xff" * 400,
    ],
)
def test_what_has_no_prompt_that_can_be_read_is_known_by_its_size(text: bytes) -> None:
    prompt = inference_of(text).prompt
    assert 1 <= prompt.tokens <= len(text) // 4
    assert not prompt.chain


@pytest.mark.parametrize(
    ("members", "is_seen"),
    [
        ({"prompt": "a", "stream": True}, True),
        ({"prompt": "a"}, False),
        ({"prompt": "a", "stream": None}, False),
        ({"input": "a"}, True),  # an embedding: its head is its first token
        ({"input": "a", "instructions": "b"}, False),
        ({"instances": [1]}, True),
    ],
)
def test_whether_a_first_token_will_be_seen_is_known_beforehand(members: Any, is_seen: bool) -> None:
    assert inference_of(body(**members)).is_streamed is is_seen


def test_the_most_that_an_answer_may_be_is_known() -> None:
    assert inference_of(chat("a", max_tokens=7)).prompt.output == 7


class Route:
    """A route whose policy reads prompts: the layer, and what arrives behind it."""

    def __init__(self, bound: int = 10_000) -> None:
        self.layer = Infer(self._end, bound=bound)
        self.exchange = Exchange("id", 0.0, "10.0.0.9")
        self.received = b""
        self.passed: list[Any] = []  # the fields

    async def _end(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed = scope["headers"]
        while True:
            message = await receive()
            self.received += message.get("body", b"")
            if not message.get("more_body"):
                return

    def ask(self, *parts: bytes, kind: bytes = b"application/json", method: str = "POST", length: bool = True) -> None:
        messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts[:-1]]
        messages.append({"type": "http.request", "body": parts[-1], "more_body": False})

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None: ...

        fields = {b"content-type": kind, b"accept-encoding": b"gzip"}
        if length:
            fields[b"content-length"] = b"%d" % sum(map(len, parts))
        self.exchange.fields = fields
        scope = {"exchange": self.exchange, "method": method, "headers": list(fields.items())}
        asyncio.run(self.layer(scope, receive, send))


def test_a_body_that_nobody_has_read_is_read_and_given_on_unchanged() -> None:
    route, text = Route(), chat("hello")
    route.ask(text[:100], text[100:])
    assert route.received == text
    assert route.exchange.inference is not None
    assert len(route.exchange.inference.prompt.chain) == 3


def test_a_body_that_is_too_large_or_of_another_kind_streams_through_and_is_known_by_its_size() -> None:
    for options in ({"kind": b"application/octet-stream"}, {}):
        route, text = Route(bound=2000 if options else 100), chat("hello")
        route.ask(text[:100], text[100:], **options)
        assert route.received == text
        assert route.exchange.body is None
        assert route.exchange.inference is not None
        assert route.exchange.inference.prompt.tokens == len(text) // 4


def test_a_form_with_a_file_is_no_long_prompt_whoever_has_read_it() -> None:
    route = Route(bound=100)
    route.ask(b"x" * 100_000, kind=b"multipart/form-data; boundary=b")
    assert route.exchange.inference is not None
    assert route.exchange.inference.prompt.tokens == 1000
    route.exchange.body = b"x" * 100_000
    route.ask(b"x" * 100_000, kind=b"multipart/form-data; boundary=b")
    assert route.exchange.inference.prompt.tokens == 1000


def test_an_answer_is_asked_for_in_which_tokens_can_be_counted() -> None:
    """A compressed one was taken for one that generated nothing: all of its time for that of its prompt."""
    route = Route()
    route.ask(chat("hello"))
    assert dict(route.passed)[b"accept-encoding"] == b"identity"


def test_a_request_that_brings_no_body_has_no_prompt() -> None:
    route = Route()
    route.ask(b"", method="GET")
    assert route.exchange.inference is None


def test_a_client_that_leaves_in_its_body_is_not_waited_for() -> None:
    route = Route()

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    route.exchange.fields = {b"content-type": b"application/json", b"content-length": b"100"}
    with pytest.raises(ClientLeft):
        asyncio.run(route.layer({"exchange": route.exchange, "method": "POST"}, receive, receive))
