"""The line in which requests wait for room: by priority, and within one priority in turns of those who ask, so that
who asks most waits longest. Bounded; a better one takes the place of the worst.

Every operation is O(1) in those who wait, but for `overdue` and `worst`, which look at all.
"""

from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

_GAP_WEIGHT = 0.2  # of the newest of the gaps between two that were served


@dataclass(slots=True, eq=False)
class Waiter:
    """One that waits."""

    rank: int  # 0 is served first
    owner: str  # who asks; owners of one rank take turns
    since: float  # seconds
    until: float  # when it is of no use any more
    what: Any = None  # what the shell keeps of it
    has_place: bool = field(default=True, init=False)  # one of the line's, to be given back
    is_waiting: bool = field(default=False, init=False)


class Line:
    """Those who wait for one pool, in one worker."""

    __slots__ = ("_ranks", "_served_at", "_size", "gap")

    def __init__(self) -> None:
        # rank -> owner -> its waiters, oldest first. The dict's order is the turn: the first owner is next.
        self._ranks: dict[int, dict[str, deque[Waiter]]] = {}
        self._size = 0
        self._served_at = 0.0
        self.gap = 0.0  # average seconds from one to the next while somebody waits; 0.0: not known

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Waiter]:
        """In the order in which they would be served if all could be."""
        for rank in sorted(self._ranks):
            queues = [list(queue) for queue in self._ranks[rank].values()]
            for turn in range(max(map(len, queues), default=0)):
                yield from (queue[turn] for queue in queues if turn < len(queue))

    def add(self, waiter: Waiter) -> None:
        if not self._size:
            self._served_at = waiter.since  # a gap is counted from when somebody waits
        self._ranks.setdefault(waiter.rank, {}).setdefault(waiter.owner, deque()).append(waiter)
        waiter.is_waiting = True
        self._size += 1

    def next(self, barred: Collection[str] = ()) -> Waiter | None:
        """Who is next, without those who `barred` may not go now."""
        for rank in sorted(self._ranks):
            for owner, queue in self._ranks[rank].items():
                if owner not in barred:
                    return queue[0]
        return None

    def serve(self, waiter: Waiter, now: float) -> None:
        """It goes: the others of its rank have their turns before its owner has another."""
        queues = self._ranks[waiter.rank]
        queue = queues.pop(waiter.owner)
        queues[waiter.owner] = queue
        self.remove(waiter)
        passed = max(now - self._served_at, 0.0)
        self.gap = passed if not self.gap else self.gap * (1 - _GAP_WEIGHT) + passed * _GAP_WEIGHT
        self._served_at = now

    def remove(self, waiter: Waiter) -> None:
        """It waits no more. No effect if it does not wait."""
        if not waiter.is_waiting:
            return
        waiter.is_waiting = False
        queues = self._ranks[waiter.rank]
        queue = queues[waiter.owner]
        queue.remove(waiter)
        self._size -= 1
        if not queue:
            del queues[waiter.owner]
            if not queues:
                del self._ranks[waiter.rank]

    def overdue(self, now: float) -> list[Waiter]:
        """Those whose time is over."""
        return [waiter for waiter in self if waiter.until <= now]

    def worst(self, rank: int) -> Waiter | None:
        """Who gives up its place for one of `rank`: of the least important, more so than `rank`, the newest of the
        owner who has most."""
        last = max(self._ranks, default=rank)
        if last <= rank:
            return None
        return max(self._ranks[last].values(), key=len)[-1]

    def wait(self, rank: int, owner: str) -> float:
        """About how many seconds one that comes now waits; 0.0 while nothing is known."""
        if not self.gap:
            return 0.0
        ahead = sum(len(queue) for at, queues in self._ranks.items() if at < rank for queue in queues.values())
        own = self._ranks.get(rank, {})
        mine = len(own.get(owner, ()))
        ahead += sum(min(len(queue), mine + 1) for other, queue in own.items() if other != owner) + mine
        return (ahead + 1) * self.gap

    def __repr__(self) -> str:
        ranks = {rank: {owner: len(queue) for owner, queue in queues.items()} for rank, queues in self._ranks.items()}
        return f"<Line {self._size} waiting {ranks} gap={self.gap:.3f}>"
