"""What the hot path adds to the counts of `metrics.py`: apart from them, because this is compiled."""

import bisect
from typing import Final

from gateway.core.metrics import BUCKETS, NAMES, OTHER, Histogram, Meter, Totals
from gateway.model import Exchange, Extras

# To compiled code these are variables of C; imported names would be looked up each time.
_bisect: Final = bisect.bisect_left
_BUCKETS: Final = BUCKETS


def record(meter: Meter, exchange: Exchange, ended: float) -> None:
    """Count a finished exchange; `ended` is on the clock of its `started`."""
    statuses: dict[int, int] = meter.statuses
    status = exchange.status
    statuses[status] = statuses.get(status, 0) + 1
    observe(meter.duration, ended - exchange.started)
    if exchange.first_byte:
        observe(meter.first_byte, exchange.first_byte - exchange.started)
    if exchange.bytes_in:
        meter.bytes_in += exchange.bytes_in
    meter.bytes_out += exchange.bytes_out
    attempts = exchange.attempts
    meter.attempts += attempts
    if attempts > 1:
        meter.retries += attempts - 1
    if exchange.extras is not None:
        _record_extras(meter, exchange.extras)


def observe(histogram: Histogram, seconds: float) -> None:
    """Count one duration."""
    counts: list[int] = histogram.counts
    counts[_bisect(_BUCKETS, seconds)] += 1
    histogram.sum += seconds


def _record_extras(meter: Meter, extras: Extras) -> None:
    meter.retries_denied += extras.retries_denied
    if extras.fallback_from:
        meter.fallbacks += 1
    meter.hedges += extras.hedges
    meter.hedges_won += extras.hedges_won
    if extras.queued:
        meter.queued += 1
        meter.queued_seconds += extras.queued


def count_verdict(totals: Totals, model: str, verdict: str) -> None:
    """What the limits of a model said to one request (`Exchange.limit_verdict`)."""
    verdicts: dict[tuple[str, str], int] = totals.verdicts
    key = (model, verdict)
    count = verdicts.get(key, 0)
    if not count and len(verdicts) >= NAMES:
        key = (OTHER, verdict)
        count = verdicts.get(key, 0)
    verdicts[key] = count + 1
