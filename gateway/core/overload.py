"""When the gateway itself has too much to do, and what share of new requests it then refuses.

Refused is what has cost least: a request at the door, before plugins, credentials or its body have been looked at; its
connection, which a handshake has paid for, stays. If that is not enough, new connections wait in the kernel's queue.
What is under way is never touched. Two signs, of which the worse counts:

- The loop's lag: how late a timer fires. A slow turn is none: only if no timer of a whole second was on time, three at
  least, does the share grow, a step with each sample; with each sample that is on time it falls by half.
- Memory: from `_MEMORY_FROM` of the limit on, the share grows with it.
"""

from math import inf

_PATIENCE = 1.0  # seconds without one sample on time
_SAMPLES = 3
_STEP = 0.05
_MOST = 0.95  # some are let through, always: how else should it be known that it is over?
_LEAST = 0.02
_SHUT = 4  # times the lag that is allowed, at which nobody new is let in
_MEMORY_FROM = 0.9


class Overload:
    """`share` is the chance of a new request to be refused, `is_shut`: no new connections."""

    __slots__ = ("_calm_at", "_from_lag", "_from_memory", "_late", "bound", "is_shut", "share")

    def __init__(self, bound: float, now: float) -> None:
        """`bound`: seconds of lag; 0 for any."""
        self.bound = bound or inf
        self.share = 0.0
        self.is_shut = False
        self._calm_at = now
        self._late = 0  # samples since then
        self._from_lag = 0.0
        self._from_memory = 0.0

    def see_lag(self, now: float, lag: float) -> None:
        if lag <= self.bound:
            self._calm_at = now
            self._late = 0
            self._from_lag = self._from_lag / 2 if self._from_lag > _LEAST else 0.0
        else:
            self._late += 1
            if self._late >= _SAMPLES and now - self._calm_at >= _PATIENCE:
                self._from_lag = min(_MOST, self._from_lag + _STEP)
        self.is_shut = self._from_lag > 0 and lag > _SHUT * self.bound
        self.share = max(self._from_lag, self._from_memory)

    def see_memory(self, used: float) -> None:
        """`used`: what part of the limit."""
        over = (used - _MEMORY_FROM) / (1 - _MEMORY_FROM)
        self._from_memory = min(_MOST, max(0.0, over))
        self.share = max(self._from_lag, self._from_memory)

    @property
    def retry_after(self) -> int:
        """Seconds: the more is refused, the later."""
        return 1 + int(4 * self.share)

    def __repr__(self) -> str:
        return f"<Overload share={self.share:.2f} lag={self._from_lag:.2f} memory={self._from_memory:.2f}>"
