"""A limit that is tried out (`dry_run`): what it would have refused is logged, now and then, and admitted."""

import logging
from collections.abc import Callable

from gateway.core.limiter import SECOND
from gateway.model import Exchange

_log = logging.getLogger("gateway.limits")

_NOTE_SECONDS = 10  # between two lines about one limit


class Trial:
    """One such limit, `name` in the log. `clock` says nanoseconds."""

    __slots__ = ("clock", "name", "noted", "noted_at")

    def __init__(self, name: str, clock: Callable[[], int]) -> None:
        self.name = name
        self.clock = clock
        self.noted = 0  # since the last line
        self.noted_at = 0

    def note(self, exchange: Exchange) -> None:
        """This request would have been refused."""
        exchange.limit_verdict = "would_limit"
        self.noted += 1
        now = self.clock()
        if now - self.noted_at >= _NOTE_SECONDS * SECOND:
            _log.warning("dry run: %s would have refused %s (%d requests)", self.name, exchange, self.noted)
            self.noted, self.noted_at = 0, now
