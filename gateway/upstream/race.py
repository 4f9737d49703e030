"""Several attempts at one request at the same time: one answers, and the others are over."""

import asyncio
from collections.abc import Callable, Hashable

from gateway.core.endpoint import Endpoint
from gateway.core.quantile import Quantile
from gateway.model import Exchange


class Race:
    """Attempts at one request, of which one may answer. Who runs is a `Call`, known here by identity alone."""

    __slots__ = ("exchange", "leaving", "tasks", "times", "winner")

    def __init__(self, exchange: Exchange, times: Quantile) -> None:
        self.exchange = exchange
        self.times = times
        self.tasks: dict[Hashable, asyncio.Task[None]] = {}
        self.leaving: dict[Hashable, Callable[[], None]] = {}
        self.winner: Hashable | None = None

    def join(self, call: Hashable, cancel: Callable[[], None]) -> None:
        """`cancel` ends the call if the client leaves."""
        self.leaving[call] = cancel
        self.exchange.on_leave = self.leave

    def part(self, call: Hashable) -> None:
        self.leaving.pop(call, None)
        if not self.leaving:
            self.exchange.on_leave = None

    def leave(self) -> None:
        for cancel in list(self.leaving.values()):
            cancel()

    def win(self, call: Hashable, endpoint: Endpoint, seconds: float) -> None:
        """The head of an answer to `call` came: the others are over."""
        if self.winner is not None:  # the other's was read in the same step of the loop
            raise asyncio.CancelledError
        self.winner = call
        self.exchange.endpoint = endpoint
        self.times.add(seconds)
        for other, task in self.tasks.items():
            if other is not call:
                task.cancel()

    def __repr__(self) -> str:
        return f"<Race of {len(self.tasks)}, {'won' if self.winner else 'open'}>"
