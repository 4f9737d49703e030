"""How fast an endpoint is, learned from what passes through: seconds to the first token by the tokens before it, and
seconds for each token by the tokens in the cache that its streams read. Both are lines fitted to samples that fade."""

from collections.abc import Sequence
from math import exp, inf
from typing import Final

TAU: Final = 30.0  # seconds: the mean lifetime of a sample
LEAST_PRIOR: Final = 0.3  # samples, as the two below
MOST_PRIOR: Final = 30.0
SLOPES: Final = 10.0
DOUBT: Final = 5.0  # samples that differ by NOISE of their mean, taken to have been seen within endpoints
NOISE: Final = 0.5
FIRM: Final = 1.0  # samples, as far from the mean as that is from 0, taken to have shown the default's slope
FEW: Final = 1e-3  # so faded that it counts for nothing
# Taken for true until the first sample, a base and a slope each: an 8B model on a large accelerator. To compare
# endpoints any numbers would do, since they are equal for all; these weigh the terms as they will be found to weigh.
FIRST: Final = (0.02, 5e-5)
EACH: Final = (0.01, 1e-7)
OUTPUT: Final = 200  # tokens


class Line:
    """y = base + slope * x, by least squares over samples that each weigh exp(-age/TAU).

    Kept as weighted means and sums of products about them (West, "Updating mean and variance estimates: an improved
    method", CACM 22 (9), 1979), which no clock and no number of samples makes inexact.
    """

    __slots__ = ("at", "mean_x", "mean_y", "sum_xx", "sum_xy", "sum_yy", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean_x = 0.0
        self.mean_y = 0.0
        self.sum_xx = 0.0
        self.sum_xy = 0.0
        self.sum_yy = 0.0
        self.at = -inf  # the newest sample

    def add(self, x: float, y: float, now: float) -> None:
        self.age(now)
        self.weight += 1.0
        from_x, from_y = x - self.mean_x, y - self.mean_y
        self.mean_x += from_x / self.weight
        self.mean_y += from_y / self.weight
        self.sum_xx += from_x * (x - self.mean_x)
        self.sum_xy += from_x * (y - self.mean_y)
        self.sum_yy += from_y * (y - self.mean_y)

    def age(self, now: float) -> None:
        """Let what is known fade until now."""
        if self.weight:
            kept = exp(min(self.at - now, 0.0) / TAU)
            self.weight *= kept
            self.sum_xx *= kept
            self.sum_xy *= kept
            self.sum_yy *= kept
        self.at = max(now, self.at)

    def __repr__(self) -> str:
        slope = self.sum_xy / self.sum_xx if self.sum_xx else 0.0
        return f"<Line {self.mean_y:.4g} at {self.mean_x:.4g} slope {slope:.3g} weight {self.weight:.1f}>"


class Speed:
    """One endpoint's two lines, and its average output."""

    __slots__ = ("each", "first", "output")

    def __init__(self) -> None:
        self.first = Line()  # seconds to the first token, by tokens to prefill until then
        self.each = Line()  # seconds for each further token, by tokens in the cache
        self.output = Line()  # tokens of a whole output; its slope means nothing

    def add_first(self, tokens: float, seconds: float, now: float) -> None:
        self.first.add(tokens, seconds, now)

    def add_stream(self, context: float, seconds: float, tokens: int, now: float) -> None:
        self.each.add(context, seconds, now)
        self.output.add(0.0, tokens, now)

    def __repr__(self) -> str:
        return f"<Speed first={self.first!r} each={self.each!r}>"


class Fleet:
    """What the lines of a pool's endpoints have in common, and how far one may be believed to differ.

    A slower machine is slower in everything, so that an endpoint is taken to be the fleet's line times a factor of its
    own. Where that rests on few samples it is drawn toward 1, the more the less endpoints really differ: as empirical
    Bayes does it (Efron, Morris, "Data analysis using Stein's estimator", JASA 70, 1975), as if `prior` samples, the
    variance within endpoints by that between them, had shown 1. Its own slope is believed beside SLOPES samples of the
    fleet's times that factor.
    """

    __slots__ = ("mean_x", "mean_y", "prior", "slope", "variance")

    def __init__(self, lines: Sequence[Line], default: tuple[float, float]) -> None:
        weight = sum([line.weight for line in lines])
        self.mean_x = sum([line.weight * line.mean_x for line in lines]) / weight
        self.mean_y = sum([line.weight * line.mean_y for line in lines]) / weight
        spread = sum([line.sum_xx for line in lines])
        # Were each endpoint moved to the common mean: different bases must not bend the slope. And as if a few samples
        # had shown the default's, at this fleet's pace: a dozen prompts of like length would show any slope, or none.
        base, slope = default
        pace = self.mean_y / (base + slope * self.mean_x)
        firm = FIRM * self.mean_x**2
        self.variance = (spread + firm) / (weight + FIRM)
        shown = sum([line.sum_xy for line in lines]) + firm * slope * pace
        # All at 0, as whole answers to a lone client are: nothing was shown, and what is left is the default's.
        self.slope = max(shown / (spread + firm), 0.0) if spread + firm > 0.0 else slope * pace
        self.prior = self._prior(lines, weight)

    def at(self, x: float) -> float:
        return max(self.mean_y + self.slope * (x - self.mean_x), 0.1 * self.mean_y)

    def _prior(self, lines: Sequence[Line], weight: float) -> float:
        slope = self.slope
        noise = sum([line.sum_yy - slope * (2.0 * line.sum_xy - slope * line.sum_xx) for line in lines])
        # One sample each says nothing of how far samples differ: without DOUBT the first ones would be all the truth.
        spare = max(weight - len(lines), 0.0)
        within = (noise / self.mean_y**2 + DOUBT * NOISE**2) / (spare + DOUBT)
        factors = [(line.weight, line.mean_y / self.at(line.mean_x)) for line in lines]
        mean = sum([w * factor for w, factor in factors]) / weight
        between = sum([w * (factor - mean) ** 2 for w, factor in factors]) / weight - within * len(lines) / weight
        return min(max(within / between, LEAST_PRIOR), MOST_PRIOR) if between > 0.0 else MOST_PRIOR

    def line(self, own: Line) -> tuple[float, float]:
        """Base and slope of one endpoint. Neither is negative: more work never makes an endpoint faster."""
        expected = self.at(own.mean_x)
        factor = (own.weight * own.mean_y / expected + self.prior) / (own.weight + self.prior)
        level = factor * expected
        prior = SLOPES * self.variance
        spread = own.sum_xx + prior
        shown = own.sum_xy + prior * factor * self.slope
        slope = max(shown / spread, 0.0) if spread > 0.0 else factor * self.slope
        base = level - slope * own.mean_x
        return (base, slope) if base >= 0.0 else (0.0, level / own.mean_x)


def fit(lines: Sequence[Line], now: float, default: tuple[float, float]) -> list[tuple[float, float]]:
    """Base and slope of each: an endpoint that nothing is known of is like the others, and what was known long ago
    fades into that."""
    for line in lines:
        line.age(now)
    if sum([line.weight for line in lines]) < FEW or not any(line.mean_y > 0.0 for line in lines):
        return [default] * len(lines)
    fleet = Fleet(lines, default)
    return [fleet.line(line) for line in lines]
