"""The strategy over storages of the `limits` package."""

import mmap
import os
import time
from collections.abc import Iterator

import pytest
from limits import RateLimitItemPerSecond, parse
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter

from gateway.stores.buckets import TokenBucketRateLimiter
from gateway.stores.memory import MemoryBuckets
from gateway.stores.shared import SharedBuckets, size_of


class Clock:
    def __init__(self) -> None:
        self.now = 10**15

    def __call__(self) -> int:
        return self.now


@pytest.fixture(params=["memory", "shared"])
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    if request.param == "memory":
        yield MemoryBuckets(keys=1000)
        return
    fd = os.memfd_create("test")
    os.ftruncate(fd, 4096 + size_of(1000))
    region = mmap.mmap(fd, 4096 + size_of(1000))
    yield SharedBuckets(memoryview(region)[4096:], fd, 4096)
    os.close(fd)


def test_a_bucket_admits_its_burst_and_then_the_rate(storage: Storage) -> None:
    clock = Clock()
    limiter = TokenBucketRateLimiter(storage, burst=3, clock=clock)
    rate = parse("60/minute")
    assert [limiter.hit(rate, "model", "key") for _ in range(5)] == [True] * 3 + [False] * 2
    clock.now += 2 * 10**9
    assert [limiter.hit(rate, "model", "key") for _ in range(3)] == [True, True, False]
    assert limiter.hit(rate, "model", "another key")


def test_the_burst_is_the_amount_of_the_rate_unless_it_is_said(storage: Storage) -> None:
    limiter = TokenBucketRateLimiter(storage, clock=Clock())
    assert [limiter.hit(RateLimitItemPerSecond(4, 2), "key") for _ in range(5)] == [True] * 4 + [False]


def test_testing_takes_nothing(storage: Storage) -> None:
    limiter = TokenBucketRateLimiter(storage, burst=2, clock=Clock())
    rate = parse("1/second")
    assert all(limiter.test(rate, "key", cost=2) for _ in range(3))
    assert not limiter.test(rate, "key", cost=3)
    assert limiter.hit(rate, "key", cost=2)
    assert not limiter.test(rate, "key")


def test_the_stats_are_what_is_left_and_when_the_bucket_is_full(storage: Storage) -> None:
    limiter = TokenBucketRateLimiter(storage, clock=Clock())
    rate = parse("10/minute")
    limiter.hit(rate, "key", cost=4)
    stats = limiter.get_window_stats(rate, "key")
    assert stats.remaining == 6
    assert stats.reset_time - time.time() == pytest.approx(24, abs=1)


def test_clearing_a_key_fills_its_bucket(storage: Storage) -> None:
    limiter = TokenBucketRateLimiter(storage, clock=Clock())
    rate = parse("1/hour")
    assert [limiter.hit(rate, "key") for _ in range(2)] == [True, False]
    limiter.clear(rate, "key")
    assert limiter.hit(rate, "key")


def test_a_storage_without_buckets_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="MemoryStorage"):
        TokenBucketRateLimiter(MemoryStorage())


def test_the_packages_own_memory_scheme_and_windows_are_left_alone() -> None:
    assert type(storage_from_string("memory://")) is MemoryStorage
    windows = FixedWindowRateLimiter(MemoryBuckets(keys=100))
    assert [windows.hit(parse("2/hour"), "key") for _ in range(3)] == [True, True, False]


def test_the_shared_storage_says_that_it_has_no_windows(storage: Storage) -> None:
    if isinstance(storage, SharedBuckets):
        with pytest.raises(NotImplementedError, match="not windows"):
            FixedWindowRateLimiter(storage).hit(parse("2/hour"), "key")
        assert storage.check()
