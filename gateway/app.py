"""The composition root: THE list of layers, in travel order, each with the reason for its place.

    observe       first, so that nothing goes unmeasured; last to see an answer, so that it sees the true one
    hsts          above rescue, so that errors have it too; absent unless configured
    rescue        turns what is raised below into an answer that observe counts
    certificate   which door a client came in by, before anything is done for it; absent unless doors differ
    enter         takes the snapshot, once
    [plugins]     the global ones, before anything is known of the request
    match         names the route; everything behind is that route's own chain
    hide          what the next two refuse, nobody has heard of
    authenticate  who, before any work is done for them: by a `certificate`, else by what the gateway itself knows, else
                  as another service decides (`external`)
    authorize     may they, before they are charged; of a hidden model, twice: before its body is read, and after.
                  Around all behind it, a key's own limits
    credentials   the caller's, kept since before authenticate, where the model server is to have it
    in_flight     a lease, which goes back if a bucket refuses
    throttle      charged before plugins may spend anything
    [plugins]     the route's; behind any plugins, `checked`: the fields that they leave must be fields;
                  around them, `patience`: one that hangs is ended
    admit         how large a body may be, before anybody reads it
    stick         a session decides the version, so it comes before split
    split         the version, and with it the pool
    fallback      other models' rest of the way, from here on
    transform     names as that pool knows them
    rewrite       the route's rules see the request as it will be sent
    certificate   what the model server is told of the caller's, so that no rule above can write it
    credentials   the model server's own key, which nothing above needs to see
    hashkey       what is hashed, where that stands in the body: as it will be sent, and so for the next one
    prompt        where a policy reads it
    forward       pick, lease, attempt, retry

Each is named for its module in `edge/` (the last one's is in `upstream/`); a module may have layers in two places.
A route's chain has just the layers that it uses, and is compiled when the snapshot is. A layer that is done when it
calls the next is a plain function, which returns what the next one does: a coroutine of its own would be made, resumed
at every wait behind it, and thrown away. Nine of them cost a seventh of all that a request does.
"""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from gateway import plugin
from gateway.config.rules import named_in
from gateway.config.settings import (
    HeaderSettings,
    HstsSettings,
    ModelSettings,
    PathSettings,
    PluginSettings,
    RetrySettings,
    Settings,
)
from gateway.config.traffic import rules_of
from gateway.config.values import Network
from gateway.core.access import Access, Rule
from gateway.core.certificate import CallerRule, Callers
from gateway.core.dispatch import Directory
from gateway.core.gradient import Gradients
from gateway.core.inference import Informed
from gateway.core.outcome import Watcher
from gateway.core.pick import PROMPTED
from gateway.core.pick import make as make_policy
from gateway.core.policy import Policy
from gateway.core.pool import Pool
from gateway.core.retry import STATUSES, RetryRules
from gateway.core.snapshot import Route, Snapshot
from gateway.core.split import Split
from gateway.edge.admit import BoundBody
from gateway.edge.authenticate import Authenticate, Public
from gateway.edge.authorize import Authorize
from gateway.edge.certificate import ByCertificate, OneHost, PassCertificate
from gateway.edge.checked import Checked
from gateway.edge.credentials import KeepCredential, PassCredential, ReplaceCredential, read_credential
from gateway.edge.enter import Enter, own_routes
from gateway.edge.external import External
from gateway.edge.fallback import Fallback
from gateway.edge.hashkey import ReadKey, key_of_model, reads_body
from gateway.edge.hide import Admitted, Hide
from gateway.edge.hsts import Hsts
from gateway.edge.in_flight import InFlight
from gateway.edge.listing import Listing, routes_of
from gateway.edge.match import Match, NamedInBody
from gateway.edge.observe import Observe
from gateway.edge.patience import Patience
from gateway.edge.priority import rank_of
from gateway.edge.prompt import Infer
from gateway.edge.rescue import Rescue
from gateway.edge.rewrite import Rewrite
from gateway.edge.split import ChooseVersion
from gateway.edge.stick import Stick
from gateway.edge.throttle import Throttle
from gateway.edge.transform import Transform
from gateway.runtime import Runtime
from gateway.stores.keyentry import own_limit
from gateway.stores.keys import OwnLimit
from gateway.upstream.call import Means
from gateway.upstream.forward import Forward, log_ejection
from gateway.upstream.gate import Bounds, Gates
from gateway.upstream.retrier import Retrier
from gateway.upstream.waiting import WaitingRoom

_FEW = 50  # endpoints, which take a millisecond to make


class Gateway(Starlette):
    """Starlette with our layers as its middleware and none of its own: `Rescue` does what those do with exceptions,
    and their way costs every message that is sent a coroutine."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app


def make_app(runtime: Runtime, trusted: Sequence[Network] = (), hsts: HstsSettings | None = None) -> Starlette:
    """The app of a worker. `runtime.snapshot` is read for every request and may be replaced at any time."""
    listing = Listing(lambda: runtime.snapshot, lambda: runtime.means)
    if runtime.clients:
        listing.by_certificate = lambda app, otherwise: _by_certificate(app, otherwise, runtime)
    return Gateway(
        routes=routes_of(listing),
        middleware=[
            Middleware(
                Observe,
                recorder=runtime.recorder,
                journal=runtime.journal,
                trusted=trusted,
                clock=runtime.clock,
            ),
            *([Middleware(Hsts, settings=hsts)] if hsts else []),
            Middleware(Rescue, judge=runtime.judge),
            *([Middleware(OneHost, asked_at=runtime.clients.asked_at)] if runtime.clients.differ else []),
            Middleware(
                Enter, current=partial(getattr, runtime, "snapshot"), overload=runtime.overload, dice=runtime.rng.random
            ),
        ],
    )


def compile_snapshot(settings: Settings, generation: int, slots: Mapping[str, int], runtime: Runtime) -> Snapshot:
    """Everything that `settings` say, as one immutable whole. Raises PluginError."""
    work = compiling(settings, generation, slots, runtime, {})
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast(Snapshot, end.value)


def compiling(
    settings: Settings, generation: int, slots: Mapping[str, int], runtime: Runtime, kept: Mapping[str, Route]
) -> Generator[None, None, Snapshot]:
    """`compile_snapshot`, in small steps. `kept` are routes of an earlier snapshot that serve this one as well."""
    directory = directory_of(settings)
    others = directory_of(settings, is_hidden=False) if any(m.hide for m in settings.models.values()) else directory
    routes: dict[str, Route] = {}
    for name, model in settings.models.items():
        if name in kept:
            routes[name] = kept[name]
            continue
        yield from _making(model, slots, runtime)
        pools = {version: _pool(name, version, model, slots, runtime) for version in model.versions}
        tail = _tail(name, model, pools, runtime)
        routes[name] = Route(
            name=name,
            pools=pools,
            split=split_of(model),
            chain=_chain(name, model, _with_fallback(tail, settings, name, runtime), pools, runtime, others=others),
            tail=tail,
            aliases=tuple(model.aliases),
            methods=frozenset(model.methods),
            body_bytes=model.body_bytes,
            json_bytes=min(model.json_bytes, model.body_bytes or model.json_bytes),
            auth=model.kinds_of_auth,
            access=access_of(name, model),
            is_hidden=model.hide,
            passes_credentials=model.pass_credentials,
        )
        yield
    longest = max(
        (model.timeouts.total for model in settings.models.values()), default=settings.defaults.timeouts.total
    )
    entry = _with_plugins(
        Match(own_routes, directory=directory, routes=routes), settings.plugins, longest, is_global=True
    )
    return Snapshot(generation, entry, directory, routes)


def directory_of(settings: Settings, *, is_hidden: bool = True) -> Directory:
    """Every way to reach a model; without those that hide themselves unless `is_hidden`."""
    directory = Directory()
    for name, model in settings.models.items():
        if model.hide and not is_hidden:
            continue
        for known in (name, *model.aliases):
            directory.add_name(known, name)
        for rule in model.match:
            directory.add_match(rule.host, rule.prefix, name)
    return directory


def access_of(name: str, model: ModelSettings) -> Access:
    rules = [
        Rule(each.scope, each.claim, each.contains, frozenset(each.methods), tuple(each.versions), each.user)
        for each in model.allow
    ]
    return Access(name, list(model.versions), rules)


def callers_of(settings: Settings) -> Callers:
    """Whom client certificates prove."""
    return Callers(
        CallerRule(each.ca, each.subject, each.san, each.name, None if each.models is None else tuple(each.models))
        for each in settings.auth.mtls
    )


def granted_headers(settings: Settings) -> frozenset[bytes]:
    """Fields by which other services tell model servers who is calling; no client may set them, for any model."""
    services = (model.external for model in settings.models.values())
    names = {name for service in services if service is not None for name in service.accept}
    names.update(settings.auth.identity_headers.values())
    if settings.auth.introspection is not None:
        names.update(settings.auth.introspection.claims_to_headers.values())
    return frozenset(name.encode() for name in names)


def split_of(model: ModelSettings) -> Split:
    return Split({version: arm.weight for version, arm in model.versions.items()}, model.default_version)


def _making(model: ModelSettings, slots: Mapping[str, int], runtime: Runtime) -> Generator[None, None, None]:
    """Endpoints that are new, a few at a time; `_pool` finds them there."""
    for arm in model.versions.values():
        tls = arm.upstream_tls or model.upstream_tls
        for number, each in enumerate(arm.endpoints, 1):
            runtime.endpoint(each.url, slots[each.url], each.weight, tls)
            if number % _FEW == 0:
                yield


def _pool(name: str, version: str, model: ModelSettings, slots: Mapping[str, int], runtime: Runtime) -> Pool:
    arm = model.versions[version]
    tls = arm.upstream_tls or model.upstream_tls
    endpoints = [runtime.endpoint(e.url, slots[e.url], e.weight, tls) for e in arm.endpoints]
    for endpoint, each in zip(endpoints, arm.endpoints, strict=True):
        endpoint.tier = each.tier
    balance = arm.balance or model.balance
    policy: Policy
    watchers: tuple[Watcher, ...] = ()
    if balance.policy in PROMPTED:
        policy = informed = Informed(PROMPTED[balance.policy](endpoints), runtime.ledger)
        watchers = (informed,)
    else:
        policy = make_policy(balance, endpoints)
    if model.max_in_flight is not None and model.max_in_flight.adaptive is not None:
        watchers = (*watchers, runtime.gradients_of(name, version, model.max_in_flight.adaptive))
    rules = rules_of(balance, model.ejection, model.breaker)
    served = arm.served_as
    names = served.model or name, served.version
    return Pool(name, version, endpoints, policy, names, watchers=watchers, rules=rules, on_eject=log_ejection)


def _with_fallback(tail: ASGIApp, settings: Settings, name: str, runtime: Runtime) -> ASGIApp:
    model = settings.models[name]
    if not model.fallback:
        return tail
    targets = [named_in(settings, text) for text in model.fallback]
    # The newest routes, not those that this one is compiled with: it may outlive them.
    return Fallback(
        tail, targets=targets, routes=lambda: runtime.snapshot.routes, bound=model.json_bytes, rng=runtime.rng
    )


def _tail(name: str, model: ModelSettings, pools: Mapping[str, Pool], runtime: Runtime) -> ASGIApp:
    """The layers of one route behind the choice of the version, innermost first."""
    forward = Forward(
        means=Means(
            runtime.connections,
            runtime.connections_of,
            model.timeouts,
            asyncio.get_running_loop(),
            is_host_kept=model.preserve_host,
        ),
        key_of=key_of_model(model),
        retrier=retrier_of(name, model.retry, runtime),
        gates=gates_of(model, pools, runtime),
        rng=runtime.rng,
    )
    if model.queue.when_down:
        forward.waiting_room = WaitingRoom(model.queue.length, model.queue.timeout)
    if model.hedge is not None:
        forward.hedge(runtime.hedging(name, model.hedge.percent), model.hedge.percentile / 100)
    app: ASGIApp = forward
    if any((arm.balance or model.balance).policy in PROMPTED for arm in model.versions.values()):
        app = Infer(app, bound=model.json_bytes)
    if any(reads_body(arm.balance or model.balance) for arm in model.versions.values()):
        app = ReadKey(app, bound=model.json_bytes)
    if model.upstream_auth is not None:
        app = ReplaceCredential(app, header=read_credential(model.upstream_auth))
    if model.pass_certificate:
        app = PassCertificate(app, fields=model.pass_certificate, is_revoked=runtime.clients.is_revoked)
    if model.path != PathSettings() or model.headers != HeaderSettings():
        app = Rewrite(app, path=model.path, headers=model.headers)
    return Transform(app)


def _chain(
    name: str, model: ModelSettings, tail: ASGIApp, pools: Mapping[str, Pool], runtime: Runtime, *, others: Directory
) -> ASGIApp:
    """All layers of one route, those before its `tail` innermost first."""
    app: ASGIApp = ChooseVersion(tail, rng=runtime.rng)
    if model.sticky is not None:
        split = split_of(model)
        arms = split.versions or [version for version in model.versions if version == split.default]
        app = Stick(app, settings=model.sticky, sessions=runtime.sessions, model=name, pools=pools, arms=arms)
    if model.body_bytes:
        app = BoundBody(app, bound=model.body_bytes)
    app = _with_plugins(app, model.plugins, model.timeouts.total)
    rated = [limit for limit in model.limits if limit.rate is not None]
    if rated:
        app = Throttle(app, limits=rated, model=name, store=runtime.buckets)
    crowding = [limit for limit in model.limits if limit.in_flight is not None]
    if crowding:
        app = InFlight(app, limits=crowding, model=name, leases=runtime.leases)
    if not model.auth:
        return Public(app, means=runtime.means)
    if model.pass_credentials:
        app = PassCredential(app)
    limited = partial(_limited, runtime=runtime) if "key" in model.auth else None
    access = access_of(name, model)
    app = Authorize(app, access=access, is_hidden=model.hide, limited=limited)
    if model.hide:
        app = Admitted(NamedInBody(app), methods=model.methods)
        app = Authorize(app, access=access, is_hidden=True)
    app = _authenticated(app, model, runtime)
    if model.pass_credentials:
        app = KeepCredential(app)
    return Hide(app, others=others) if model.hide else app


def retrier_of(name: str, retry: RetrySettings, runtime: Runtime) -> Retrier:
    budget = runtime.budget(name, retry.budget.percent, retry.budget.min_per_second)
    return Retrier(retry_rules(retry), budget, retry.buffer, runtime.rng)


def gates_of(model: ModelSettings, pools: Mapping[str, Pool], runtime: Runtime) -> Gates | None:
    """None where nothing bounds how many requests are in flight."""
    most, queue = model.max_in_flight, model.queue
    if most is None:
        return None
    bounds = Bounds(
        most.endpoint or 0, most.version or 0, most.principal or 0, queue.length, queue.timeout, most.pending_tokens
    )
    found = [(pool, next((w for w in pool.watchers if isinstance(w, Gradients)), None)) for pool in pools.values()]
    gates = {pool.version: runtime.gate(pool, bounds, gradients) for pool, gradients in found}
    return Gates(gates, rank_of(queue.priority))


def retry_rules(retry: RetrySettings) -> RetryRules:
    causes = frozenset(retry.when)
    return RetryRules(
        attempts=retry.attempts,
        causes=causes,
        statuses=frozenset(status for status in STATUSES if str(status) in causes),
        methods=frozenset(retry.methods),
        may_repeat=retry.same_endpoint,
        base=retry.backoff.base,
        longest=retry.backoff.max,
    )


def _limited(app: ASGIApp, limits: Sequence[OwnLimit], *, runtime: Runtime) -> ASGIApp:
    """A key's own limits, which count over all models. They come before the model's."""
    settings = [own_limit(limit) for limit in limits]
    rated = [limit for limit in settings if limit.rate is not None]
    if rated:
        app = Throttle(app, limits=rated, model="", store=runtime.buckets)
    crowding = [limit for limit in settings if limit.in_flight is not None]
    return InFlight(app, limits=crowding, model="", leases=runtime.leases) if crowding else app


def _authenticated(app: ASGIApp, model: ModelSettings, runtime: Runtime) -> ASGIApp:
    """A certificate is looked at first; then what the gateway itself knows; then another service decides."""
    credentials = [method for method in model.methods_of_auth if method != "mtls"]
    known = partial(Authenticate, methods=credentials, means=runtime.means) if credentials else None
    otherwise: ASGIApp | None = known(app) if known is not None else None
    if model.external is not None:
        ask = runtime.asker(model.external.external, model.external.tls)
        otherwise = External(app, settings=model.external, means=runtime.means, ask=ask, known=known)
    if "mtls" in model.auth:
        return _by_certificate(app, otherwise, runtime)
    assert otherwise is not None, "whoever calls this has methods"
    return otherwise


def _by_certificate(app: ASGIApp, otherwise: ASGIApp | None, runtime: Runtime) -> ASGIApp:
    app = Public(app, means=runtime.means)  # what a certificate proves, no header may say
    return ByCertificate(app, callers=runtime.callers, is_revoked=runtime.clients.is_revoked, otherwise=otherwise)


def _with_plugins(app: ASGIApp, plugins: Sequence[PluginSettings], total: float, *, is_global: bool = False) -> ASGIApp:
    """`plugins` around `app`: the first named is the first to see a request. `total`: seconds they and all behind them
    may take."""
    if not plugins:
        return app
    app = Checked(app)
    for settings in reversed(plugins):
        app = plugin.load(settings, is_global=is_global)(app)
    return Patience(app, seconds=total)
