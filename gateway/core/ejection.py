"""Ejection: which endpoints of a pool real traffic says to leave out, and for how long.

An endpoint's breaker opens (`Standing.OUT`) by failures in a row, or because it is an outlier of its pool: fewer
successes (Envoy's success-rate outlier: below the mean by so many standard deviations) or much slower than the median.
The pool's breaker is the same one, opened for all of its endpoints at once when none of them answers any more.
"""

from collections.abc import Iterator, Sequence
from math import inf, sqrt
from statistics import median
from typing import NamedTuple

from gateway.core.endpoint import Endpoint, Health
from gateway.core.standing import GONE, Stand

_LEAST_POOL = 5  # endpoints with enough requests: of fewer, no mean says anything (Envoy's success_rate_minimum_hosts)
_LEAST_SLOW = 0.1  # seconds behind the median, below which nobody is slow


class Rules(NamedTuple):
    """A pool's, as its configuration has them. inf switches a rule off."""

    failures: float = 5  # in a row
    sigmas: float = 1.9  # below the mean success rate
    slowness: float = 10.0  # times the median latency
    volume: int = 100  # requests in an interval before its rates say anything
    interval: float = 10.0
    seconds: float = 30.0  # out, the first time
    longest: float = 300.0
    share: float = 0.5  # of the pool at most that is left out
    cut_failures: float = 20  # in a row, of the whole pool, with no answer at all
    cut_seconds: float = 5.0
    cut_longest: float = 30.0
    panic: float = 0.1  # share of open endpoints below which all are asked
    slow_start: float = 30.0
    is_shy: bool = True  # others are preferred to one whose last answer was a failure
    is_keyed: bool = False  # the policy binds keys to endpoints: only those that are out move theirs


class Ejected(NamedTuple):
    """Something for the log."""

    endpoint: Endpoint
    seconds: float
    reason: str


class Ejector:
    """Applies the rules of one pool."""

    __slots__ = ("_before", "_endpoints", "due", "rules")

    def __init__(self, endpoints: Sequence[Endpoint], rules: Rules) -> None:
        self.rules = rules
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._before: dict[Endpoint, tuple[int, int]] = {}
        is_reviewed = len(endpoints) > 2 and (rules.sigmas < inf or rules.slowness < inf)
        self.due = 0.0 if is_reviewed else inf  # when outliers are looked for

    def fail(self, endpoint: Endpoint, now: float, *, is_gone: bool) -> list[Ejected]:
        """An exchange at `endpoint` failed; -> whom that ejected."""
        rules, standing = self.rules, endpoint.standing
        was_trial = standing.is_trying
        in_a_row = standing.fail(now, is_gone=is_gone)
        is_cut = standing.read(now) is Stand.OUT and standing.is_cut
        if is_gone and not is_cut and self._is_gone():
            reason = "the whole pool does not answer"
            return [self._eject(each, now, reason, is_cut=True) for each in self._asked()]
        if was_trial and standing.out_at:
            return [self._eject(endpoint, now, "its trial failed", is_cut=standing.is_cut)]
        if in_a_row >= rules.failures and standing.state in (Stand.FINE, Stand.UNPROVEN, Stand.SHUNNED):
            return [self._eject(endpoint, now, f"{in_a_row} failures in a row")]
        return []

    def review(self, now: float) -> list[Ejected]:
        """Compare what came of the last interval's requests; -> whom that ejected."""
        self.due = now + self.rules.interval
        before, self._before = self._before, {e: e.standing.counts() for e in self._endpoints}
        if not before:
            return []
        rates, samples = {}, []
        for endpoint, (good, bad) in self._before.items():
            had_good, had_bad = before.get(endpoint, (good, bad))
            good, bad = good - had_good, bad - had_bad
            if good + bad >= self.rules.volume:
                samples.append(endpoint)
                rates[endpoint] = (good / (good + bad), good + bad)
        found = self._unsuccessful(rates) | self._slow(samples)
        return [self._eject(e, now, reason) for e, reason in found.items() if e.standing.read(now) < Stand.TRYING]

    def _unsuccessful(self, rates: dict[Endpoint, tuple[float, int]]) -> dict[Endpoint, str]:
        if len(rates) < _LEAST_POOL or self.rules.sigmas == inf:
            return {}
        mean = sum(rate for rate, _ in rates.values()) / len(rates)
        spread = sqrt(sum((rate - mean) ** 2 for rate, _ in rates.values()) / len(rates))
        # Of eight equals, one is 1.9 sigma below their mean in every fifth interval; fair dice fall three of their own
        # standard deviations short once in 700.
        noise = 3.0 * sqrt(mean * (1.0 - mean))
        return {
            endpoint: f"{100 * rate:.1f} % successes, the pool has {100 * mean:.1f} %"
            for endpoint, (rate, count) in rates.items()
            if rate < mean - max(self.rules.sigmas * spread, noise / sqrt(count))
        }

    def _slow(self, samples: Sequence[Endpoint]) -> dict[Endpoint, str]:
        if len(samples) < 3 or self.rules.slowness == inf:
            return {}
        usual = median(endpoint.latency for endpoint in samples)
        most = max(usual * self.rules.slowness, usual + _LEAST_SLOW)
        return {
            endpoint: f"{endpoint.latency:.2f} s to its first byte, the pool has {usual:.2f} s"
            for endpoint in samples
            if endpoint.latency > most
        }

    def _is_gone(self) -> bool:
        """The last thing that every endpoint said was nothing, and often enough."""
        total = 0
        for endpoint in self._asked():
            silent = endpoint.standing.in_a_row(GONE)
            if not silent:  # mostly the first of them
                return False
            total += silent
        return total >= self.rules.cut_failures

    def _asked(self) -> Iterator[Endpoint]:
        return (endpoint for endpoint in self._endpoints if endpoint.health in (Health.UP, Health.CHECKING))

    def _eject(self, endpoint: Endpoint, now: float, reason: str, *, is_cut: bool = False) -> Ejected:
        rules = self.rules
        seconds, longest = (rules.cut_seconds, rules.cut_longest) if is_cut else (rules.seconds, rules.longest)
        return Ejected(endpoint, endpoint.standing.eject(now, seconds, longest, is_cut=is_cut), reason)
