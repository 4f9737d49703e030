"""One address of a model server: its identity, its load, its health. The decisions over many of them are in `pick/`.

An endpoint outlives snapshots: a worker keeps it by identity, so counts, averages and turns survive a reload. Its
health is the controller's cell in the zone, its in-flight count this worker's; both are handed in as plain sequences,
so that tests use lists.
"""

import hashlib
from collections.abc import MutableSequence, Sequence
from enum import IntEnum
from math import exp, inf, log
from types import TracebackType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from gateway.core import standing as traffic
from gateway.core.work import Cells, Work

# The mean lifetime of a latency sample, in seconds: Finagle's default decayTime for PeakEwma. It is both the time
# constant of the averages and the time in which an estimate that nobody confirms falls to 1/e.
TAU: Final = 10.0

SHORTEST: Final = 1e-6  # seconds; a latency of 0 has no logarithm


class Health(IntEnum):
    """States of an endpoint. Zero, what fresh memory holds, is where every endpoint starts."""

    CHECKING = 0
    UP = 1
    PROBATION = 2  # was down, first good checks: takes no new work yet
    DOWN = 3
    DRAINING = 4  # takes no new sessions, finishes what runs


HEALTHS: Final = tuple(Health)  # indexed by a cell: five times as fast as Health(cell)
KEEPING: Final = frozenset({Health.UP, Health.CHECKING, Health.DRAINING})


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


def identity(url: str) -> int:
    """A number for an endpoint that a double can hold; never 0, which is nobody's."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=6).digest(), "big") or 1


class Row(NamedTuple):
    """The cells of the zone that an endpoint reads and writes, each but `changes` indexed by its slot."""

    health: Sequence[int]  # Health, written by the controller
    in_flight: MutableSequence[int] | memoryview  # written by this worker alone
    others: Sequence[Sequence[int]] = ()  # the other workers' in-flight counts
    changes: Sequence[int] = ()  # one cell, a new number after anybody wrote what decides who is open; (): nobody does
    work: Cells | None = None  # tokens and streams, for policies that read prompts
    since: Sequence[float] = ()  # when it came up, written by the controller: monotonic seconds
    standing: traffic.Cells | None = None  # what real traffic says


class Endpoint:
    """An endpoint as one worker sees it.

    `pending` is what policies compare: this worker's leases, to the moment, and the other workers' as `Loads` last
    summed them (at most a few milliseconds ago, in a pool whose policy compares loads). `load` is always exact, and
    costs one read a worker.
    """

    __slots__ = (
        "address", "credit", "id", "in_flight", "latency", "latency_at", "multiplier", "peak", "pending", "picked_at",
        "rank", "row", "slot", "standing", "tier", "url", "weight", "work",
    )  # fmt: skip

    def __init__(self, url: str, slot: int, row: Row, weight: float = 1.0) -> None:
        digest = hashlib.blake2b(url.encode(), digest_size=8).digest()
        self.url = url
        self.address = Address.parse(url)
        self.id = digest.hex()
        self.slot = slot
        self.row = row
        self.weight = weight
        self.tier = 0  # of `priority`: the lowest first
        self.in_flight = 0  # leases held by this worker
        self.pending = 0
        self.latency = 0.0  # average seconds to the first byte, 0.0: no sample yet
        self.latency_at = 0.0  # when it was last updated
        self.peak = 0.0  # the same, jumping up to each worst case; 0.0: no sample yet
        self.rank = -inf  # what least_response_time compares; -inf: no sample yet
        self.work = Work(slot, row.work)
        self.standing = traffic.Standing(identity(url), slot, row.standing)
        self.credit = 0.0  # what round robin owes it
        self.picked_at = -inf  # when round robin last chose it
        self.multiplier = float(2**24 + (int.from_bytes(digest, "big") >> 12) * 2.0**-28)  # see pick/rendezvous.py

    @property
    def health(self) -> Health:
        return HEALTHS[self.row.health[self.slot]]

    @property
    def may_keep(self) -> bool:
        """A session that is already here may stay."""
        return self.row.health[self.slot] in KEEPING

    @property
    def load(self) -> int:
        """Leases held over all workers of this machine, exactly."""
        total = self.in_flight
        for counts in self.row.others:
            total += counts[self.slot]
        return total

    def observe(self, seconds: float, now: float) -> None:
        """One answer took `seconds` to its first byte.

        Samples are unevenly spaced, so each weighs by the time since the one before (Eckner, "Algorithms for unevenly
        spaced time series", 2012): w = exp(-gap/TAU). `peak` follows Finagle's PeakEwma.
        """
        if self.rank == -inf:
            self.latency = self.peak = seconds
            self.latency_at = now
        else:
            # A clock handed in a little late must not make a sample weigh more than one.
            kept = exp(min(self.latency_at - now, 0.0) / TAU)
            self.latency = self.latency * kept + seconds * (1.0 - kept)
            self.peak = seconds if seconds > self.peak else self.peak * kept + seconds * (1.0 - kept)
            self.latency_at = max(now, self.latency_at)
        # ln(latency x exp(-(t - latency_at)/TAU)) without the term -t/TAU, which is the same for every
        # endpoint at any t: comparing ranks compares aged estimates, and nothing has to be aged per pick (forward
        # decay: Cormode, Shkapenyuk, Srivastava, Xu, ICDE 2009).
        self.rank = log(max(self.latency, SHORTEST)) + self.latency_at / TAU

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
        endpoint.pending += 1
        endpoint.in_flight += 1
        endpoint.row.in_flight[endpoint.slot] = endpoint.in_flight
        return endpoint

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        endpoint = self.endpoint
        endpoint.pending -= 1
        endpoint.in_flight -= 1
        endpoint.row.in_flight[endpoint.slot] = endpoint.in_flight
