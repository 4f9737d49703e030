"""Endpoints, a gateway that uses the code of `core/` as the data plane does, and traffic, under a virtual clock."""

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from math import inf
from random import Random
from typing import Any, NamedTuple

from gateway.core.ejection import Rules
from gateway.core.endpoint import Endpoint, Health, Lease, Row
from gateway.core.line import Line, Waiter
from gateway.core.pick import POLICIES, PROMPTED
from gateway.core.policy import Policy, PromptPolicy
from gateway.core.pool import Pool
from gateway.core.prompt import Prompt
from gateway.core.standing import WORDS
from gateway.core.standing import Cells as Words
from gateway.core.work import Stream
from tests.sim.engine import CHUNK, Engine, Job, Profile

FIRST_LATE = 2.0  # seconds to the first token beyond which a request is lost to its user
TOKEN_LATE = 0.060  # seconds for each further token


class Request:
    """What a client asks for, and what it gets."""

    __slots__ = ("arrived", "began", "blocks", "chain", "end", "first", "head", "is_failed", "on_done", "output",
                 "place", "prompt", "user")  # fmt: skip

    def __init__(self, prompt: int, output: int, chain: Sequence[int] = (), blocks: Sequence[int] = ()) -> None:
        self.prompt = prompt
        self.output = output
        self.chain = chain  # as the gateway sees it
        self.blocks = blocks  # as the engine does
        self.head = b""  # the first characters
        self.user = ""
        self.arrived = self.began = self.first = self.end = 0.0
        self.is_failed = False
        self.place = -1  # the endpoint's number
        self.on_done: Callable[[Request, float], None] | None = None

    @property
    def is_good(self) -> bool:
        if self.is_failed or self.first - self.arrived > FIRST_LATE:
            return False
        return self.output < 2 or (self.end - self.first) / (self.output - 1) <= TOKEN_LATE


class Reading(NamedTuple):
    """A policy that is handed prompts, as `Informed` hands it those of the data plane."""

    policy: PromptPolicy

    def pick(self, candidates: Sequence[Endpoint], key: Prompt, now: float, rng: Random) -> Endpoint:
        return self.policy.choose(candidates, key, now, rng)


class World:
    """One run: a pool under one policy. Times are seconds from 0; the policy's clock is that too."""

    def __init__(
        self,
        profiles: Sequence[Profile],
        policy: str,
        seed: int,
        *,
        block: int = 64,
        attempts: int = 1,
        is_late: bool = False,
    ) -> None:
        size = len(profiles)
        self.rng = Random(seed * 7919 + 1)  # the gateway's own dice
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._count = 0
        self.health = [int(Health.UP)] * size
        self.changes = [0]
        self.since = [0.0] * size
        words = Words([0.0] * WORDS * size, (), self.ring)
        row = Row(self.health, [0] * size, (), self.changes, None, self.since, words)
        self.endpoints = [Endpoint(f"http://10.0.0.{i}:8000", i, row) for i in range(size)]
        self.engines = [Engine(profile, block, self.after) for profile in profiles]
        self.failing: set[int] = set()  # endpoints that answer 500 in 5 ms
        self.attempts = attempts
        self.done: list[Request] = []
        self.places: list[tuple[float, int]] = []  # (time, endpoint) of each attempt
        self.line = Line() if is_late else None
        self.use(policy)

    def use(self, policy: str) -> None:
        chosen: Policy = POLICIES[policy](self.endpoints)
        self.reader: PromptPolicy | None = chosen if policy in PROMPTED else None  # type: ignore[assignment]
        # With these policies, who gets the long prompts is no outlier.
        rules = Rules(slowness=inf) if self.reader is not None else Rules()
        picked = chosen if self.reader is None else Reading(self.reader)
        self.pool = Pool("m", "v", self.endpoints, picked, ("m", None), rules=rules)

    def ring(self) -> None:
        self.changes[0] += 1

    def after(self, time: float, call: Callable[[float, Any], None], argument: Any) -> None:
        self._count += 1
        heappush(self._heap, (time, self._count, call, argument))

    def set_health(self, place: int, health: Health, now: float) -> None:
        self.health[place] = health
        self.since[place] = now if health is Health.UP else 0.0
        self.ring()

    def run(self, arrivals: Iterable[tuple[float, Request]]) -> list[Request]:
        """Requests at their times (ascending), and all that follows from them -> those that are over, all of them."""
        coming = iter(arrivals)
        heap = self._heap
        upcoming = next(coming, None)
        while heap or upcoming is not None:
            if upcoming is not None and (not heap or upcoming[0] <= heap[0][0]):
                self.now = upcoming[0]
                self.arrive(self.now, upcoming[1])
                upcoming = next(coming, None)
            else:
                self.now, _, call, argument = heappop(heap)
                call(self.now, argument)
        return self.done

    # --- the gateway ---

    def arrive(self, now: float, request: Request) -> None:
        request.arrived = now
        if self.line is None:
            self.attempt(now, request, ())
            return
        self.line.add(Waiter(0, request.user, now, inf, request))
        self.pump(now)

    def pump(self, now: float) -> None:
        """Late binding: while an endpoint has at most a chunk pending, the next in line is bound."""
        while self.line is not None and (waiter := self.line.next()) is not None:
            busy = tuple([endpoint for endpoint in self.endpoints if endpoint.work.pending > CHUNK])
            if not self.pool.candidates(busy, now):
                return
            self.line.serve(waiter, now)
            self.attempt(now, waiter.what, busy)

    def attempt(self, now: float, request: Request, tried: tuple[Endpoint, ...]) -> None:
        key: Any = request.head
        if self.reader is not None:
            key = Prompt(request.prompt, request.chain, request.head, principal=request.user)
        endpoint = self.pool.pick(key, now, self.rng, tried)
        assert endpoint is not None
        lease = endpoint.lease()
        lease.__enter__()
        stream = self.reader.begin(endpoint, key, now) if self.reader is not None else None
        request.place = place = endpoint.slot
        request.began = now
        self.places.append((now, place))
        call = Call(self, request, endpoint, lease, stream, (*tried, endpoint))
        if place in self.failing:
            self.after(now + 0.005, call.fail, None)
            return
        job = Job(request.prompt, request.output, request.blocks)
        job.on_first = call.first
        job.on_end = call.end
        self.engines[place].add(job, now)

    def finish(self, request: Request, now: float) -> None:
        request.end = now
        self.done.append(request)
        self.pump(now)
        if request.on_done is not None:
            request.on_done(request, now)


class Call:
    """One attempt under way."""

    __slots__ = ("endpoint", "lease", "request", "stream", "tried", "world")

    def __init__(
        self, world: World, request: Request, endpoint: Endpoint, lease: Lease, stream: Stream | None,
        tried: tuple[Endpoint, ...],
    ) -> None:  # fmt: skip
        self.world = world
        self.request = request
        self.endpoint = endpoint
        self.lease = lease
        self.stream = stream
        self.tried = tried

    def first(self, now: float) -> None:
        self.request.first = now
        self.endpoint.observe(now - self.request.began, now)
        if self.stream is not None:
            self.stream.first(now)
        self.world.pump(now)

    def end(self, now: float) -> None:
        if self.stream is not None:
            self.stream.end(now, self.request.output)
        self.lease.__exit__(None, None, None)
        self.endpoint.standing.succeed(now)
        self.world.finish(self.request, now)

    def fail(self, now: float, _: None) -> None:
        world = self.world
        if self.stream is not None:
            self.stream.end(now, is_failed=True)
        self.lease.__exit__(None, None, None)
        world.pool.judge(self.endpoint, 500, 0.0, now)
        if len(self.tried) < world.attempts:
            world.attempt(now, self.request, self.tried)
            return
        self.request.is_failed = True
        self.request.first = now
        world.finish(self.request, now)
