"""What a pool must know before it picks: which endpoints are open, and how busy they are over all workers."""

from collections.abc import Collection, Sequence
from math import inf

from gateway.core.endpoint import Endpoint, Health

FRESH = 0.002  # seconds: how old the other workers' counts may be
CELL = 4e-6  # seconds between two readings of one cell, which costs 40 ns: never more than 1 % of a core


class OpenList:
    """The endpoints that may take new work, cached until some endpoint's health changes.

    Those that are UP; if none is, those still CHECKING (a gateway that has just started serves before it has probed);
    else none.
    """

    __slots__ = ("_changes", "_checking", "_endpoints", "_seen", "_up")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        self._changes = endpoints[0].row.changes if endpoints else (0,)
        self._seen: int | None = None
        self._up: tuple[Endpoint, ...] = ()
        self._checking: tuple[Endpoint, ...] = ()

    def candidates(self, tried: Collection[Endpoint] = ()) -> tuple[Endpoint, ...]:
        """In the pool's order, without `tried`. The same tuple, by identity, until something changes."""
        changes = self._changes
        if not changes or changes[0] != self._seen:
            self._read()
        if not tried:
            return self._up or self._checking
        up = tuple([e for e in self._up if e not in tried])
        return up or tuple([e for e in self._checking if e not in tried])

    def _read(self) -> None:
        # The count before the cells: a change that falls in between is seen by the next reading.
        self._seen = self._changes[0] if self._changes else None
        up, checking = [], []
        for endpoint in self._endpoints:
            health = endpoint.health
            if health is Health.UP:
                up.append(endpoint)
            elif health is Health.CHECKING:
                checking.append(endpoint)
            if health is not Health.UP and health is not Health.DRAINING and endpoint.work.prefixes is not None:
                endpoint.work.prefixes.forget(endpoint)  # it may have restarted
        # An equal tuple keeps its identity: policies cache by it, and most changes concern other pools.
        self._up = self._up if self._up == tuple(up) else tuple(up)
        self._checking = self._checking if self._checking == tuple(checking) else tuple(checking)

    def __repr__(self) -> str:
        return f"<OpenList {len(self._up)} up, {len(self._checking)} checking of {len(self._endpoints)}>"


class Loads:
    """Keeps `Endpoint.pending` of one pool near the sum over all workers.

    Policies say `if now >= loads.due: loads.refresh(now)`; with a single worker `due` is never reached, and that
    comparison is all it costs.
    """

    __slots__ = ("_endpoints", "_pause", "due")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = tuple(endpoints)
        cells = sum(len(endpoint.row.others) for endpoint in endpoints)
        self._pause = max(FRESH, cells * CELL)
        self.due = -inf if cells else inf

    def refresh(self, now: float) -> None:
        for endpoint in self._endpoints:
            endpoint.pending = endpoint.load
        self.due = now + self._pause


class Works:
    """Keeps `Work.pending` and `.running` of one pool near the sums over all workers, in the same way."""

    __slots__ = ("_pause", "_works", "due")

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._works = tuple(endpoint.work for endpoint in endpoints)
        cells = sum(work.cells_read for work in self._works)
        self._pause = max(FRESH, cells * CELL)
        self.due = -inf if cells else inf

    def refresh(self, now: float) -> None:
        for work in self._works:
            work.refresh()
        self.due = now + self._pause
