"""A request for tokens as policies follow it: its prompt, where it runs, what is seen of its answer.

`Informed` is a policy for language models as a pool has it: told of every attempt (`core/outcome.py`), it keeps each
endpoint's picture of pending prompts and running streams. The first token is the first bytes of an event stream behind
its head, and behind what says no more than that it goes on. An answer in one piece shows none: its prompt is presumed
to be prefilled when the endpoint's speed says so, and its end tells by how much that speed was off. One that generated
nothing (embeddings) is all prefill, and its head is as good as a first token.
"""

import re
from collections.abc import Sequence
from math import inf
from random import Random
from typing import Final

from gateway.core.endpoint import Endpoint
from gateway.core.ledger import Ledger
from gateway.core.outcome import Outcome
from gateway.core.policy import PromptPolicy
from gateway.core.prompt import CHARACTERS, Prompt
from gateway.core.speed import FIRST
from gateway.core.usage import Tail, generated_in
from gateway.core.work import ENGINE_FRESH, Stream

# Events that come before a first token: what keeps a connection alive, and that a request was taken.
_WAITING: Final = re.compile(
    rb"(?:(?::|event: ?(?:ping|message_start|response\.(?:created|queued|in_progress))\r?[\n\r]data:)"
    rb"[^\r\n]*+[\r\n]*+)*+"
)
FULL: Final = 0.95  # of an engine's cache: it keeps some blocks back


class Inference:
    """One request. Several attempts of it may run at one time."""

    __slots__ = ("head_at", "is_begun", "is_streamed", "prompt", "streams", "tail")

    def __init__(self, prompt: Prompt, *, is_streamed: bool = True) -> None:
        self.prompt = prompt
        self.is_streamed = is_streamed  # its tokens come one by one, or there are none: its first one will be seen
        self.streams: dict[Endpoint, Stream] = {}
        self.tail = Tail()
        self.head_at = -inf  # when the answer's head came
        self.is_begun = False  # some of a stream came

    def begin(self, *, is_stream: bool) -> None:
        """The head of the answer passes."""
        self.tail.is_stream = is_stream

    def pass_on(self, body: bytes, endpoint: Endpoint | None, now: float) -> None:
        """A part of the answer passes, from this endpoint."""
        if not self.is_begun and self.tail.is_stream and _WAITING.fullmatch(body) is None:
            self.is_begun = True
            stream = self.streams.get(endpoint) if endpoint is not None else None
            if stream is not None:
                stream.first(now)
        self.tail.add(body)

    def generated(self) -> int:
        """Tokens of the output: as its bill says, else one for each event of a stream, or by the length of a text."""
        usage = self.tail.usage()
        told = generated_in(usage) if usage is not None else None
        if told is not None:
            return told
        if self.tail.is_stream:
            return self.tail.events
        return self.tail.bytes // CHARACTERS if self.tail.is_text else 0

    def __repr__(self) -> str:
        return f"<Inference {self.prompt!r} {list(self.streams.values())} {self.tail!r}>"


class Informed:
    """A policy and a watcher. What has no prompt (a list of models) is picked for without one."""

    __slots__ = ("ledger", "policy", "presumed_at", "unseen")

    def __init__(self, policy: PromptPolicy, ledger: Ledger | None = None) -> None:
        """`ledger`: what the other workers tell of their prompts."""
        self.policy = policy
        self.ledger = ledger
        self.unseen: dict[Stream, float] = {}  # whose first token nobody will see, and when it should have come
        self.presumed_at = inf  # the first of these moments

    def pick(self, candidates: Sequence[Endpoint], key: object, now: float, rng: Random) -> Endpoint:
        if now >= self.presumed_at:
            self.presume(now)
        if isinstance(key, Inference):
            if self.ledger is not None:
                self.ledger.listen()
            if is_any_full(candidates, now):
                candidates = [each for each in candidates if not is_full(each, now)] or candidates
            return self.policy.choose(candidates, key.prompt, now, rng)
        return self.policy.pick(candidates, b"", now, rng)

    def began(self, request: object, endpoint: Endpoint, now: float) -> None:
        if isinstance(request, Inference):
            if endpoint in request.streams:  # another attempt runs there: both are one prompt of its cache
                self._end(request.streams.pop(endpoint), now)
            stream = request.streams[endpoint] = self.policy.begin(endpoint, request.prompt, now)
            if self.ledger is not None and request.prompt.chain:
                self.ledger.tell(endpoint.slot, request.prompt.chain)
            work = endpoint.work
            work.asked += request.prompt.tokens
            work.found += request.prompt.tokens - stream.tokens
            if not request.is_streamed:
                base, slope = FIRST  # until it has shown its own
                due = now + (work.b + work.a * work.ahead(now) if work.a > 0.0 else base + slope * work.pending)
                self.unseen[stream] = due
                self.presumed_at = min(due, self.presumed_at)

    def first_byte(self, request: object, endpoint: Endpoint, seconds: float, now: float) -> None:
        if isinstance(request, Inference):
            request.head_at = now

    def ended(self, request: object, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        if not isinstance(request, Inference):
            return
        stream = request.streams.pop(endpoint, None)
        if stream is None:
            return
        is_unseen = self.unseen.pop(stream, None) is not None or not request.is_streamed
        is_failed = outcome.error is not None or outcome.status >= 400
        generated = 0 if is_failed else request.generated()
        if not is_failed and not generated and not request.tail.is_stream:
            stream.first(request.head_at)
        if is_unseen and generated:
            stream.learn_whole(now, generated)
        stream.end(now, 0 if is_unseen else generated, is_failed=is_failed)

    def _end(self, stream: Stream, now: float) -> None:
        self.unseen.pop(stream, None)
        stream.end(now, is_failed=True)

    def presume(self, now: float) -> None:
        """Those that should run by now, do."""
        for stream in [stream for stream, due in self.unseen.items() if due <= now]:
            stream.presume(now)
            del self.unseen[stream]
        self.presumed_at = min(self.unseen.values(), default=inf)

    def __repr__(self) -> str:
        return f"<Informed {type(self.policy).__name__}>"


def is_full(endpoint: Endpoint, now: float) -> bool:
    """Its engine says that requests wait for room in its cache: it would begin no other, whoever sent them."""
    engine = endpoint.work.engine
    return engine is not None and engine.waiting > 0 and engine.kv_usage >= FULL and now - engine.at <= ENGINE_FRESH


def is_any_full(endpoints: Sequence[Endpoint], now: float) -> bool:
    return any(is_full(endpoint, now) for endpoint in endpoints if endpoint.work.engine is not None)
