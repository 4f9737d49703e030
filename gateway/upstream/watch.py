"""One attempt in a pool that somebody watches (`core/outcome.py`)."""

from collections.abc import Sequence
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any

from gateway.core.endpoint import Endpoint
from gateway.core.outcome import Outcome, Watcher
from gateway.errors import ClientLeft, GatewayError


class Watch:
    """Tells the watchers; as a context manager around an attempt, inside the lease."""

    __slots__ = ("began", "endpoint", "request", "retry_after", "seconds", "status", "watchers")

    def __init__(self, watchers: Sequence[Watcher], request: Any, endpoint: Endpoint) -> None:
        self.watchers = watchers
        self.request = request
        self.endpoint = endpoint
        self.began = monotonic()
        self.status = 0
        self.seconds = inf
        self.retry_after = 0.0
        for watcher in watchers:
            watcher.began(request, endpoint, self.began)

    def first_byte(self, status: int, retry_after: float, seconds: float, now: float) -> None:
        """The answer's head came."""
        self.status = status
        self.seconds = seconds
        self.retry_after = retry_after
        for watcher in self.watchers:
            watcher.first_byte(self.request, self.endpoint, seconds, now)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        now = monotonic()
        if error is not None and not isinstance(error, GatewayError):
            error = ClientLeft()  # cancelled: nobody waits for the answer any more
        outcome = Outcome(self.status, error, now - self.began, self.seconds, self.retry_after)
        for watcher in self.watchers:
            watcher.ended(self.request, self.endpoint, outcome, now)

    def __repr__(self) -> str:
        return f"<Watch of {self.endpoint!r} status={self.status} by {len(self.watchers)}>"
