"""What a policy is: how a pool chooses among its endpoints. They are in `pick/`."""

from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from gateway.core.endpoint import Endpoint
from gateway.core.prompt import Prompt
from gateway.core.work import Stream


class Policy(Protocol):
    """How a pool chooses."""

    def pick(self, candidates: Sequence[Endpoint], key: Any, now: float, rng: Random) -> Endpoint:
        """Choose among `candidates` (never empty, a subset of the pool's endpoints). `key` is what it picks by: the
        bytes that a hash hashes, or an `Inference`."""
        ...


class PromptPolicy(Policy, Protocol):
    """A policy that reads prompts; `pick` is for what has none. See `pick/prompted.py`."""

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        """As `pick`, by what the request is."""
        ...

    def begin(self, endpoint: Endpoint, prompt: Prompt, now: float) -> Stream:
        """The prompt is sent to `endpoint` now, whoever chose it. What becomes of it, the stream must be told."""
        ...
