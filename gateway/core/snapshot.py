"""The compiled, immutable configuration: what a request reads once and keeps to its end."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from gateway.core.endpoint import Endpoint, Health

Chain = Callable[[Any, Any, Any], Awaitable[None]]


class Policy(Protocol):
    """How a pool chooses; see `pick/`."""

    def pick(self, candidates: Sequence[Endpoint], key: bytes, now: float, rng: Random) -> Endpoint:
        """Choose among `candidates` (never empty, a subset of the pool's endpoints). `key` is what a hash hashes."""
        ...


@dataclass(slots=True)
class Pool:
    """The endpoints of one model version."""

    model: str
    version: str
    endpoints: Sequence[Endpoint]
    policy: Policy
    served_model: str  # what the upstream calls the model
    served_version: str | None  # what it calls the version; None: as the client says

    def candidates(self, tried: Sequence[Endpoint] = ()) -> list[Endpoint]:
        """Endpoints that may take new work: those that are up; failing that, those not yet checked. `tried` are out."""
        up = [e for e in self.endpoints if e.health is Health.UP and e not in tried]
        return up or [e for e in self.endpoints if e.health is Health.CHECKING and e not in tried]
