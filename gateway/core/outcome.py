"""What became of an attempt at an endpoint, and who is told of it.

A `Watcher` is told of every attempt in a pool at three moments: it began, the answer's head came, it ended. Pools that
nobody watches pay nothing for it.
"""

from math import inf
from typing import Any, NamedTuple, Protocol

from gateway.core.endpoint import Endpoint
from gateway.errors import GatewayError


class Outcome(NamedTuple):
    """How an attempt ended."""

    status: int  # of the endpoint's answer; 0: none came
    error: GatewayError | None  # why there was no answer, or why it broke off; None: it was passed on to its end
    seconds: float  # from the attempt's beginning to its end
    first_byte: float = inf  # seconds to the answer's head; inf: none came
    retry_after: float = 0.0  # seconds for which the endpoint asked to be left alone; 0.0: it did not ask

    @property
    def is_failure(self) -> bool:
        """The endpoint failed: no answer, a broken one, or one that says so (5xx but 501, which is its true word)."""
        if self.error is not None:
            return self.error.owner == "upstream"
        return self.status >= 500 and self.status != 501


class Watcher(Protocol):
    """Is told of the attempts in a pool. `request` is what the pool's policy was given to pick by. Clocks: monotonic
    seconds. Every `began` is followed by one `ended`, whatever happens."""

    def began(self, request: Any, endpoint: Endpoint, now: float) -> None:
        """The endpoint is leased; the request is about to be sent, once there is a connection."""
        ...

    def first_byte(self, request: Any, endpoint: Endpoint, seconds: float, now: float) -> None:
        """The head of the answer came, `seconds` after the request was sent."""
        ...

    def ended(self, request: Any, endpoint: Endpoint, outcome: Outcome, now: float) -> None:
        """The lease is about to be given back."""
        ...
