"""The arithmetic of the bench: medians, ratios round by round, bars.

Contestants take turns, so that a round is one run of each in the same minute; what a noisy neighbour does to one run of
a round it tends to do to the next. A ratio is therefore taken within each round, and the median over rounds reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """Median and spread of repeated measurements."""

    median: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Half of the distance from the lowest to the highest."""
        return (self.high - self.low) / 2


def figure(samples: Sequence[float]) -> Figure:
    """Raises ValueError if there are none."""
    if not samples:
        raise ValueError("a figure needs at least one sample")
    return Figure(median(samples), min(samples), max(samples))


def ratio(subject: Sequence[float], peer: Sequence[float]) -> Figure | None:
    """The subject's samples by the peer's of the same round; None where the peer's are not all above 0. Raises
    ValueError if they are not equally many."""
    if min(peer, default=0.0) <= 0:
        return None
    return figure([ours / theirs for ours, theirs in zip(subject, peer, strict=True)])


def is_missed(found: Figure, bar: float) -> bool:
    """True if what was found is above the bar by more than the noise."""
    return found.median - found.noise > bar
