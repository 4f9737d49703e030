"""How long something takes at most in so many of a hundred cases, of late."""

from math import inf, log

_FIRST = 1e-4  # seconds; what is shorter counts as this
_STEP = log(1.1)  # each bucket is a tenth wider than the one before: an answer is at most a tenth too long
_BUCKETS = 180  # to some 2,800 s
_MEMORY = 2000  # samples, then all counts are halved: the older, the less
ENOUGH = 20  # samples before anything is said


class Quantile:
    """A histogram that forgets. `add` costs a logarithm, `of` a walk over the buckets."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * _BUCKETS
        self.total = 0

    def add(self, seconds: float) -> None:
        index = int(log(seconds / _FIRST) / _STEP) + 1 if seconds > _FIRST else 0
        self.counts[min(index, _BUCKETS - 1)] += 1
        self.total += 1
        if self.total >= _MEMORY:
            self.counts = [count // 2 for count in self.counts]
            self.total = sum(self.counts)

    def of(self, share: float) -> float:
        """Seconds within which this `share` of the samples were, rounded up by at most a tenth; inf while too few."""
        if self.total < ENOUGH:
            return inf
        above = self.total * (1 - share)
        index = _BUCKETS - 1
        while index and above >= self.counts[index]:
            above -= self.counts[index]
            index -= 1
        return _FIRST * 1.1**index

    def __repr__(self) -> str:
        return f"<Quantile of {self.total}: half within {self.of(0.5):.4f} s>"
