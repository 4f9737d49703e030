"""What a worker keeps from one snapshot to the next: endpoints with their counts and averages, connections, buckets,
sessions' secrets, what was counted. They belong to an identity, not to an index in a list, and so survive a reload."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from gateway.core.deadlines import Deadlines
from gateway.core.endpoint import Endpoint, Row
from gateway.core.session import Sessions
from gateway.core.snapshot import Snapshot
from gateway.edge.authenticate import Refreshes
from gateway.edge.journal import Journal
from gateway.edge.meters import Recorder
from gateway.edge.tokens import Tokens
from gateway.stores.keys import EMPTY, LiveKeys
from gateway.stores.leases import SharedLeases
from gateway.upstream.connections import Connections


@dataclass
class Runtime:
    """One for each worker, made after the fork."""

    row: Row
    recorder: Recorder
    journal: Journal | None
    sessions: Sessions
    buckets: Any  # a store of token buckets
    leases: SharedLeases  # requests in flight
    upstream_tls: Callable[[], ssl.SSLContext]
    refresh: Refreshes
    clock: Callable[[], float]  # `time.monotonic`: uvloop's own counts in whole milliseconds
    rng: Random = field(default_factory=Random)
    deadlines: Deadlines = field(default_factory=Deadlines)
    keys: LiveKeys = field(default_factory=lambda: LiveKeys(EMPTY))
    tokens: Tokens | None = None
    snapshot: Snapshot = field(init=False)  # the newest; set before the first request
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    connections: dict[Endpoint, Connections] = field(default_factory=dict)

    def endpoint(self, url: str, slot: int, weight: float) -> Endpoint:
        """The endpoint at `url`, the same object for as long as it keeps its slot."""
        known = self.endpoints.get(url)
        if known is None or known.slot != slot:
            known = self.endpoints[url] = Endpoint(url, slot, self.row, weight)
        known.weight = weight
        return known

    def connections_of(self, endpoint: Endpoint) -> Connections:
        known = self.connections.get(endpoint)
        if known is None:
            known = self.connections[endpoint] = Connections(endpoint.address, self.deadlines, self.upstream_tls)
        return known

    def retain(self, urls: set[str]) -> None:
        """Forget endpoints that are in no pool any more; requests that still use one keep it alive themselves."""
        for url in self.endpoints.keys() - urls:
            connections = self.connections.pop(self.endpoints.pop(url), None)
            if connections is not None:
                connections.close()

    def trim(self, now: float) -> None:
        """Close upstream connections that nobody used for a while."""
        for connections in self.connections.values():
            connections.trim(now)

    def close(self) -> None:
        """At the worker's exit."""
        for connections in self.connections.values():
            connections.close()
        self.recorder.close()
        if self.journal is not None:
            self.journal.close()
