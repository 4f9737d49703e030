"""The default for language models: where one more request costs everybody the fewest seconds.

    wait  = a ahead                           until its prefill begins, were it sent to this endpoint
    ttft  = b + a new s                       from then to its first token
    tpot  = s (e + d (context + own))         of each of its tokens
    slow  = (tpot / PACE)^4, at most 1        how near that is to what its reader no longer bears
    score = QUEUE wait/(1 + wait/LATE) + wait + ttft + O tpot (1 + slow)    what it costs itself, for O tokens
          + others a new felt (1 + slow)                      what its prefill costs those that are there before it
          + others O/2 s d own (1 + 5 slow)                   what its tokens cost them; on average they are half done
          + REDO r/(1 - r) fleet's a new (1 + fleet's slow)   what its prefill takes from those to come
          + error cost

`ahead` are the tokens to prefill before it, `new` those of its own prompt that the endpoint does not keep, `context`
the tokens that its steps read, `own` those of this request, `others` the requests in flight there. a, b, d, e are each
endpoint's own, learned from what passed through it, and so is s = 1/(1 - share of its time that prefills take): what
these make of a second of decoding, and what a second of prefill costs with all who will have to wait for it. r is the
share of the whole fleet's time. O is the route's average. There is nothing to configure. An endpoint that nothing is
known of yet is taken to be like the others, and so is one that nothing was heard of for long: it is explored by few
requests, as one that is late with its first token is not sent more.

Where engines tell their own load (`engine_metrics`), requests that reached them by other ways count as those of this
gateway do, as far as their tokens can be guessed, and one that finds the cache full waits until others have made room.
"""

from collections.abc import Sequence
from math import inf
from random import Random
from typing import Final

from gateway.core.endpoint import Endpoint
from gateway.core.pick.prompted import Prompted
from gateway.core.prompt import Prompt
from gateway.core.speed import EACH, FIRST, OUTPUT, fit
from gateway.core.standing import error_cost
from gateway.core.strangers import Strangers
from gateway.core.work import BUSIEST, ENGINE_FRESH, RECENT, Work

# A second that a prompt waits for others weighs as much as so many of its own: it is the part that another choice would
# have spared, and it falls on few, whose first token is then the late one.
QUEUE: Final = 26.0
# A second in which an endpoint prefills what another one keeps is lost to all that would have come meanwhile, and what
# is kept twice pushes out what is then missed. In seconds of the fleet, not of the endpoint, and the same for all where
# none keeps anything: it holds conversations together, and says nothing of who is fast. It goes with r/(1 - r), as
# what comes until a server that is busy r of its time has caught up: a fleet with time to spare loses nothing, and may
# well keep a beginning that many share on all of its endpoints.
REDO: Final = 80.0
# A request that has waited so long has lost its user: what it waits beyond that is no more than its seconds. So a fleet
# that cannot carry its load lets few endpoints fall behind and keeps the others in time, where else all would be late.
LATE: Final = 2.0
# Seconds for a token, beyond which a reader waits for text. The seconds of a stream count 1 + slow times, those that
# make its pace slower as the slope of tpot (1 + slow). In sum it were quickest to have long prompts share an endpoint,
# and leave the streams of the others alone; those that are there would not be borne.
PACE: Final = 0.06
STEEP: Final = 5.0  # tpot^5/PACE^4 is so many times as steep
FELT: Final = 0.03  # seconds that a stream may stand still until half of it is felt: text is read slower than it comes
SETTLE: Final = 0.25  # seconds between two looks at what was learned
SETTLE_EACH: Final = 0.002  # at least so many for each endpoint: a look takes 10 us for each


class Llm(Prompted):
    """Exact full scan: 1 us an endpoint."""

    __slots__ = ("_endpoints", "_output", "_redo", "_settle_at", "_strangers")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        super().__init__(endpoints)
        self._endpoints = tuple(endpoints)
        self._output = float(OUTPUT)
        self._redo = 0.0  # seconds for each token
        self._settle_at = -inf
        self._strangers = [Strangers() for _ in endpoints]

    def choose(self, candidates: Sequence[Endpoint], prompt: Prompt, now: float, rng: Random) -> Endpoint:
        self._refresh(now)
        if now >= self._settle_at:
            self._settle(now)
        uncached = self._uncached(candidates, prompt)
        output = min(self._output, prompt.output) if prompt.output else self._output
        own = prompt.tokens + output / 2
        redo = self._redo
        scores = []
        for endpoint, new in zip(candidates, uncached, strict=True):
            work = endpoint.work
            others, a = endpoint.pending + work.strange, work.a
            context = work.context + work.strange_context
            ahead: float = work.pending
            late = 0.0
            if ahead and work.front:
                # The prompt at the front is prefilled in part; if it should be by now, and is not, something is wrong.
                since = now - work.front_since
                if since < a * work.front:
                    ahead -= since / a
                else:
                    ahead -= work.front
                    late = max(since - a * work.front - work.b, 0.0)
            lack = new + output + work.context + work.pending - work.room
            if lack > 0.0:
                # Its streams, which hold all of `context`, are over in the time of an output: wait for a part of them.
                late += output * work.stretch * (work.e + work.d * context) * min(lack / max(context, 1.0), 1.0)
            stall = a * new
            wait = late + a * (ahead + work.strange_ahead)
            pace = work.stretch * (work.e + work.d * (context + own))
            slow = (pace / PACE) ** 4 if pace < PACE else 1.0  # `slowness`, without the call
            scores.append(
                work.b
                + stall * work.stretch
                + redo * new
                + wait * (1.0 + QUEUE / (1.0 + wait / LATE))
                + (error_cost(endpoint, now) if endpoint.standing.cost else 0.0)
                + output * pace * (1.0 + slow)
                + others * stall * (stall / (stall + FELT)) * (1.0 + slow)
                + others * 0.5 * output * work.stretch * work.d * own * (1.0 + STEEP * slow)
            )
        return candidates[self._rotation.least(scores, rng)]

    def _heed(self, now: float) -> None:
        """What engines said of themselves since the last time."""
        works = [endpoint.work for endpoint in self._endpoints]
        streams = sum([work.running for work in works])
        each = sum([work.context for work in works]) / streams if streams else self._output
        for endpoint, strangers in zip(self._endpoints, self._strangers, strict=True):
            work, engine = endpoint.work, endpoint.work.engine
            is_new = strangers.hear(engine, work.running, endpoint.pending - work.running, now)
            work.meet(strangers.running, strangers.waiting, each, now)
            if engine is None or not engine.cache or now - engine.at > ENGINE_FRESH:
                work.room = inf
            elif is_new:
                work.room = (1.0 - engine.kv_usage) * engine.cache + work.context + work.pending

    def _settle(self, now: float) -> None:
        """Fit every endpoint's lines anew, each beside what is known of the fleet."""
        works = [endpoint.work for endpoint in self._endpoints]
        if any(work.engine is not None for work in works):
            self._heed(now)
        self._settle_at = now + max(SETTLE, SETTLE_EACH * len(works))
        firsts = fit([work.speed.first for work in works], now, FIRST)
        eaches = fit([work.speed.each for work in works], now, EACH)
        for work, (b, a), (e, d) in zip(works, firsts, eaches, strict=True):
            work.b, work.a, work.e, work.d = b, a, e, d
        shares = [busy(work, now) for work in works]
        for work, share in zip(works, shares, strict=True):
            work.stretch = 1.0 / (1.0 - min(share, BUSIEST))
        share = min(sum(shares) / len(works), BUSIEST)
        slow = sum([slowness(work.stretch * (work.e + work.d * work.context)) for work in works]) / len(works)
        each = sum([work.a for work in works]) / len(works)
        self._redo = REDO * share / (1.0 - share) * each * (1.0 + slow)
        outputs = [work.speed.output for work in works]
        weight = sum([line.weight for line in outputs])
        if weight > 0.0:
            self._output = sum([line.weight * line.mean_y for line in outputs]) / weight


def slowness(pace: float) -> float:
    """How near so many seconds for a token are to what a reader no longer bears."""
    return min((pace / PACE) ** 4, 1.0)


def busy(work: Work, now: float) -> float:
    """The share of its time that an endpoint spends on prefills, by the prompts that it was lately sent."""
    work.fade(now)
    return work.a * work.recent / RECENT
