"""What the policies for language models have in common: who began what where.

    endpoint = policy.choose(candidates, prompt, now, rng)
    with endpoint.lease():
        stream = policy.begin(endpoint, prompt, now)
        ...                                      stream.first(now) at the first token
        stream.end(now, tokens)                  however it ends; `is_failed` if the endpoint failed

All of them scan every candidate, exactly.
"""

from collections.abc import Sequence
from random import Random

from gateway.core.endpoint import Endpoint
from gateway.core.load import Loads, Works
from gateway.core.pick.turns import Rotation
from gateway.core.prefixes import prefixes_of
from gateway.core.prompt import BLOCK_TOKENS, Prompt
from gateway.core.speed import OUTPUT
from gateway.core.work import Stream


class Prompted:
    """Requests without a prompt go where the fewest are in flight."""

    __slots__ = ("_loads", "_prefixes", "_rotation", "_works")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._loads = Loads(endpoints)
        self._works = Works(endpoints)
        self._prefixes = prefixes_of(endpoints)
        self._rotation = Rotation()

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        self._refresh(now)
        return self._rotation.idlest(candidates, rng)

    def begin(self, endpoint: Endpoint, prompt: Prompt, now: float) -> Stream:
        cached = self._prefixes.count(endpoint, prompt.chain) * BLOCK_TOKENS
        self._prefixes.add(endpoint, prompt.chain)
        usual = int(endpoint.work.speed.output.mean_y) or OUTPUT
        return endpoint.work.begin(prompt.tokens, cached, min(prompt.output or usual, usual), now)

    def _refresh(self, now: float) -> None:
        if now >= self._loads.due:
            self._loads.refresh(now)
        if now >= self._works.due:
            self._works.refresh(now)

    def _uncached(self, candidates: Sequence[Endpoint], prompt: Prompt) -> list[int]:
        """Tokens that each candidate would have to prefill."""
        tokens = prompt.tokens
        found = self._prefixes.match(prompt.chain)
        if not found:
            return [tokens] * len(candidates)
        return [max(tokens - found.get(endpoint, 0) * BLOCK_TOKENS, 1) for endpoint in candidates]
