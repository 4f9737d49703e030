"""The default for language models: where one more request costs everybody the fewest seconds.

    ttft  = b + a (pending + new)          of this request, were it sent to this endpoint
    tpot  = e + d (running + 1)            of each of its tokens
    score = ttft + O tpot                  what it costs itself, for an output of O tokens
          + running a new                  what its prefill costs the streams that run there
          + running O/2 d                  what its tokens cost them; on average they are half done

a, b, d, e are each endpoint's own, learned from what passed through it, and O is the route's average: there is nothing
to configure. An endpoint that nothing is known of yet is taken to be like the others.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from gateway.core.endpoint import Endpoint
from gateway.core.pick.prompted import Prompted
from gateway.core.prompt import Prompt
from gateway.core.speed import Line, fleet_slope, fleet_variance, settle

SETTLE: Final = 0.25  # seconds between two looks at what was learned
# Taken for true until the first sample: an 8B model on a large accelerator. Any numbers would do, since they are equal
# for all; these weigh the terms as they will be found to weigh.
FIRST: Final = (0.02, 5e-5)
EACH: Final = (0.01, 1e-4)
OUTPUT: Final = 200.0


class Llm(Prompted):
    __slots__ = ("_endpoints", "_output", "_settle_at")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        super().__init__(endpoints)
        self._endpoints = tuple(endpoints)
        self._output = OUTPUT
        self._settle_at = float("-inf")

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        self._refresh(now)
        if now >= self._settle_at:
            self._settle(now)
        uncached = self._uncached(candidates, prompt)
        output = self._output
        scores = []
        for endpoint, new in zip(candidates, uncached, strict=True):
            work = endpoint.work
            running = work.running
            scores.append(
                work.b
                + work.a * (work.pending + new * (1 + running))
                + output * (work.e + work.d * (1.5 * running + 1.0))
            )
        return candidates[self._rotation.least(scores, rng)]

    def _settle(self, now: float) -> None:
        """Fit every endpoint's lines anew, each beside what is known of the fleet."""
        self._settle_at = now + SETTLE
        works = [endpoint.work for endpoint in self._endpoints]
        firsts = fit([work.speed.first for work in works], FIRST)
        eaches = fit([work.speed.each for work in works], EACH)
        for work, (b, a), (e, d) in zip(works, firsts, eaches, strict=True):
            work.b, work.a, work.e, work.d = b, a, e, d
        outputs = [work.speed.output for work in works]
        weight = sum([line.weight for line in outputs])
        if weight > 0.0:
            self._output = sum([line.weight * line.mean_y for line in outputs]) / weight


def fit(lines: Sequence[Line], default: tuple[float, float]) -> list[tuple[float, float]]:
    """Base and slope of each; the fleet's mean of both where nothing is known."""
    known = [line for line in lines if line.weight > 0.0]
    if not known:
        return [default] * len(lines)
    slope, variance = fleet_slope(known), fleet_variance(known)
    settled = {id(line): settle(line, slope, variance) for line in known}
    mean = (sum([b for b, _ in settled.values()]) / len(known), sum([a for _, a in settled.values()]) / len(known))
    return [settled.get(id(line), mean) for line in lines]
