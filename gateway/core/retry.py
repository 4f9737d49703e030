"""Another attempt: when it is safe, how long to wait for it, and how many there may be.

Safe is what cannot have been acted upon, and what may be acted upon twice: by its method, by an `Idempotency-Key`, or
because the route says so. Retries make an overload worse, so a route has a budget of them: for each request that came
in the last seconds a share of one, and a few each second whatever came, so that a quiet route can retry at all
(Finagle's RetryBudget has the same two sources). When all fails, the endpoints see at most the requests, that share of
them, and those few:

    retries in any time T  <=  share x requests in T  +  rate x T  +  what was saved up before it

and what is saved up is at most the share of one mean `MEMORY` of requests, and one second of the rate.
"""

from collections.abc import Collection
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import exp
from random import Random

from gateway.errors import GatewayError, UpstreamError, UpstreamTimeout

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))  # RFC 9110, 9.2.2
STATUSES = (429, 500, 502, 503, 504)  # of answers that mean: not now, or not here
MEMORY = 10.0  # seconds in which what requests have earned falls to 1/e; Finagle forgets it after ten

UNSENT, BROKEN, TIMEOUT = "unsent", "broken", "timeout"


def cause_of(error: GatewayError) -> str:
    """What a failed attempt is called in `retry: {when: ...}`; "" for what is never tried again."""
    if error.is_retryable:
        return UNSENT
    if isinstance(error, UpstreamTimeout):
        return TIMEOUT
    return BROKEN if isinstance(error, UpstreamError) else ""


def asked_pause(value: bytes | None, wall: float) -> float:
    """Seconds that a Retry-After field asks for (RFC 9110, 10.2.3); 0.0 if there is none that can be read. `wall`:
    seconds since the epoch, for a field that names a date."""
    if not value:
        return 0.0
    if value.isdigit():
        return float(value[:9])  # 31 years are as good as for ever
    try:
        return max(parsedate_to_datetime(value.decode("ascii")).timestamp() - wall, 0.0)
    except (ValueError, OverflowError):  # UnicodeDecodeError is one
        return 0.0


class Budget:
    """How many retries a route may make. `requests` is raised for each request; nothing is done for it until a retry
    is asked for. Float seconds of any clock that does not run backwards."""

    __slots__ = ("at", "earned", "rate", "requests", "reserve", "settled", "share")

    def __init__(self, share: float, rate: float, now: float) -> None:
        """`share` of a retry for each request, and `rate` retries each second."""
        self.requests = 0
        self.settled = 0  # requests that `earned` knows of
        self.earned = 0.0
        self.at = now
        self.limit(share, rate)
        self.reserve = self.most

    def limit(self, share: float, rate: float) -> None:
        """Other limits from now on."""
        self.share = share
        self.rate = rate

    @property
    def most(self) -> float:
        """What the rate saves up at most: a second of it, and one whole retry if there is any rate at all."""
        return max(self.rate, 1.0) if self.rate else 0.0

    def take(self, now: float) -> bool:
        """Pay for one retry, if there is enough for it."""
        self._settle(now)
        if self.earned >= 1.0:
            self.earned -= 1.0
        elif self.earned + self.reserve >= 1.0:
            self.reserve -= 1.0 - self.earned
            self.earned = 0.0
        else:
            return False
        return True

    def _settle(self, now: float) -> None:
        passed = max(now - self.at, 0.0)
        came = self.requests - self.settled
        kept = exp(-passed / MEMORY)
        # Those that came are taken to have come evenly: the integral of share x came/passed x exp(-age/MEMORY).
        fresh = came * (1.0 - kept) * MEMORY / passed if passed > 1e-6 else float(came)
        self.earned = self.earned * kept + self.share * fresh
        self.reserve = min(self.reserve + self.rate * passed, self.most)
        self.settled = self.requests
        self.at = now if now > self.at else self.at

    def __repr__(self) -> str:
        return f"<Budget earned={self.earned:.2f} reserve={self.reserve:.2f} of {self.share:.0%} + {self.rate}/s>"


@dataclass(frozen=True, slots=True)
class RetryRules:
    """What a route says of retries."""

    attempts: int  # in all
    causes: frozenset[str]
    statuses: frozenset[int]
    methods: frozenset[str]  # that are safe beside the idempotent ones
    may_repeat: bool  # the same endpoint may be asked again where there is no other
    base: float  # seconds: the longest pause before the first retry
    longest: float

    def is_safe(self, method: str, fields: Collection[bytes]) -> bool:
        """The request may be acted upon twice. `fields`: the names in its head."""
        return method in IDEMPOTENT or method in self.methods or b"idempotency-key" in fields

    def pause(self, made: int, is_other: bool, asked: float, rng: Random) -> float | None:
        """Seconds until the next attempt; None: there is none. `made`: attempts so far; `is_other`: another endpoint
        is there to take it; `asked`: the Retry-After of the one that answered.

        Full jitter (Brooker, "Exponential backoff and jitter", AWS, 2015): between nothing and twice as long each time.
        Retry-After is the word of one endpoint about itself: another need not wait for it.
        """
        if made >= self.attempts:
            return None
        pause = rng.random() * min(self.base * 2.0 ** (made - 1), self.longest)
        if is_other:
            return pause
        if not self.may_repeat or asked > self.longest:
            return None
        return asked + pause

    def __repr__(self) -> str:
        return f"<RetryRules {self.attempts} attempts on {sorted(self.causes)}>"
