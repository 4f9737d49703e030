"""The composition root: THE list of layers, in travel order, each with the reason for its place.

What outlives a snapshot is in `Runtime`: endpoints with their counts, connections, what was counted. What a snapshot
replaces is compiled here: for each model one chain of just the layers that it uses.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from gateway.config.settings import ModelSettings, Settings, VersionSettings
from gateway.core.deadlines import Deadlines
from gateway.core.dispatch import Directory
from gateway.core.endpoint import Endpoint, Row
from gateway.core.pick import make as make_policy
from gateway.core.snapshot import Pool, Route, Snapshot
from gateway.core.split import Split
from gateway.edge.admit import BoundBody
from gateway.edge.journal import Journal
from gateway.edge.match import Match
from gateway.edge.meters import Recorder
from gateway.edge.observe import Observe
from gateway.edge.rescue import Rescue
from gateway.edge.rewrite import RewriteHeaders, RewritePath
from gateway.edge.split import ChooseVersion
from gateway.edge.transform import Transform
from gateway.upstream.connections import Connections
from gateway.upstream.forward import Forward


@dataclass
class Runtime:
    """What a worker keeps from one snapshot to the next."""

    row: Row
    recorder: Recorder
    journal: Journal | None
    rng: Random = field(default_factory=Random)
    deadlines: Deadlines = field(default_factory=Deadlines)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    connections: dict[Endpoint, Connections] = field(default_factory=dict)
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(0))

    def connections_of(self, endpoint: Endpoint) -> Connections:
        known = self.connections.get(endpoint)
        if known is None:
            known = self.connections[endpoint] = Connections(endpoint.address, self.deadlines, ssl.create_default_context)
        return known

    def endpoint(self, url: str, slot: int, weight: float) -> Endpoint:
        known = self.endpoints.get(url)
        if known is None or known.slot != slot:
            known = self.endpoints[url] = Endpoint(url, slot, self.row, weight)
        known.weight = weight
        return known


def make_app(runtime: Runtime) -> Starlette:
    """The app of a worker."""
    return Starlette(
        middleware=[
            Middleware(Observe, recorder=runtime.recorder, journal=runtime.journal),
            Middleware(Rescue),
            Middleware(Match, snapshot=lambda: runtime.snapshot),
        ]
    )


def compile_snapshot(settings: Settings, generation: int, slots: Mapping[str, int], runtime: Runtime) -> Snapshot:
    directory = Directory()
    routes = {}
    for name, model in settings.models.items():
        pools = {v: _pool(name, v, arm, model, slots, runtime) for v, arm in model.versions.items()}
        for known in (name, *model.aliases):
            directory.add_name(known, name)
        for rule in model.match:
            directory.add_match(rule.host, rule.prefix, name)
        routes[name] = Route(
            name=name,
            pools=pools,
            split=Split({v: arm.weight for v, arm in model.versions.items()}, model.default_version),
            chain=_chain(name, model, pools, runtime),
        )
    return Snapshot(generation, directory, routes)


def _pool(name: str, version: str, arm: VersionSettings, model: ModelSettings, slots: Mapping[str, int], runtime: Runtime) -> Pool:
    endpoints = [runtime.endpoint(e.url, slots[e.url], e.weight) for e in arm.endpoints]
    policy = make_policy(arm.balance or model.balance, endpoints)
    return Pool(name, version, endpoints, policy, arm.served_as.model or name, arm.served_as.version)


def _chain(name: str, model: ModelSettings, pools: Mapping[str, Pool], runtime: Runtime) -> ASGIApp:
    app: ASGIApp = Forward(
        connections=runtime.connections_of, key_of=lambda scope, exchange: b"", timeouts=model.timeouts,
        attempts=model.retry.attempts, is_host_kept=model.preserve_host, rng=runtime.rng)
    app = Transform(app)
    app = ChooseVersion(app, rng=runtime.rng)
    return app
