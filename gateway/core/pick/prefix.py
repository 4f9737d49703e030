"""Policies that keep prompts of one beginning together."""

from collections.abc import Sequence
from random import Random
from typing import Final

from gateway.core.endpoint import Endpoint
from gateway.core.pick.hashing import consistent_hash
from gateway.core.pick.prompted import Prompted
from gateway.core.prompt import Prompt

BALANCE_ABS: Final = 64
BALANCE_REL: Final = 1.5
THRESHOLD: Final = 0.3


class CacheAware(Prompted):
    """SGLang's rule: where the most of the prompt is kept, if that is more than 30 % of it; else, and whenever loads
    are uneven (apart by more than 64 requests and by more than half), where the fewest requests are in flight."""

    __slots__ = ()

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        self._refresh(now)
        loads = [endpoint.pending for endpoint in candidates]
        least, most = min(loads), max(loads)
        if most - least <= BALANCE_ABS or most <= BALANCE_REL * least:
            uncached = self._uncached(candidates, prompt)
            fewest = min(uncached)
            if prompt.tokens - fewest > THRESHOLD * prompt.tokens:
                # Of several that have as much, the least loaded.
                loads = [load if new == fewest else most + 1 for load, new in zip(loads, uncached, strict=True)]
        return candidates[self._rotation.least(loads, rng)]


class PrefixHash(Prompted):
    """KubeAI's: the first 100 characters are the key of a ring with bounded loads (1.25 averages), so that no index is
    needed and gateways agree without a word. What has no prompt is hashed by the request's key."""

    __slots__ = ("_hash",)

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        super().__init__(endpoints)
        self._hash = consistent_hash(endpoints, "ring", 1.25)

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        return self._hash.pick(candidates, prompt.head, now, rng)
