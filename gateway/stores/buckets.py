"""Token buckets as a strategy and a kind of storage of the `limits` package, which has windows only.

The package's notation (`100/minute`) names a limit, its storages hold the state, and a strategy joins the two; these
are the missing strategy, in its synchronous and asynchronous form, and what a storage must offer to it. A layer on the
hot path uses the storage directly, with places and prices worked out beforehand.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from limits import RateLimitItem
from limits.aio.storage import Storage as AsyncStorage
from limits.aio.strategies import RateLimiter as AsyncRateLimiter
from limits.storage import Storage
from limits.strategies import RateLimiter
from limits.util import WindowStats

from gateway.core.limiter import SECOND, Limit

Clock = Callable[[], int]  # nanoseconds; time.monotonic_ns is one clock over all processes of a machine


def limit_of(item: RateLimitItem, burst: int | None = None) -> Limit:
    """The bucket for a rate: it holds `burst`, or the rate's amount. Raises ValueError for what cannot be counted."""
    return Limit(item.amount, item.get_expiry(), burst or item.amount)


class TokenBucketSupport(ABC):
    """A storage of token buckets that answers at once. Debts, prices, windows and `now` are nanoseconds."""

    is_remote = False

    @abstractmethod
    def place(self, key: str, tag: str = "") -> Any:
        """Where the bucket of `key` is: an opaque value worth remembering. Keys of one `tag` can be taken together."""

    @abstractmethod
    def take(self, places: Sequence[Any], prices: Sequence[int], windows: Sequence[int], now: int) -> list[int]:
        """Take from all of these distinct buckets, or from none if one refuses. Returns the debt each would have:
        admitted if and only if every debt is within its window."""

    @abstractmethod
    def settle(self, place: Any, correction: int, now: int) -> None:
        """Correct what was taken: a charge if positive, given back if negative (never beyond full)."""

    @abstractmethod
    def debt(self, place: Any, now: int) -> int:
        """How long until the bucket is full."""


class AsyncTokenBucketSupport(ABC):
    """The same where a server must be asked; its clock decides, so that nobody says `now`. Raises StoreUnavailable."""

    is_remote = True

    @abstractmethod
    def place(self, key: str, tag: str = "") -> Any: ...

    @abstractmethod
    async def take(self, places: Sequence[Any], prices: Sequence[int], windows: Sequence[int]) -> list[int]: ...

    @abstractmethod
    def settle(self, place: Any, correction: int) -> None:
        """As above, but only sent: nobody waits for it, and it is lost if the server is away."""

    @abstractmethod
    async def debt(self, place: Any) -> int: ...


class TokenBucketRateLimiter(RateLimiter):
    """Admits `burst` at once (the rate's amount if None) and the rate over any time. Identifiers as in the package."""

    def __init__(self, storage: Storage, burst: int | None = None, clock: Clock = time.monotonic_ns) -> None:
        if not isinstance(storage, TokenBucketSupport):
            raise NotImplementedError(f"token buckets are not implemented for storage of type {type(storage)}")
        super().__init__(storage)
        self.buckets: TokenBucketSupport = storage
        self.burst = burst
        self.clock = clock

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        limit = limit_of(item, self.burst)
        place = self.buckets.place(item.key_for(*identifiers))
        return self.buckets.take([place], [cost * limit.price], [limit.window], self.clock())[0] <= limit.window

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        limit = limit_of(item, self.burst)
        debt = self.buckets.debt(self.buckets.place(item.key_for(*identifiers)), self.clock())
        return debt + cost * limit.price <= limit.window

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the bucket is full again (seconds since the epoch), and the tokens in it."""
        debt = self.buckets.debt(self.buckets.place(item.key_for(*identifiers)), self.clock())
        return WindowStats(time.time() + debt / SECOND, limit_of(item, self.burst).remaining(debt))


class AsyncTokenBucketRateLimiter(AsyncRateLimiter):
    """`TokenBucketRateLimiter` over a storage that must be awaited."""

    def __init__(self, storage: AsyncStorage, burst: int | None = None) -> None:
        if not isinstance(storage, AsyncTokenBucketSupport):
            raise NotImplementedError(f"token buckets are not implemented for storage of type {type(storage)}")
        super().__init__(storage)
        self.buckets: AsyncTokenBucketSupport = storage
        self.burst = burst

    async def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        limit = limit_of(item, self.burst)
        place = self.buckets.place(item.key_for(*identifiers))
        return (await self.buckets.take([place], [cost * limit.price], [limit.window]))[0] <= limit.window

    async def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        limit = limit_of(item, self.burst)
        return await self.buckets.debt(self.buckets.place(item.key_for(*identifiers))) + cost * limit.price <= (
            limit.window
        )

    async def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        debt = await self.buckets.debt(self.buckets.place(item.key_for(*identifiers)))
        return WindowStats(time.time() + debt / SECOND, limit_of(item, self.burst).remaining(debt))
