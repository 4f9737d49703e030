"""What an answer says that it took: the last `usage` object in its end.

Of an answer no more is kept than its last few kilobytes, where `usage` is (OpenAI's APIs and those who speak them; a
stream has it in its last chunk if the client or the server asks for it), and its first few, where vLLM has that of a
reranking, llama.cpp that of embeddings, and an Anthropic stream what it has read; and no more is looked at than its
events are counted.
"""

import json
import re
from collections import deque
from math import inf
from typing import Any, Final

TAIL: Final = 4096  # bytes of an answer's end that are kept; vLLM, SGLang and llama.cpp put `usage` in the last 1 KiB
# Of a count of tokens. The largest contexts are of a million or ten; a longer number is none, but an overflow or a lie,
# and whoever is charged for it waits for years.
_DIGITS: Final = 7
_NAME: Final = b'"usage":'
# What says it beside its answer: the own APIs of Ollama, SGLang (/generate), llama.cpp (/completion), TGI (/generate).
_COUNTED: Final = {
    b"prompt_eval_count": "prompt_tokens", b"eval_count": "completion_tokens",
    b"prompt_tokens": "prompt_tokens", b"completion_tokens": "completion_tokens",
    b"tokens_evaluated": "prompt_tokens", b"tokens_predicted": "completion_tokens", b"predicted_n": "completion_tokens",
    b"input_length": "prompt_tokens", b"generated_tokens": "completion_tokens",
}  # fmt: skip
_COUNT: Final = re.compile(rb'"(%b)":[ ]?(\d{1,%d})\b' % (b"|".join(_COUNTED), _DIGITS))
_TEXT: Final = re.compile(rb'\s*\[?\s*\{"(?:generated_text|text_output)":')  # TGI's, Triton's (/generate)
_scan = json.JSONDecoder(parse_int=lambda text: int(text) if len(text) <= _DIGITS else inf).raw_decode


class Tail:
    """The end of an answer, its beginning, and how many events a stream had."""

    __slots__ = ("_head", "_kept", "_parts", "bytes", "events", "is_stream", "mark")

    def __init__(self) -> None:
        self.is_stream = False
        self.mark = b"data:"  # of an event
        self.bytes = 0
        self.events = 0
        self._head = b""
        self._parts: deque[bytes] = deque()  # the last TAIL bytes, and what else is in the oldest part
        self._kept = 0

    def add(self, body: bytes) -> None:
        size = len(body)
        self.bytes += size
        if self.is_stream:
            self.events += body.count(self.mark)
        if len(self._head) < TAIL:
            self._head += body[: TAIL - len(self._head)]
        parts = self._parts
        parts.append(body)
        self._kept += size
        while self._kept - len(parts[0]) >= TAIL:
            self._kept -= len(parts.popleft())

    def usage(self) -> dict[str, Any] | None:
        """None if there is none."""
        end = b"".join(self._parts)
        told = last_usage(end)
        if not self.is_stream:
            return told or last_usage(self._head) or _counted_in(end) or _counted_in(self._head)
        if told is None:
            return _counted_in(end)
        if "output_tokens" in told and "input_tokens" not in told:
            first = _usage_at(self._head, self._head.find(_NAME))
            return {**first, **told} if first is not None else told
        return told

    @property
    def is_text(self) -> bool:
        """All of it is what a model wrote, as far as its beginning tells."""
        return not self.is_stream and _TEXT.match(self._head) is not None

    def __repr__(self) -> str:
        return f"<Tail of {self.bytes} bytes, {self.events} events>"


def last_usage(text: bytes) -> dict[str, Any] | None:
    """None if there is none. Inside a JSON string the name's closing quote would be escaped: no text that a model
    writes is taken for it."""
    return _usage_at(text, text.rfind(_NAME))


def _usage_at(text: bytes, start: int) -> dict[str, Any] | None:
    if start < 0:
        return None
    try:
        usage: Any = _scan(text[start + len(_NAME) :].decode("utf-8", "replace").lstrip())[0]
    except (ValueError, RecursionError):
        return None
    return usage if isinstance(usage, dict) else None


def _counted_in(text: bytes) -> dict[str, Any] | None:
    text = text[-TAIL:]
    if not any(name in text for name in _COUNTED):  # as in most streams: half the time of the pattern
        return None
    return {_COUNTED[name]: int(count) for name, count in _COUNT.findall(text)} or None


def generated_in(usage: dict[str, Any]) -> int | None:
    """Tokens of the output; None if it does not say."""
    wrote = usage.get("completion_tokens", usage.get("output_tokens"))
    return max(wrote, 0) if isinstance(wrote, int) else None
