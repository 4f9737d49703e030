"""What an answer says that it took: the last `usage` object in its end.

Of an answer no more is kept than its last few kilobytes, where `usage` is (OpenAI's APIs and those who speak them; a
stream has it in its last chunk if the client or the server asks for it), and no more is looked at than its events are
counted.
"""

import json
from collections import deque
from math import inf
from typing import Any, Final

TAIL: Final = 4096  # bytes of an answer's end that are kept; vLLM, SGLang and llama.cpp put `usage` in the last 1 KiB
_DIGITS: Final = 15  # of a count of tokens; a longer number is none
_scan = json.JSONDecoder(parse_int=lambda text: int(text) if len(text) <= _DIGITS else inf).raw_decode


class Tail:
    """The end of an answer, and how many events a stream had."""

    __slots__ = ("_kept", "_parts", "bytes", "events", "is_stream")

    def __init__(self) -> None:
        self.is_stream = False
        self.bytes = 0
        self.events = 0
        self._parts: deque[bytes] = deque()  # the last TAIL bytes, and what else is in the oldest part
        self._kept = 0

    def add(self, body: bytes) -> None:
        size = len(body)
        self.bytes += size
        if self.is_stream:
            self.events += body.count(b"data:")
        parts = self._parts
        parts.append(body)
        self._kept += size
        while self._kept - len(parts[0]) >= TAIL:
            self._kept -= len(parts.popleft())

    def end(self) -> bytes:
        """What is kept."""
        return b"".join(self._parts)

    def __repr__(self) -> str:
        return f"<Tail of {self.bytes} bytes, {self.events} events>"


def last_usage(tail: bytes) -> dict[str, Any] | None:
    """None if there is none. Inside a JSON string the name's closing quote would be escaped: no text that a model
    writes is taken for it."""
    start = tail.rfind(b'"usage":')
    if start < 0:
        return None
    try:
        usage: Any = _scan(tail[start + 8 :].decode("utf-8", "replace").lstrip())[0]
    except (ValueError, RecursionError):
        return None
    return usage if isinstance(usage, dict) else None


def generated_in(usage: dict[str, Any]) -> int | None:
    """Tokens of the output; None if it does not say."""
    wrote = usage.get("completion_tokens", usage.get("output_tokens"))
    return max(wrote, 0) if isinstance(wrote, int) else None
