"""How fast an endpoint is, learned from what passes through: seconds to the first token by the tokens before it, and
seconds for each token by the streams beside it. Both are lines fitted to samples that fade."""

from collections.abc import Sequence
from math import exp, inf
from typing import Final

TAU: Final = 30.0  # seconds: the mean lifetime of a sample
_PRIOR: Final = 3.0  # samples: how much the fleet's slope counts for beside an endpoint's own


class Line:
    """y = base + slope * x, by least squares over samples that each weigh exp(-age/TAU).

    Kept as weighted means and sums of products about them (West, "Updating mean and variance estimates: an improved
    method", CACM 22 (9), 1979), which no clock and no number of samples makes inexact.
    """

    __slots__ = ("at", "mean_x", "mean_y", "sum_xx", "sum_xy", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean_x = 0.0
        self.mean_y = 0.0
        self.sum_xx = 0.0
        self.sum_xy = 0.0
        self.at = -inf  # the newest sample

    def add(self, x: float, y: float, now: float) -> None:
        if self.weight:
            kept = exp(min(self.at - now, 0.0) / TAU)
            self.weight *= kept
            self.sum_xx *= kept
            self.sum_xy *= kept
        self.at = max(now, self.at)
        self.weight += 1.0
        from_mean = x - self.mean_x
        self.mean_x += from_mean / self.weight
        self.mean_y += (y - self.mean_y) / self.weight
        self.sum_xx += from_mean * (x - self.mean_x)
        self.sum_xy += from_mean * (y - self.mean_y)

    def __repr__(self) -> str:
        slope = self.sum_xy / self.sum_xx if self.sum_xx else 0.0
        return f"<Line {self.mean_y:.4g} at {self.mean_x:.4g} slope {slope:.3g} weight {self.weight:.1f}>"


class Speed:
    """One endpoint's two lines, and its average output."""

    __slots__ = ("each", "first", "output")

    def __init__(self) -> None:
        self.first = Line()  # seconds to the first token, by tokens to prefill until then
        self.each = Line()  # seconds for each further token, by streams running
        self.output = Line()  # tokens of a whole output; its slope means nothing

    def add_first(self, tokens: int, seconds: float, now: float) -> None:
        self.first.add(tokens, seconds, now)

    def add_stream(self, running: float, seconds: float, tokens: int, now: float) -> None:
        self.each.add(running, seconds, now)
        self.output.add(0.0, tokens, now)

    def __repr__(self) -> str:
        return f"<Speed first={self.first!r} each={self.each!r}>"


def fleet_slope(lines: Sequence[Line]) -> float:
    """The slope of all, were each moved to its own mean: what is common to endpoints of different bases."""
    spread = sum([line.sum_xx for line in lines])
    return max(sum([line.sum_xy for line in lines]) / spread, 0.0) if spread > 0.0 else 0.0


def fleet_variance(lines: Sequence[Line]) -> float:
    """Of x, about each one's mean."""
    weight = sum([line.weight for line in lines])
    return sum([line.sum_xx for line in lines]) / weight if weight > 0.0 else 0.0


def settle(line: Line, slope: float, variance: float) -> tuple[float, float]:
    """Base and slope of one endpoint, the slope shrunk to the fleet's as if _PRIOR samples had shown that one. Neither
    is negative: more work never makes an endpoint faster."""
    prior = _PRIOR * variance
    spread = line.sum_xx + prior
    own = max((line.sum_xy + prior * slope) / spread, 0.0) if spread > 0.0 else slope
    base = line.mean_y - own * line.mean_x
    if base < 0.0:
        return 0.0, line.mean_y / line.mean_x if line.mean_x > 0.0 else own
    return base, own
