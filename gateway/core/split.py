"""Which version serves a request that names none."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from random import Random


class Split:
    """Shares of traffic by weight, or one default.

    `weights` maps version -> weight (None where the configuration gives none). Weights win over `default`, as in the
    contract: traffic that names no version is split by them; without any, it goes to the default.
    """

    __slots__ = ("bounds", "default", "versions", "weights")

    def __init__(self, weights: Mapping[str, float | None], default: str | None) -> None:
        self.weights = {version: weight for version, weight in weights.items() if weight}
        self.versions: Sequence[str] = tuple(self.weights)
        self.bounds = tuple(accumulate(self.weights.values()))
        self.default = default or next(reversed(list(weights)), None)

    def choose(self, rng: Random, allowed: Sequence[str] | None = None) -> str | None:
        """A version, by weight, among those `allowed` (None: all); None if nothing may be chosen."""
        if allowed is not None:
            narrowed = {version: weight for version, weight in self.weights.items() if version in allowed}
            if narrowed:
                return Split(narrowed, None).choose(rng)
            return self.default if self.default in allowed else next(iter(allowed), None)
        if not self.bounds:
            return self.default
        if len(self.bounds) == 1:
            return self.versions[0]
        return self.versions[bisect_right(self.bounds, rng.random() * self.bounds[-1], 0, len(self.bounds) - 1)]

    def __repr__(self) -> str:
        return f"<Split {self.weights or self.default}>"
