"""Memory that clients hold without asking for anything: header sections that do not end.

Each costs four times its size (what was parsed of it, and the buffers of TLS), so that a thousand of 60 KiB would cost
230 MiB. All of a worker together may have so much; beyond it those go that have been at it for longest.
"""

import ctypes
from collections.abc import Iterable
from typing import Any

_SMALL = 4096  # bytes; most that wait have said nothing at all
_YOUNG = 0.2  # seconds; who sends its head at one go is done by then
_FALL = 100  # connections that have ended since the allocator last gave memory back

_libc = ctypes.CDLL(None)


def relieve(connections: Iterable[Any], bound: int, now: float) -> int:
    """Cut off connections with heads under way until those that are left have at most `bound` bytes; -> how many. No
    answer: for as long as one was under way, it would hold all of that."""
    held = [each for each in connections if each.head.fed > _SMALL and each.is_stalled]
    total = sum(each.head.fed for each in held)
    count = 0
    for each in sorted(held, key=lambda each: each.deadline) if total > bound else ():
        if total <= bound or each.deadline > now + each.limits.headers_timeout - _YOUNG:
            break
        total -= each.head.fed
        count += 1
        each.transport.abort()
    return count


class GiveBack:
    """Has the allocator give pages back to the system, when many connections have ended."""

    __slots__ = ("most",)

    def __init__(self) -> None:
        self.most = 0

    def see(self, connections: int) -> None:
        """Called often."""
        self.most = max(self.most, connections)

    def look(self, connections: int) -> None:
        """Called now and then. glibc keeps what was freed inside its heap; asking costs some milliseconds, so not for a
        few."""
        if self.most - connections >= _FALL and hasattr(_libc, "malloc_trim"):
            self.most = connections
            _libc.malloc_trim(0)
