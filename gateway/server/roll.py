"""Replacing workers one by one, because code that they have imported has changed: a successor serves before its
predecessor is told to finish what runs and end. A successor that cannot serve ends the roll; the others stay.

A predecessor may take as long as a drain, so successors start in rows of the zone that are free; both accept from one
listening socket meanwhile, and what waits there is lost by neither.
"""

import logging
import signal
import time
from collections.abc import Sequence

from gateway.server.children import Children, name_of, tell
from gateway.server.zone import PID, STALE, Zone

_log = logging.getLogger("gateway.master")

_SERVE_SECONDS = 60.0  # a successor that does not serve by then never will
PAUSE = 0.05  # seconds between two looks at a successor


class Roll:
    """At most one runs. `slots` are all rows that workers may have, `listener_of` says whose sockets a slot's are."""

    def __init__(self, children: Children, zone: Zone, slots: Sequence[int], listener_of: dict[int, int]) -> None:
        self.children = children
        self.zone = zone
        self.slots = slots
        self.listener_of = listener_of
        self.is_under_way = False
        self.ending: set[int] = set()  # pids that have been replaced
        self.old = 0  # the pid whose successor is starting
        self.slot: int | None = None  # that successor's
        self.deadline = 0.0

    def begin(self) -> None:
        """Replace every worker that says it is stale, or will say so in this moment."""
        if not self.is_under_way:
            _log.info("code has changed: the workers are replaced, one by one")
            self.is_under_way = True

    def step(self) -> None:
        """Go on, if something can be done now."""
        if self.slot is not None:
            self._look()
        if self.is_under_way and self.slot is None:
            self._start_next()

    def forgets(self, pid: int) -> bool:
        """This child has ended, and nobody is to be started in its place: it has a successor, or one that starts."""
        if pid == self.old:
            self.old = 0
            return True
        if pid in self.ending:
            self.ending.discard(pid)
            return True
        return False

    def has_lost(self, slot: int) -> bool:
        """The successor in this slot has ended before it served: the others keep what they have. It is not missed,
        unless its predecessor has died meanwhile."""
        if slot != self.slot:
            return False
        _log.error("%s cannot serve: no worker is replaced", name_of(slot))
        is_spare = self.old != 0
        self.old, self.slot, self.is_under_way = 0, None, False
        return is_spare

    def _stale(self) -> list[int]:
        """Pids, in the order of their starts."""
        workers = self.zone.workers
        return [pid for pid, slot in self.children.slots.items() if workers[slot][STALE] and pid not in self.ending]

    def _look(self) -> None:
        assert self.slot is not None
        if self.zone.workers[self.slot][PID]:
            if self.old:
                self.ending.add(self.old)
                tell([self.old], signal.SIGTERM)
            self.old, self.slot = 0, None
        elif time.monotonic() > self.deadline:
            tell([pid for pid, slot in self.children.slots.items() if slot == self.slot], signal.SIGKILL)

    def _start_next(self) -> None:
        stale = [pid for pid in self._stale() if self.children.slots[pid] in self.slots]
        taken = {*self.children.slots.values(), *self.children.due}
        free = next((slot for slot in self.slots if slot not in taken), None)
        self.is_under_way = bool(stale)
        if not stale or free is None:
            return
        self.old = stale[0]
        self.slot = free
        self.deadline = time.monotonic() + _SERVE_SECONDS
        self.listener_of[free] = self.listener_of[self.children.slots[self.old]]
        self.children.start(free)

    def __repr__(self) -> str:
        return f"<Roll under_way={self.is_under_way} starting={self.slot} ending={self.ending}>"
