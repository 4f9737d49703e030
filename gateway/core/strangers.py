"""Requests that reached an engine by other ways than through this gateway: what it says that it has, less what was sent
there from here.

Both numbers are of moments up to a second apart, so that their difference is right on average only: it is averaged over
a few readings, and less than one request is nobody.
"""

from typing import Final

from gateway.core.work import ENGINE_FRESH, EngineLoad

NEW: Final = 0.3  # weight of the newest reading: one of an average of three seconds


class Strangers:
    """At one endpoint."""

    __slots__ = ("_at", "_running", "_waiting", "running", "waiting")

    def __init__(self) -> None:
        self._at = 0.0
        self._running = self._waiting = 0.0
        self.running = self.waiting = 0.0  # requests, as the last reading has it

    def hear(self, engine: EngineLoad | None, running: int, waiting: int, now: float) -> bool:
        """What its engine said last, and how many requests of this gateway run and wait there; -> is it new?"""
        if engine is None or now - engine.at > ENGINE_FRESH:
            self._running = self._waiting = self.running = self.waiting = 0.0
            return False
        if engine.at == self._at:
            return False
        self._at = engine.at
        # One that waits for its first token may be running in the engine's words: it is all of them that count.
        others = engine.running + engine.waiting - running - waiting
        self._waiting += NEW * (min(engine.waiting - waiting, others) - self._waiting)
        self._running += NEW * (others - self._running)
        self.waiting = self._waiting if self._waiting >= 1.0 else 0.0
        self.running = max(self._running - self.waiting, 0.0) if self._running >= 1.0 else 0.0
        return True

    def __repr__(self) -> str:
        return f"<Strangers {self.running:.1f} running, {self.waiting:.1f} waiting>"
