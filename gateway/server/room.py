"""How many connections there may be: in all, from one address, and as far as file descriptors go.

What is counted begins when a connection is accepted, before its handshake, and ends when it does. Each worker writes
its own count into its row of the zone and adds up all rows; the counts by address are leases, exact over all workers.
"""

from collections.abc import Callable, Sequence
from heapq import nsmallest
from typing import Any

from gateway.config.settings import Limits
from gateway.edge.caller import network_of
from gateway.server.zone import TAKEN
from gateway.stores.leases import SharedLeases
from gateway.stores.table import Place

_RESERVE = 64  # descriptors of a worker that are no connection's
_REAPED = 64  # idle connections that are closed at one time, to make room


class Room:
    """The places of a worker's connections."""

    def __init__(
        self, limits: Limits, row: Any, rows: Sequence[Any], leases: SharedLeases | None, descriptors: int
    ) -> None:
        """`row` is the worker's own of `rows`; `leases` None: no limit by address. `descriptors` is what the worker may
        open: a connection has two, the second for the model server."""
        self.bound = limits.connections
        self.by_address = limits.connections_per_address
        self.row = row
        self.rows = rows
        self.leases = leases
        self.own_bound = max(1, (descriptors - _RESERVE) // 2)
        self.is_shut = False  # overload: nobody new for a while
        row[TAKEN] = 0

    @property
    def is_full(self) -> bool:
        taken = self.row[TAKEN]
        return self.is_shut or taken >= self.own_bound or sum(row[TAKEN] for row in self.rows) >= self.bound

    def enter(self, address: str, *, is_trusted: bool) -> Callable[[], None] | None:
        """A place for a connection from `address`; what is returned gives it back, once. None: that address has enough.
        A trusted proxy is no client: it may have any number."""
        place: Place | None = None
        if self.leases is not None and self.by_address and address and not is_trusted:
            place = self.leases.place(f"connections {network_of(address)}")
            if not self.leases.acquire(place, self.by_address):
                return None
        self.row[TAKEN] += 1
        return _Leave(self, place)

    def __repr__(self) -> str:
        total = sum(row[TAKEN] for row in self.rows)
        return f"<Room {self.row[TAKEN]} of {self.own_bound} here, {total} of {self.bound} in all shut={self.is_shut}>"


class _Leave:
    __slots__ = ("place", "room")

    def __init__(self, room: Room, place: Place | None) -> None:
        self.room: Room | None = room
        self.place = place

    def __call__(self) -> None:
        if self.room is None:
            return
        room, self.room = self.room, None
        room.row[TAKEN] -= 1
        if self.place is not None and room.leases is not None:
            room.leases.release(self.place)


def reap(connections: Sequence[Any]) -> int:
    """Close those that have been idle for longest, so that others find room; -> how many."""
    idle = [connection for connection in connections if connection.is_idle]
    for connection in nsmallest(_REAPED, idle, key=lambda each: each.deadline):
        connection.retire()
    return min(len(idle), _REAPED)
