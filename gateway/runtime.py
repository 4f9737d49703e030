"""What a worker keeps from one snapshot to the next: endpoints with their counts and averages, connections, buckets,
sessions' secrets, what was counted. They belong to an identity, not to an index in a list, and so survive a reload."""

import ssl
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, NamedTuple

from starlette.types import Scope

from gateway.config.settings import AdaptiveSettings, Introspection, UpstreamTLS
from gateway.core.certificate import Callers
from gateway.core.deadlines import Deadlines
from gateway.core.endpoint import Endpoint, Row
from gateway.core.gradient import Gradients
from gateway.core.ledger import Ledger
from gateway.core.metrics import Totals
from gateway.core.overload import Overload
from gateway.core.pool import Pool
from gateway.core.prefixes import forget
from gateway.core.retry import Budget
from gateway.core.session import Sessions
from gateway.core.snapshot import Snapshot
from gateway.edge.authenticate import Means, Refreshes
from gateway.edge.failures import Failures
from gateway.edge.introspection import Introspector, read_secret
from gateway.edge.journal import Journal
from gateway.edge.meters import Recorder
from gateway.edge.question import Ask, address_of
from gateway.edge.tokens import Tokens
from gateway.edge.users import Users
from gateway.errors import GatewayError
from gateway.model import Exchange
from gateway.stores.keys import EMPTY, LiveKeys
from gateway.stores.leases import SharedLeases
from gateway.tls.client import UpstreamContexts
from gateway.tls.clients import ClientCAs
from gateway.upstream.ask import ask
from gateway.upstream.connections import Connections
from gateway.upstream.gate import Bounds, Gate
from gateway.upstream.hedger import Hedging

Service = tuple[str, str, int, UpstreamTLS]  # scheme, host, port, how it is proved


class Proof(NamedTuple):
    """How an https endpoint is proved."""

    settings: UpstreamTLS
    context: ssl.SSLContext


@dataclass
class Runtime:
    """One for each worker, made after the fork."""

    row: Row
    recorder: Recorder
    journal: Journal | None
    sessions: Sessions
    buckets: Any  # a store of token buckets
    leases: SharedLeases  # requests in flight
    refresh: Refreshes
    clock: Callable[[], float]  # `time.monotonic`: uvloop's own counts in whole milliseconds
    workers: int = 1  # of this machine, this one too
    rng: Random = field(default_factory=Random)
    deadlines: Deadlines = field(default_factory=Deadlines)
    overload: Overload = field(default_factory=lambda: Overload(0.0, 0.0))  # of the worker itself
    keys: LiveKeys = field(default_factory=lambda: LiveKeys(EMPTY))
    tokens: Tokens | None = None
    users: Users | None = None  # None: no file of users
    clients: ClientCAs = field(default_factory=lambda: ClientCAs({}))
    callers: Callers = field(default_factory=Callers)  # whom certificates prove
    failures: Failures | None = None  # None: failed attempts are not limited
    contexts: UpstreamContexts = field(default_factory=UpstreamContexts)
    proofs: dict[Endpoint, Proof] = field(default_factory=dict)  # of https endpoints
    budgets: dict[str, Budget] = field(default_factory=dict)  # of retries, by model
    hedgings: dict[str, Hedging] = field(default_factory=dict)  # by model
    gates: dict[tuple[str, str], Gate] = field(default_factory=dict)  # of models' versions that have bounds
    snapshot: Snapshot = field(init=False)  # the newest; set before the first request
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    by_slot: dict[int, Endpoint] = field(default_factory=dict)  # the same
    ledger: Ledger | None = None  # what workers tell each other of prompts; None: nobody else is there
    connections: dict[Endpoint, Connections] = field(default_factory=dict)
    services: dict[Service, Connections] = field(default_factory=dict)  # that are asked about callers
    asked: set[Service] = field(default_factory=set)  # those of them that the newest snapshot asks
    introspector: Introspector | None = None  # None: nobody is asked about tokens
    granted_headers: frozenset[bytes] = frozenset()  # what they may say to model servers

    def __post_init__(self) -> None:
        self.recorder.before_flush(self._sample)

    def _sample(self, totals: Totals) -> None:
        totals.waiting = {target: len(gate.line) for target, gate in self.gates.items()}

    @property
    def means(self) -> Means:
        return Means(self.keys, self.tokens, self.refresh, self.users, self.introspector, self.granted_headers)

    def asker(self, url: str, tls: UpstreamTLS) -> Ask:
        """Asks the service at `url`, over connections that survive a reload."""
        address = address_of(url)
        context = self.contexts.of(tls) if address.scheme == "https" else None
        key = (address.scheme, address.host, address.port, tls)
        known = self.services.get(key)
        if known is None or known.tls is not context:
            if known is not None:
                known.close()
            known = self.services[key] = Connections(address, self.deadlines, context, tls.server_name)
        self.asked.add(key)
        return partial(ask, known)

    def introspect(self, settings: Introspection | None) -> None:
        """Ask there about tokens from now on. What is remembered survives as long as the settings stay; a secret that
        cannot be read leaves the last one in use."""
        if settings is None:
            self.introspector = None
            return
        ask, known = self.asker(settings.url, settings.tls), self.introspector
        secret = known.secret if known is not None else b""
        with suppress(ValueError):
            secret = read_secret(settings)
        if known is None or known.settings != settings:
            self.introspector = Introspector(settings, ask, secret)
        else:
            known.ask_service, known.secret = ask, secret

    def judge(self, error: GatewayError, exchange: Exchange, scope: Scope) -> GatewayError:
        """What to answer instead of `error`: see `Failures`."""
        return error if self.failures is None else self.failures.judge(error, exchange, scope)

    def endpoint(self, url: str, slot: int, weight: float, tls: UpstreamTLS) -> Endpoint:
        """The endpoint at `url`, the same object for as long as it keeps its slot."""
        known = self.endpoints.get(url)
        if known is None or known.slot != slot:
            known = self.endpoints[url] = self.by_slot[slot] = Endpoint(url, slot, self.row, weight)
        known.weight = weight
        if known.address.scheme == "https":
            self._prove(known, Proof(tls, self.contexts.of(tls)))
        return known

    def _prove(self, endpoint: Endpoint, proof: Proof) -> None:
        """New connections shake hands as `proof` says; those made otherwise serve nobody after their present use."""
        if self.proofs.get(endpoint) != proof:
            self.proofs[endpoint] = proof
            outdated = self.connections.pop(endpoint, None)
            if outdated is not None:
                outdated.close()

    def connections_of(self, endpoint: Endpoint) -> Connections:
        known = self.connections.get(endpoint)
        if known is None:
            proof = self.proofs.get(endpoint)
            tls = (proof.context, proof.settings.server_name) if proof else ()
            known = self.connections[endpoint] = Connections(endpoint.address, self.deadlines, *tls)
        return known

    def budget(self, model: str, percent: float, per_second: float) -> Budget:
        """The model's retry budget. What a budget has each second is divided among the workers, so that all of them
        together keep to it; the share of the requests divides itself."""
        share, rate = percent / 100, per_second / self.workers
        known = self.budgets.get(model)
        if known is None:
            known = self.budgets[model] = Budget(share, rate, self.clock())
        known.limit(share, rate)
        return known

    def hedging(self, model: str, percent: float) -> Hedging:
        """What the model's route has learnt of first bytes, and its budget of second attempts."""
        known = self.hedgings.get(model)
        if known is None:
            known = self.hedgings[model] = Hedging(Budget(percent / 100, 0.0, self.clock()))
        known.budget.limit(percent / 100, 0.0)
        return known

    def gate(self, pool: Pool, bounds: Bounds, gradients: Gradients | None) -> Gate:
        """The pool's gate: the same one, with its line, for as long as the version has bounds."""
        target = (pool.model, pool.version)
        known = self.gates.get(target)
        if known is None:
            known = self.gates[target] = Gate(pool, bounds, self.leases, gradients)
        else:
            known.renew(pool, bounds, gradients)
        return known

    def gradients_of(self, model: str, version: str, settings: AdaptiveSettings) -> Gradients:
        """What was found out of the endpoints, unless other bounds are set to it."""
        known = self.gates.get((model, version))
        fresh = Gradients(settings.min, settings.max, settings.start)
        if known is not None and known.gradients is not None and known.gradients.bounds == fresh.bounds:
            return known.gradients
        return fresh

    def tally(self, totals: Totals) -> None:
        """Before counts are written: what endpoints have read of prompts, and how fast they are found to be. Of those
        that are gone nobody is shown anything; kept, they would take the places of all that come after 2,000."""
        for url in totals.prompts.keys() - self.endpoints.keys():
            del totals.prompts[url]
        for url, endpoint in self.endpoints.items():
            work = endpoint.work
            if work.prefixes is not None:
                meter = totals.prompt_meter(url)
                meter.tokens += work.asked
                meter.cached += work.found
                work.asked = work.found = 0
                meter.learned(work.a, work.speed.each.mean_y)

    def retain_models(self, models: Mapping[str, Collection[str]]) -> None:
        """Forget what belongs to models, or their versions, that are there no more. Requests that still wait at a gate
        hold it themselves."""
        for name in self.budgets.keys() - models.keys():
            del self.budgets[name]
        for name in self.hedgings.keys() - models.keys():
            del self.hedgings[name]
        for target in [target for target in self.gates if target[1] not in models.get(target[0], ())]:
            del self.gates[target]

    def retain(self, urls: set[str]) -> None:
        """Forget endpoints that are in no pool any more; requests that still use one keep it alive themselves."""
        for url in self.endpoints.keys() - urls:
            endpoint = self.endpoints.pop(url)
            if self.by_slot.get(endpoint.slot) is endpoint:
                del self.by_slot[endpoint.slot]
            self.proofs.pop(endpoint, None)
            forget(endpoint)
            connections = self.connections.pop(endpoint, None)
            if connections is not None:
                connections.close()
        for key in self.services.keys() - self.asked:
            self.services.pop(key).close()
        self.asked = set()
        self.contexts.retain({proof.settings for proof in self.proofs.values()} | {key[3] for key in self.services})

    def trim(self, now: float) -> None:
        """Close upstream connections that nobody used for a while."""
        for connections in (*self.connections.values(), *self.services.values()):
            connections.trim(now)

    def close(self) -> None:
        """At the worker's exit."""
        for connections in (*self.connections.values(), *self.services.values()):
            connections.close()
        self.recorder.close()
        if self.journal is not None:
            self.journal.close()
