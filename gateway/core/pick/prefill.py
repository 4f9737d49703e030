"""Policies by the work before an endpoint, in tokens, and by what it keeps of a prompt."""

from collections.abc import Sequence
from random import Random
from typing import Final

from gateway.core.endpoint import Endpoint
from gateway.core.pick.prompted import Prompted
from gateway.core.prompt import Prompt
from gateway.core.work import ENGINE_FRESH

QUEUE_FULL: Final = 5  # requests before their first token
CACHE_FULL: Final = 0.8  # of the engine's cache


class LeastPrefill(Prompted):
    """`lpwl`, least prefill work left: the prompt's first token comes soonest where the fewest tokens are to be
    prefilled before it, its own included. Knows no speeds, and no streams that run."""

    __slots__ = ()

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        self._refresh(now)
        uncached = self._uncached(candidates, prompt)
        scores = [endpoint.work.pending + new for endpoint, new in zip(candidates, uncached, strict=True)]
        return candidates[self._rotation.least(scores, rng)]


class LMetric(Prompted):
    """`lmetric`: (tokens to prefill) x (requests + 1), so that neither needs a weight against the other."""

    __slots__ = ()

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        self._refresh(now)
        uncached = self._uncached(candidates, prompt)
        scores = [
            (endpoint.work.pending + new) * (endpoint.pending + 1)
            for endpoint, new in zip(candidates, uncached, strict=True)
        ]
        return candidates[self._rotation.least(scores, rng)]


class StickyUntilSaturated(Prompted):
    """llm-d's: of the endpoints that keep the most of the prompt the least loaded, as long as it is not saturated (more
    than 5 requests wait for their first token, or its engine says that 80 % of its cache is in use); else the next; if
    all are, the least loaded of all."""

    __slots__ = ()

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        self._refresh(now)
        free = [endpoint for endpoint in candidates if not is_saturated(endpoint, now)] or candidates
        uncached = self._uncached(free, prompt)
        fewest = min(uncached)
        kept = [endpoint for endpoint, new in zip(free, uncached, strict=True) if new == fewest]
        return self._rotation.idlest(kept, rng)


def is_saturated(endpoint: Endpoint, now: float) -> bool:
    work = endpoint.work
    if endpoint.pending - work.running > QUEUE_FULL:
        return True
    engine = work.engine
    return engine is not None and now - engine.at <= ENGINE_FRESH and engine.kv_usage > CACHE_FULL
