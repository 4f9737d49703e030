"""Counting, and adding up what several workers counted."""

from bisect import bisect_left
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import metrics, tally
from gateway.core.metrics import BUCKETS, NAMES, OTHER, Histogram, Totals, merge
from gateway.errors import NoEndpoint, TooManyRequests, Unauthenticated
from gateway.model import Exchange


class Event(NamedTuple):
    model: str
    version: str
    status: int
    milliseconds: int
    size: int
    attempts: int
    error: type | None


EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(["", "iris", "llama"]),
        st.sampled_from(["", "v1", "v2"]),
        st.sampled_from([200, 404, 429, 503]),
        st.integers(0, 400_000),
        st.integers(0, 10**6),
        st.integers(0, 3),
        st.sampled_from([None, NoEndpoint, TooManyRequests, Unauthenticated]),
    ),
    max_size=30,
)


def record(totals: Totals, event: Event) -> None:
    exchange = Exchange("id", 1000.0, "192.0.2.1")
    exchange.status, exchange.attempts = event.status, event.attempts
    exchange.bytes_in = exchange.bytes_out = event.size
    # Powers of two, so that sums of them are exact in any order.
    exchange.first_byte = 1000.0 + event.milliseconds / 2048 if event.attempts else 0.0
    tally.record(totals.meter(event.model, event.version), exchange, 1000.0 + event.milliseconds / 1024)
    if event.error is not None:
        totals.count_error(event.model, event.error())
    tally.count_verdict(totals, event.model, "limited" if event.status == 429 else "admitted")


def counted(events: list[Event]) -> Totals:
    totals = Totals()
    for event in events:
        record(totals, event)
    return totals


@given(EVENTS, st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_sum_of_the_workers_is_what_one_worker_would_have_counted(events: list[Event], dice, workers: int) -> None:
    parts = [Totals() for _ in range(workers)]
    for event in events:
        record(dice.choice(parts), event)
    assert merge(parts) == counted(events)


@given(EVENTS)
def test_totals_survive_being_written_and_read(events: list[Event]) -> None:
    totals = counted(events)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(totals), type=Totals) == totals


@given(EVENTS, EVENTS)
def test_adding_leaves_what_is_added_alone(mine: list[Event], theirs: list[Event]) -> None:
    whole, part = counted(mine), counted(theirs)
    whole.add(part)
    whole.add(counted(theirs))
    assert part == counted(theirs)


@given(st.lists(st.floats(0, 1000)))
def test_every_duration_falls_into_the_first_bucket_that_holds_it(seconds: list[float]) -> None:
    histogram = Histogram()
    for value in seconds:
        tally.observe(histogram, value)
    expected = [0] * (len(BUCKETS) + 1)
    for value in seconds:
        expected[next((i for i, bound in enumerate(BUCKETS) if value <= bound), len(BUCKETS))] += 1
    assert histogram.counts == expected
    assert histogram.sum == pytest.approx(sum(seconds))
    assert bisect_left(BUCKETS, BUCKETS[3]) == 3  # a bound belongs to its own bucket (`le`)


def test_an_answer_that_had_no_first_byte_is_not_in_its_histogram() -> None:
    totals = counted([Event("iris", "v1", 503, 10, 0, 0, None), Event("iris", "v1", 200, 10, 0, 1, None)])
    meter = totals.meter("iris", "v1")
    assert sum(meter.duration.counts) == 2
    assert sum(meter.first_byte.counts) == 1


def test_every_attempt_after_the_first_is_a_retry() -> None:
    totals = counted([Event("iris", "v1", 200, 1, 0, attempts, None) for attempts in (0, 1, 3)])
    meter = totals.meter("iris", "v1")
    assert (meter.attempts, meter.retries) == (4, 2)


def test_buckets_of_another_shape_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"counts": [1, 2, 3], "sum": 1.0}, Histogram)


def test_names_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in metrics, tally:
        monkeypatch.setattr(module, "NAMES", 3)
    totals = counted([Event(f"m{i}", "v1", 200, 1, 0, 1, NoEndpoint) for i in range(10)])
    assert set(totals.meters) == {("m0", "v1"), ("m1", "v1"), ("m2", "v1"), (OTHER, "")}
    assert totals.meters[OTHER, ""].statuses == {200: 7}
    assert len(totals.errors) == 4
    assert len(totals.verdicts) == 4
    assert sum(totals.errors.values()) == sum(totals.verdicts.values()) == 10
    assert NAMES >= 1000  # as delivered, no honest configuration meets the bound
