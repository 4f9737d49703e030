"""Deadlines of many connections, checked by one sweep instead of a timer each.

Arming a timer costs a microsecond for every request and is nearly always cancelled; writing a number costs nothing.
The price is precision: a deadline is met up to one sweep late.
"""

from math import inf
from typing import Final, Protocol

NEVER: Final = inf


class Timed(Protocol):
    deadline: float  # seconds of `time.monotonic`; NEVER for none

    def on_deadline(self, now: float) -> None: ...


class Deadlines:
    """The things to watch; each adds itself when it begins and discards itself when it ends."""

    __slots__ = ("watched",)

    def __init__(self) -> None:
        self.watched: set[Timed] = set()

    def sweep(self, now: float) -> int:
        """Call `on_deadline` of whatever is overdue; the deadline is cleared first. Returns how many were."""
        overdue = [item for item in self.watched if item.deadline <= now]
        for item in overdue:
            item.deadline = NEVER
            item.on_deadline(now)
        return len(overdue)

    def __repr__(self) -> str:
        return f"<Deadlines of {len(self.watched)}>"
