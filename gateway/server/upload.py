"""How the body of a request comes: as fast as it has to, and not mostly as something else.

Rules of this module:
- Over each `body_idle` it has to come at `body_rate` at least. Where it was us who stopped reading, or another answer
  comes first, a new period begins.
- What is neither body nor what it takes to frame it (chunk extensions) has the bound of a trailer section.
"""

from typing import Final

from gateway.server.bounds import Bounds

_FRAME: Final = 6  # bytes of framing that each byte of a body may cost: a chunk of one byte is `1 CR LF x CR LF`


class Upload:
    """The body under way on one connection."""

    __slots__ = ("count", "due", "limits", "since", "unfruitful")

    def __init__(self, limits: Bounds) -> None:
        self.limits = limits
        self.due = 0.0  # with a deadline behind this one, its rate is looked at again
        self.since = 0.0  # when it was looked at; 0.0: not yet
        self.count = 0  # bytes that had come by then
        self.unfruitful = 0  # bytes that are neither body nor framing

    def restart(self) -> None:
        """What came until now says nothing of the client's pace."""
        self.due = 0.0
        self.since = 0.0
        self.count = 0

    def keeps_pace(self, now: float, count: int) -> bool:
        """Whether it came at its rate since this was asked last; `count` bytes of it have come in all."""
        limits, since, earlier = self.limits, self.since, self.count
        self.since = now
        self.count = count
        self.due = now + 2 * limits.body_idle  # a deadline is `body_idle` from its reading
        return since == 0.0 or count - earlier >= limits.body_rate * (now - since)

    def outgrows(self, size: int, body: int) -> bool:
        """The bound of what is none of it, with a read of that size, which brought so many bytes of it."""
        self.unfruitful = max(0, self.unfruitful + size - _FRAME * body)
        return self.unfruitful > self.limits.trailer_bytes

    def end(self) -> None:
        self.unfruitful = 0
