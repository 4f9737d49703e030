"""One address of a model server: its identity, its load, its health. The decisions over many of them are in `pick/`.

An endpoint outlives snapshots: a worker keeps it by identity, so counts and averages survive a reload. Its health is
the controller's cell in the zone, its in-flight count this worker's; both are handed in as plain sequences, so that
tests use lists.
"""

import hashlib
from collections.abc import MutableSequence, Sequence
from enum import IntEnum
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit


class Health(IntEnum):
    """States of an endpoint. Zero, what fresh memory holds, is where every endpoint starts."""

    CHECKING = 0
    UP = 1
    PROBATION = 2  # was down, first good checks: takes no new work yet
    DOWN = 3
    DRAINING = 4  # takes no new sessions, finishes what runs


class Address(NamedTuple):
    scheme: str
    host: str
    port: int
    prefix: bytes  # a path in the URL, put before every request's path; b"" for none

    @classmethod
    def parse(cls, url: str) -> "Address":
        """`http(s)://host[:port][/prefix]`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not http(s)://host[:port]")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{url!r}: an endpoint has no query, fragment or credentials")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/").encode("ascii"))

    @property
    def authority(self) -> bytes:
        """What belongs in a Host field (RFC 9110, 7.2): the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == (443 if self.scheme == "https" else 80)
        return (host if is_default else f"{host}:{self.port}").encode("ascii")


class Row(NamedTuple):
    """The cells of the zone that an endpoint reads and writes, each indexed by its slot."""

    health: Sequence[int]  # Health, written by the controller
    in_flight: MutableSequence[int]  # written by this worker alone
    others: Sequence[Sequence[int]] = ()  # the other workers' in-flight counts


class Endpoint:
    """An endpoint as one worker sees it."""

    __slots__ = ("address", "id", "in_flight", "latency", "latency_at", "row", "slot", "state", "url", "weight")

    def __init__(self, url: str, slot: int, row: Row, weight: float = 1.0) -> None:
        self.url = url
        self.address = Address.parse(url)
        self.id = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
        self.slot = slot
        self.row = row
        self.weight = weight
        self.in_flight = 0  # leases held by this worker
        self.latency = 0.0  # average seconds to the first byte, 0.0: no sample yet
        self.latency_at = 0.0  # when it was last updated
        self.state: dict[str, float] = {}

    @property
    def health(self) -> Health:
        return Health(self.row.health[self.slot])

    @property
    def load(self) -> int:
        """Leases held over all workers of this machine."""
        total = self.in_flight
        for counts in self.row.others:
            total += counts[self.slot]
        return total

    def lease(self) -> "Lease":
        """`with endpoint.lease():` around a whole exchange, to the last byte of the stream."""
        return Lease(self)

    def __repr__(self) -> str:
        return f"<Endpoint {self.url} {self.health.name.lower()} in_flight={self.in_flight} latency={self.latency:.4f}>"


class Lease:
    """One exchange's hold on an endpoint; released exactly once, however the exchange ends."""

    __slots__ = ("endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def __enter__(self) -> Endpoint:
        endpoint = self.endpoint
        endpoint.in_flight += 1
        endpoint.row.in_flight[endpoint.slot] = endpoint.in_flight
        return endpoint

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        endpoint = self.endpoint
        endpoint.in_flight -= 1
        endpoint.row.in_flight[endpoint.slot] = endpoint.in_flight
