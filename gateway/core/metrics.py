"""What is counted, and how counts of several workers become one. Plain numbers in plain containers: a worker adds to
them on the hot path, writes them out now and then (`edge/meters.py`), and the controller adds the workers' up.

Bounds. Every label comes from the configuration, from an endpoint's pool or from a class of `errors.py`, never from
what a client wrote: an unmatched request is model "". One pair of model and version costs 2 x (buckets + 2) + statuses
seen + 4 series, about 50, whatever the number of workers. Names that come and go (discovery, reloads) keep their
counters until the gateway restarts, as counters must; past `NAMES` of them the rest is counted under `OTHER`.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.errors import GatewayError

# Seconds: from a small model's answer to the longest generation (the client library's own buckets end at 10).
BUCKETS: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
NAMES = 2000  # pairs of model and version that one worker counts apart: some 100,000 series
OTHER = "(other)"


class Histogram(msgspec.Struct):
    """How many durations fell at or under each bound of `BUCKETS` and above the one before; the last: above all."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    sum: float = 0.0  # seconds

    def __post_init__(self) -> None:
        if len(self.counts) != len(BUCKETS) + 1:
            raise ValueError(f"{len(self.counts)} buckets where {len(BUCKETS) + 1} belong")

    def add(self, other: "Histogram") -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Meter(msgspec.Struct):
    """All that is counted of one model and version."""

    statuses: dict[int, int] = {}
    duration: Histogram = msgspec.field(default_factory=Histogram)
    first_byte: Histogram = msgspec.field(default_factory=Histogram)  # of the answers that had one
    bytes_in: int = 0
    bytes_out: int = 0
    attempts: int = 0
    retries: int = 0
    retries_denied: int = 0
    fallbacks: int = 0
    hedges: int = 0
    hedges_won: int = 0
    queued: int = 0
    queued_seconds: float = 0.0

    def add(self, other: "Meter") -> None:
        _add(self.statuses, other.statuses)
        self.duration.add(other.duration)
        self.first_byte.add(other.first_byte)
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.attempts += other.attempts
        self.retries += other.retries
        self.retries_denied += other.retries_denied
        self.fallbacks += other.fallbacks
        self.hedges += other.hedges
        self.hedges_won += other.hedges_won
        self.queued += other.queued
        self.queued_seconds += other.queued_seconds


class PromptMeter(msgspec.Struct):
    """What an endpoint has read of prompts, where its pool's policy reads them, and how fast it is found to be."""

    tokens: int = 0  # of prompts sent to it
    cached: int = 0  # of those, what it should have kept from earlier ones
    # Gauges, each the sum over the workers that know it.
    prefill: float = 0.0  # seconds for each token of a prompt
    prefill_known: int = 0
    token: float = 0.0  # seconds for each token of an answer
    token_known: int = 0

    def forget_gauges(self) -> None:
        self.prefill = self.token = 0.0
        self.prefill_known = self.token_known = 0

    def learned(self, prefill: float, token: float) -> None:
        """What one worker knows now; 0.0: nothing."""
        self.prefill, self.prefill_known = prefill, int(prefill > 0.0)
        self.token, self.token_known = token, int(token > 0.0)

    def add(self, other: "PromptMeter") -> None:
        self.tokens += other.tokens
        self.cached += other.cached
        self.prefill += other.prefill
        self.prefill_known += other.prefill_known
        self.token += other.token
        self.token_known += other.token_known

    @property
    def prefill_seconds(self) -> float:
        """The mean of the workers; 0.0: none knows."""
        return self.prefill / self.prefill_known if self.prefill_known else 0.0

    @property
    def token_seconds(self) -> float:
        return self.token / self.token_known if self.token_known else 0.0


class Totals(msgspec.Struct):
    """Everything counted by one worker, or by all of them."""

    meters: dict[tuple[str, str], Meter] = {}  # by model and version
    errors: dict[tuple[str, str, str], int] = {}  # by model, owner, code
    verdicts: dict[tuple[str, str], int] = {}  # by model and verdict
    handshakes: dict[tuple[str, str], int] = {}  # by TLS version and cipher suite
    handshake_failures: dict[str, int] = {}  # by OpenSSL's reason
    connections_refused: dict[str, int] = {}  # by reason, before a handshake
    accept_pauses: int = 0
    stalls: dict[str, int] = {}  # by the plugin that held the loop up; "": none that is known
    prompts: dict[str, PromptMeter] = {}  # by the endpoint's URL
    lines_dropped: int = 0
    # Gauges: what holds now.
    in_flight: dict[str, int] = {}  # by model
    waiting: dict[tuple[str, str], int] = {}  # in lines, by model and version
    connections: int = 0

    def meter(self, model: str, version: str) -> Meter:
        meter = self.meters.get((model, version))
        if meter is None:
            key = (model, version) if len(self.meters) < NAMES else (OTHER, "")
            meter = self.meters.setdefault(key, Meter())
        return meter

    def prompt_meter(self, url: str) -> PromptMeter:
        meter = self.prompts.get(url)
        if meter is None:
            meter = self.prompts.setdefault(url if len(self.prompts) < NAMES else OTHER, PromptMeter())
        return meter

    def count_error(self, model: str, error: GatewayError) -> None:
        key = (model, error.owner, error.code)
        if key not in self.errors and len(self.errors) >= NAMES:
            key = (OTHER, error.owner, error.code)
        self.errors[key] = self.errors.get(key, 0) + 1

    def count_handshake(self, version: str, cipher: str) -> None:
        """OpenSSL knows few of both."""
        key = (version, cipher)
        self.handshakes[key] = self.handshakes.get(key, 0) + 1

    def count_failed_handshake(self, reason: str) -> None:
        if reason not in self.handshake_failures and len(self.handshake_failures) >= NAMES:
            reason = OTHER
        self.handshake_failures[reason] = self.handshake_failures.get(reason, 0) + 1

    def count_stall(self, plugin: str) -> None:
        if plugin not in self.stalls and len(self.stalls) >= NAMES:
            plugin = OTHER
        self.stalls[plugin] = self.stalls.get(plugin, 0) + 1

    def forget_gauges(self) -> None:
        """What held for a process that is gone holds no more."""
        self.in_flight = {}
        self.waiting = {}
        self.connections = 0
        for meter in self.prompts.values():
            meter.forget_gauges()

    def add(self, other: "Totals") -> None:
        for key, meter in other.meters.items():
            self.meters.setdefault(key, Meter()).add(meter)
        for url, prompts in other.prompts.items():
            self.prompts.setdefault(url, PromptMeter()).add(prompts)
        _add(self.errors, other.errors)
        _add(self.verdicts, other.verdicts)
        _add(self.handshakes, other.handshakes)
        _add(self.handshake_failures, other.handshake_failures)
        _add(self.connections_refused, other.connections_refused)
        self.accept_pauses += other.accept_pauses
        _add(self.stalls, other.stalls)
        _add(self.in_flight, other.in_flight)
        _add(self.waiting, other.waiting)
        self.lines_dropped += other.lines_dropped
        self.connections += other.connections

    def __repr__(self) -> str:
        requests = sum(sum(meter.statuses.values()) for meter in self.meters.values())
        return f"<Totals {requests} requests of {len(self.meters)} models, {sum(self.in_flight.values())} in flight>"


def merge(parts: Iterable[Totals]) -> Totals:
    """The sum of the workers' totals."""
    whole = Totals()
    for part in parts:
        whole.add(part)
    return whole


def _add(mine: dict[Any, int], theirs: dict[Any, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count
