"""How many requests an endpoint can have at one time, found out from how long it takes: Netflix's Gradient2.

A server with work to spare answers in about the time it always takes; one with too much makes its requests queue, and
they take longer. So the limit follows the gradient long-term time / present time, which is 1 at rest and falls as a
queue builds up, plus a few requests of head-room that let it probe upwards:

    limit' = limit x clamp(TOLERANCE x long / now, 0.5, 1) + HEADROOM        smoothed by SMOOTHING

(github.com/Netflix/concurrency-limits, Gradient2Limit; the constants are its defaults.) In one thing this differs:
there, the long-term time rises as fast as it falls, so that an overload that lasts for minutes becomes what is usual,
and the limit follows it up. Here it falls within some thirty samples and takes some ten thousand to rise.

The time is the one to the first byte: how long the rest takes is, for a stream, the client's wish and not the server's
state.
"""

from typing import Any

from gateway.core.endpoint import Endpoint
from gateway.core.outcome import Outcome

TOLERANCE = 1.5  # how much slower than usual is no sign of a queue
HEADROOM = 4.0
SMOOTHING = 0.2
FALL, RISE = 2 / 31, 2 / 12_001  # weights of a sample in the long-term time, below and above it
WARMUP = 10  # the first samples of it are a plain mean
BACKOFF = 0.9  # of the limit remains after a failure
SLACK = 2.0  # a limit that is used by less than this part of it learns nothing


class Gradient:
    """The limit of one endpoint."""

    __slots__ = ("least", "limit", "long", "most", "samples")

    def __init__(self, least: float, most: float, start: float) -> None:
        self.least = least
        self.most = most
        self.limit = min(max(start, least), most)
        self.long = 0.0  # seconds
        self.samples = 0

    def sample(self, seconds: float, in_flight: int) -> None:
        """An answer began after `seconds`, with `in_flight` requests at the endpoint."""
        if seconds <= 0:
            return
        self.samples += 1
        weight = 1 / self.samples if self.samples <= WARMUP else FALL if seconds < self.long else RISE
        self.long += (seconds - self.long) * weight
        if in_flight < self.limit / SLACK:
            return
        gradient = max(0.5, min(1.0, TOLERANCE * self.long / seconds))
        fresh = self.limit * gradient + HEADROOM
        self._set(self.limit * (1 - SMOOTHING) + fresh * SMOOTHING)

    def fail(self) -> None:
        """The endpoint failed, or said that it has too much."""
        self._set(self.limit * BACKOFF)

    def _set(self, limit: float) -> None:
        self.limit = min(max(limit, self.least), self.most)

    def __repr__(self) -> str:
        return f"<Gradient {self.limit:.1f} of {self.least:.0f} to {self.most:.0f}, usually {self.long:.4f} s>"


class Gradients:
    """The limits of a pool's endpoints, for what this worker sends them: a `Watcher` of the pool."""

    __slots__ = ("_known", "bounds")

    def __init__(self, least: int, most: int, start: int) -> None:
        self.bounds = (least, most, start)
        self._known: dict[str, Gradient] = {}

    def of(self, endpoint: Endpoint) -> Gradient:
        known = self._known.get(endpoint.url)
        if known is None:
            known = self._known[endpoint.url] = Gradient(*self.bounds)
        return known

    def has_room(self, endpoint: Endpoint) -> bool:
        return endpoint.in_flight < int(self.of(endpoint).limit)

    def began(self, request: Any, endpoint: Endpoint, now: float) -> None:
        """Nothing is known yet."""

    def first_byte(self, request: Any, endpoint: Endpoint, seconds: float, now: float) -> None:
        self.of(endpoint).sample(seconds, endpoint.in_flight)

    def ended(self, request: Any, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        if outcome.is_failure or outcome.status == 429:
            self.of(endpoint).fail()

    def __repr__(self) -> str:
        return f"<Gradients {self._known}>"
