"""How busy the endpoints of a pool are, over all workers."""

from collections.abc import Sequence
from math import inf
from typing import Final

from gateway.core.endpoint import Endpoint

FRESH: Final = 0.002  # seconds: how old the other workers' counts may be
CELL: Final = 4e-6  # seconds between two readings of one cell, which costs 40 ns: never more than 1 % of a core


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
