"""The arithmetic of a token bucket.

A bucket is **one number**: `full_at`, the instant at which it will be full again if nothing more is taken. Its level is

    level(now) = burst - (full_at - now) * rate        and burst once full_at has passed

which is the textbook's (level, updated) pair with one of the two solved away: the "virtual scheduling" form of the
leaky bucket (ITU-T I.371, annex A, proves them equal). One number is what makes the rest of the limiter simple:

- it is written by one 8-byte store, so a process that dies in the middle of it leaves no half-written bucket;
- a bucket whose `full_at` has passed equals one that never was, whatever its rate, so a store may forget it;
- a clock that steps back only makes levels lower: it grants nothing.

What is still missing to full, `full_at - now`, is the bucket's **debt**. Taking adds a price to the debt, and is
allowed if the debt then fits into the window (the time an empty bucket takes to fill). Every function is told `now`.

Times are whole nanoseconds of any steady clock. The price of one token is rounded up to one: a limit never grants more
than it says, and less by at most one part in (nanoseconds per token): 0.007 % at seven million tokens a minute.
"""

from dataclasses import dataclass, field
from typing import Final

SECOND: Final = 1_000_000_000
LONGEST: Final = 50 * 365 * 86_400 * SECOND  # a sum of a few such times still fits a signed 64-bit cell (292 years)


@dataclass(frozen=True, slots=True)
class Limit:
    """`amount` tokens each `period` seconds, at most `burst` at once. Raises ValueError for what cannot be counted."""

    amount: int
    period: int
    burst: int
    price: int = field(init=False)  # of one token, in nanoseconds
    window: int = field(init=False)  # from empty to full, in nanoseconds

    def __post_init__(self) -> None:
        if self.amount < 1 or self.period < 1 or self.burst < 1:
            raise ValueError("a limit's amount, period and burst are at least 1")
        price = -(-self.period * SECOND // self.amount)
        if price * self.burst > LONGEST:
            raise ValueError(f"a bucket of {self.burst} would take more than 50 years to fill at this rate")
        object.__setattr__(self, "price", price)
        object.__setattr__(self, "window", price * self.burst)

    def remaining(self, debt: int) -> int:
        """Whole tokens in a bucket of this debt; 0 if it is overdrawn."""
        return max(self.window - debt, 0) // self.price

    def wait(self, debt: int) -> float:
        """Seconds until a request that would have made this debt is allowed, if nothing else is taken meanwhile."""
        return max(debt - self.window, 0) / SECOND


def debt_after(full_at: int, now: int, price: int) -> int:
    """Nanoseconds to full after taking tokens worth `price`."""
    debt = full_at - now
    return debt + price if debt > 0 else price


def settled(full_at: int, now: int, correction: int) -> int:
    """`full_at` after a correction in nanoseconds.

    Giving back stops at full: a bucket never holds more than its burst. A charge is not refused, for what it pays for
    has been had: it may overdraw the bucket, and the next requests wait until that is paid off.
    """
    base = full_at if full_at > now else now
    if correction <= 0:
        return max(base + correction, now)
    return max(base, min(base + correction, now + LONGEST))
