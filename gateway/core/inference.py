"""A request for tokens as policies follow it: its prompt, where it runs, what is seen of its answer.

`Informed` is a policy for language models as a pool has it: told of every attempt (`core/outcome.py`), it keeps each
endpoint's picture of pending prompts and running streams. The first token is the first bytes of an event stream behind
its head. An answer in one piece tells of no first token, and so of no speed; one that generated nothing (embeddings) is
all prefill, and its head is as good as a first token.
"""

from collections.abc import Sequence
from math import inf
from random import Random

from gateway.core.endpoint import Endpoint
from gateway.core.outcome import Outcome
from gateway.core.prompt import Prompt
from gateway.core.snapshot import PromptPolicy
from gateway.core.usage import Tail, generated_in, last_usage
from gateway.core.work import Stream


class Inference:
    """One request. Several attempts of it may run at one time."""

    __slots__ = ("head_at", "is_begun", "prompt", "streams", "tail")

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.streams: dict[Endpoint, Stream] = {}
        self.tail = Tail()
        self.head_at = -inf  # when the answer's head came
        self.is_begun = False  # some of a stream came

    def begin(self, *, is_stream: bool) -> None:
        """The head of the answer passes."""
        self.tail.is_stream = is_stream

    def pass_on(self, body: bytes, endpoint: Endpoint | None, now: float) -> None:
        """A part of the answer passes, from this endpoint."""
        if not self.is_begun and body and self.tail.is_stream:
            self.is_begun = True
            stream = self.streams.get(endpoint) if endpoint is not None else None
            if stream is not None:
                stream.first(now)
        self.tail.add(body)

    def generated(self) -> int:
        """Tokens of the output: as its bill says, else a token for each event of a stream."""
        usage = last_usage(self.tail.end())
        told = generated_in(usage) if usage is not None else None
        if told is not None:
            return told
        return self.tail.events if self.tail.is_stream else 0

    def __repr__(self) -> str:
        return f"<Inference {self.prompt!r} {list(self.streams.values())} {self.tail!r}>"


class Informed:
    """A policy and a watcher. What has no prompt (a list of models) is picked for without one."""

    __slots__ = ("policy",)

    def __init__(self, policy: PromptPolicy) -> None:
        self.policy = policy

    def pick(self, candidates: Sequence[Endpoint], key: object, now: float, rng: Random) -> Endpoint:
        if isinstance(key, Inference):
            return self.policy.choose(candidates, key.prompt, now, rng)
        return self.policy.pick(candidates, b"", now, rng)

    def began(self, request: object, endpoint: Endpoint, now: float) -> None:
        if isinstance(request, Inference):
            stream = request.streams[endpoint] = self.policy.begin(endpoint, request.prompt, now)
            work = endpoint.work
            work.asked += request.prompt.tokens
            work.found += request.prompt.tokens - stream.tokens

    def first_byte(self, request: object, endpoint: Endpoint, seconds: float, now: float) -> None:
        if isinstance(request, Inference):
            request.head_at = now

    def ended(self, request: object, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        if not isinstance(request, Inference):
            return
        stream = request.streams.pop(endpoint)
        is_failed = outcome.error is not None or outcome.status >= 400
        generated = 0 if is_failed else request.generated()
        if not is_failed and not generated and not request.tail.is_stream:
            stream.first(request.head_at)
        stream.end(now, generated, is_failed=is_failed)

    def __repr__(self) -> str:
        return f"<Informed {type(self.policy).__name__}>"
