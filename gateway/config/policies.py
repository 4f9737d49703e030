"""The shape of a model in routes.yaml: its policies, its versions, their endpoints."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from limits import parse as parse_rate
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, model_validator

from gateway.config.names import (
    CookieName,
    FieldMap,
    FieldName,
    Host,
    IdentityField,
    MatchPrefix,
    Method,
    ModelName,
    OwnField,
    Pattern,
    Per,
    Prefix,
    Target,
    VersionName,
    check_replacement,
)
from gateway.config.shape import Strict, needed, setting
from gateway.config.traffic import BreakerSettings, EjectionSettings
from gateway.config.values import (
    Cause,
    Duration,
    EndpointURL,
    FilePath,
    Positive,
    PositiveSize,
    Rate,
    Size,
    Status,
    Text,
    WebURL,
    address_of,
    also_text,
    resolve,
)
from gateway.core.endpoint import Address
from gateway.core.limiter import Limit


class PluginSettings(BaseModel):
    """A class by dotted path or an entry point of the group `gateway.plugins`; the other keys are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: Text = needed("A dotted path, `plugins.example.Example`, or the name of an entry point.")

    @model_validator(mode="before")
    @classmethod
    def _resolve_options(cls, data: Any) -> Any:
        return resolve(data)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class LimitSettings(Strict):
    """What one caller may have: a token bucket (`rate`), or so many requests at one time (`in_flight`). A request that
    any limit of its model refuses is charged to none of them."""

    rate: Rate | None = setting(None, "`100/minute`, `5 per 10 second`: the notation of the `limits` package.")
    in_flight: int | None = setting(
        None, "Instead of a rate: requests at one time, to the last byte of their answers.", ge=1
    )
    burst: int | None = setting(None, "What a bucket holds at most; the rate's amount if absent.", ge=1)
    unit: Literal["requests", "tokens"] = setting(
        "requests", "`tokens`: those a model reads and writes; estimated at first, settled by the answer's `usage`."
    )
    per: Per = setting(
        "key", "Who shares a bucket: callers with one key, principal, address or header; or all (model)."
    )
    dry_run: bool = setting(False, "Log and count what would be refused, and admit it.")
    on_store_error: Literal["local", "open", "closed"] = setting(
        "local", "While a remote store is away: count on this machine, admit everything, or answer 503."
    )

    @model_validator(mode="after")
    def _is_one_kind_of_limit(self) -> Self:
        if (self.rate is None) == (self.in_flight is None):
            raise ValueError("a limit has either a `rate` or `in_flight`")
        if self.rate is None and (self.burst or self.unit != "requests"):
            raise ValueError("`burst` and `unit` belong to a `rate`")
        if self.rate is not None:
            rate = parse_rate(self.rate)
            Limit(rate.amount, rate.get_expiry(), self.burst or rate.amount)
        return self


class HeaderRules(Strict):
    """Removed first, then set, then added. Names in any case."""

    set: FieldMap = setting({}, "Fields that have this value alone, whatever was there.")
    add: FieldMap = setting({}, "Fields that get one more value.")
    remove: list[OwnField] = setting([], "Fields that are left out.")


class HeaderSettings(Strict):
    """Rules for header fields, in each direction."""

    request: HeaderRules = setting({}, "Of requests, on their way upstream.")
    response: HeaderRules = setting({}, "Of answers, on their way to the client.")


class PathRegex(Strict):
    """A search and replace, everywhere it matches."""

    pattern: Pattern = needed("What is looked for, in Python's notation.")
    replace: str = needed(r"What it becomes, with groups: \1 or \g<name>.")

    @model_validator(mode="after")
    def _groups_exist(self) -> Self:
        check_replacement(self.pattern, self.replace)
        return self


class PathSettings(Strict):
    """Applied in this order to the path that is sent upstream."""

    strip_prefix: Prefix = setting("", "Whole segments that are taken off the front.")
    regex: PathRegex | None = setting(None, "A search and replace.")
    add_prefix: Prefix = setting("", "Whole segments that are put in front.")


class StickySettings(Strict):
    """A client's requests go to one endpoint, as long as that one is there."""

    cookie: CookieName = setting("gw_session", "The cookie that holds the choice, signed.")
    ttl: Positive = setting("1h", "How long a choice lasts.")


class HashPart(Strict):
    """Exactly one of these. A request that lacks it is hashed by its client's address."""

    header: FieldName | None = setting(None, "A request header's value.")
    cookie: CookieName | None = setting(None, "A cookie's value.")
    query: Text | None = setting(None, "A query parameter's value.")
    claim: Text | None = setting(None, "A claim of the caller's token; `org.id` is `id` inside `org`.")
    body: Text | None = setting(None, "A member of a JSON body of at most `json_bytes`; `a.b` is `b` inside `a`.")
    principal: bool = setting(False, "Who is calling.")
    ip: bool = setting(False, "The client's address.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        parts = (self.header, self.cookie, self.query, self.claim, self.body, self.principal, self.ip)
        if sum(map(bool, parts)) != 1:
            raise ValueError("needs exactly one of header, cookie, query, claim, body, principal, ip")
        return self


class HashKey(HashPart):
    """Exactly one of these, beside `fallback`."""

    fallback: HashPart = setting({"ip": True}, "What is hashed of a request that lacks it.")


class EngineMetrics(Strict):
    """Where the engine of each endpoint tells its load (Prometheus text). A plain path is short for `{path: PATH}`."""

    model_config = ConfigDict(json_schema_extra=also_text)

    path: Target = setting("/metrics", "What is asked for, with GET, each second.")
    port: int | None = setting(None, "Another port than the endpoint's own, as Triton has it (8002).", ge=1, le=65535)

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else data


class BalanceSettings(Strict):
    """How an endpoint of the version is chosen."""

    policy: Literal[
        "round_robin",
        "random",
        "least_connections",
        "weighted_least_connections",
        "two_choices",
        "ip_hash",
        "consistent_hash",
        "least_response_time",
        "peak_ewma",
        "prequal",
        "weighted",
        "first",
        "priority",
        "llm",
        "lpwl",
        "lmetric",
        "cache_aware",
        "prefix_hash",
        "sticky_until_saturated",
    ] = setting("least_connections", "The algorithm.")
    hash: HashKey = setting({"ip": True}, "What `consistent_hash` hashes.")
    method: Literal["rendezvous", "ring", "maglev"] = setting("rendezvous", "How `consistent_hash` hashes.")
    bounded_load: float | None = setting(
        None, "Most load of an endpoint under `consistent_hash`, in averages (1.25 is a good one); null: any.", ge=1
    )
    engine_metrics: EngineMetrics | None = setting(
        None, "Ask each endpoint's engine for its load, for the policies that read prompts; null: do not."
    )
    weights: Literal["configured", "learned"] = setting(
        "configured", "Of `weighted`: as the endpoints say, or that times the speed at which each is seen to answer."
    )
    within: Literal[
        "least_connections",
        "weighted_least_connections",
        "round_robin",
        "random",
        "two_choices",
        "least_response_time",
        "peak_ewma",
        "prequal",
    ] = setting("least_connections", "The algorithm within a tier, for `priority`.")
    full: int = setting(
        32, "Requests in flight, times its weight, at which an endpoint is full, for `first` and `priority`.", ge=1
    )
    slow_start: Duration = setting(
        "30s", "How long an endpoint that comes up has less than its share of the load, from a tenth of it; 0s: none."
    )
    panic: float = setting(
        0.1,
        "Share of a pool's endpoints; if fewer are open, but any, all that do not drain are asked.",
        ge=0,
        lt=1,
    )


class HealthSettings(Strict):
    """Checks of each endpoint, one at a time, by one process of the machine. Without any, an endpoint counts as up.
    Nothing but GET is ever sent: no check costs a completion."""

    type: Literal["http", "tcp", "grpc"] = setting(
        "http", "`tcp`: that it accepts a connection, TLS included; `grpc`: grpc.health.v1."
    )
    path: Target = setting("/", "What is asked for, with GET.")
    port: int | None = setting(None, "Another port than the endpoint's own.", ge=1, le=65535)
    headers: FieldMap = setting({}, "Fields that are sent with it.")
    contains: str = setting("", "What the first 64 KiB of the answer's body must hold.")
    service: str = setting("", "The service that `grpc` asks about; the whole server if empty.", max_length=100)
    interval: Positive = setting("5s", "From one check to the next.")
    timeout: Positive = setting("2s", "How long an answer may take.")
    rise: int = setting(2, "Good checks in a row that bring an endpoint up.", ge=1)
    fall: int = setting(3, "Bad checks in a row that take it down.", ge=1)
    expect: list[Status] = setting([], "Statuses that count as good; any 2xx or 3xx if empty.")


class Timeouts(Strict):
    """How long the model server may take; beyond it 504, or a broken-off answer if it had begun. A client may give its
    request less than `total`: `x-request-timeout: 5`, `500ms`, `2m`, or gRPC's `grpc-timeout`."""

    connect: Positive = setting("5s", "To accept a connection, TLS included.")
    first_byte: Positive = setting("2m", "From the request's end to the first byte of the answer.")
    idle: Positive = setting("60s", "Longest silence inside the answer.")
    total: Positive = setting("30m", "From the request's beginning to the answer's end.")


class RetryBudget(Strict):
    """How many requests may be tried again, so that retries never turn a fault into an overload."""

    percent: float = setting(20, "Of the requests of the last ten seconds.", ge=0, le=100)
    min_per_second: float = setting(10, "And so many each second, over all workers: each has its part of them.", ge=0)


class Backoff(Strict):
    """The pause before another attempt: drawn between nothing and a longest one that doubles each time."""

    base: Duration = setting("25ms", "The longest pause before the second attempt.")
    max: Duration = setting("1s", "The longest of all; a Retry-After beyond it is not waited for.")


class RetrySettings(Strict):
    """Another attempt, while no byte of an answer went to the client. What was sent already is sent again only if its
    method is idempotent (RFC 9110, 9.2.2), it has an `Idempotency-Key`, or `methods` names its method."""

    attempts: int = setting(3, "Attempts in all, each on another endpoint; 1: no retries.", ge=1, le=10)
    when: list[Cause] = setting(
        ["unsent", "broken"],
        "What is tried again. `unsent`: no connection; `broken`: no answer, or none that is HTTP; `timeout`: no first "
        "byte in time; or an answer with this status.",
    )
    methods: list[Method] = setting([], "Methods that may be sent twice beside the idempotent ones, such as POST.")
    same_endpoint: bool = setting(False, "Ask the same endpoint again where there is no other.")
    buffer: Size = setting("64KiB", "How much of a body that streams in is held, so that it can be sent again.")
    budget: RetryBudget = setting({}, "How many requests may be tried again.")
    backoff: Backoff = setting({}, "The pause before another attempt.")


class HedgeSettings(Strict):
    """A second attempt at another endpoint, beside one whose first byte is late, for what may be sent twice (as by
    `retry`). The answer that begins first is taken, and the other attempt is cancelled."""

    percentile: float = setting(95, "So many of a hundred first bytes come before a second attempt.", ge=50, lt=100)
    percent: float = setting(5, "Second attempts for each hundred requests of the last ten seconds.", gt=0, le=100)


class AdaptiveSettings(Strict):
    """A bound for each endpoint that is found out: it falls while answers begin later than usual, and rises again."""

    min: int = setting(1, "The least, of each worker.", ge=1)
    max: int = setting(200, "The most, of each worker.", ge=1)
    start: int = setting(20, "Where it begins.", ge=1)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min > self.max:
            raise ValueError("`min` is more than `max`")
        return self


class MaxInFlight(Strict):
    """How many requests are at the model server at one time, over all workers; the others wait in the `queue`."""

    endpoint: int | None = setting(None, "At each endpoint, whichever models it serves.", ge=1)
    version: int | None = setting(None, "At all endpoints of a version.", ge=1)
    principal: int | None = setting(None, "Of one caller.", ge=1)
    adaptive: AdaptiveSettings | None = setting(None, "At each endpoint, as many as it can do; null: any number.")
    pending_tokens: int | None = setting(
        None,
        "Tokens of prompts without a first token at each endpoint, beyond which no other prompt is sent there (late "
        "binding); a prefill chunk, 2048, is a good one. For policies that read prompts.",
        ge=0,
    )

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        bounds = (self.endpoint, self.version, self.principal, self.adaptive, self.pending_tokens)
        if all(bound is None for bound in bounds):
            raise ValueError("needs endpoint, version, principal, adaptive or pending_tokens")
        return self


class PrioritySettings(Strict):
    """Who is served first. Equals take turns by caller."""

    levels: list[Text] = setting(["high", "normal", "low"], "The levels, the most important first.", min_length=1)
    default: Text = setting("normal", "The level of who has none.")
    claim: Text | None = setting(None, "A claim of the caller's token, or metadata of its key, that names its level.")
    header: FieldName | None = setting(
        None, "A field that names a level; only `trusted_proxies` may raise a request above its caller's by it."
    )

    @model_validator(mode="after")
    def _default_is_a_level(self) -> Self:
        if self.default not in self.levels:
            raise ValueError(f"`default: {self.default}` is none of {', '.join(self.levels)}")
        return self


class QueueSettings(Strict):
    """Where requests wait that `max_in_flight` leaves no room for. 503 for who finds it full, unless somebody less
    important waits there, and for who waits in vain; 429 if it is the caller's own bound that it waits for."""

    length: int = setting(100, "How many wait for a version, over all workers; 0: none, it is refused at once.", ge=0)
    timeout: Positive = setting("10s", "How long one may wait; what has less time than it would wait is refused.")
    priority: PrioritySettings = setting({}, "Who is served first.")
    when_down: bool = setting(
        False, "While no endpoint is open, wait up to `timeout` for one (`length` in each worker), and not 503 at once."
    )


class UpstreamTLS(Strict):
    """How `https://` endpoints are proved, and the gateway to them. Files are picked up live when they change."""

    ca: FilePath | None = setting(None, "A PEM file, or a folder of hashed ones, trusted instead of the system's CAs.")
    server_name: Host | None = setting(None, "Asked for by SNI and verified, instead of the host in the URL.")
    insecure: bool = setting(False, "Verify nothing: whoever answers is believed.")
    client_cert: FilePath | None = setting(None, "A PEM chain that proves the gateway to its endpoints.")
    client_key: FilePath | None = setting(None, "Its key, not encrypted; in `client_cert` itself if absent.")

    @model_validator(mode="after")
    def _is_no_contradiction(self) -> Self:
        if self.client_key and not self.client_cert:
            raise ValueError("`client_key` needs `client_cert`")
        if self.insecure and self.ca:
            raise ValueError("`insecure` verifies nothing, so `ca` has no use")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.ca, self.client_cert, self.client_key) if path is not None)


class UpstreamAuth(Strict):
    """The model server's own key, sent instead of what the client sent in this header."""

    header: OwnField = setting("authorization", "The header that holds it.")
    scheme: Literal["Bearer", "Basic", ""] = setting("Bearer", 'What comes before the value; "" for nothing.')
    value_file: FilePath | None = setting(None, "A file of the value; picked up live when it changes.")
    value_env: Text | None = setting(None, "An environment variable of the value, read when the gateway starts.")

    @model_validator(mode="after")
    def _has_one_value(self) -> Self:
        if (self.value_file is None) == (self.value_env is None):
            raise ValueError("needs either `value_file` or `value_env`")
        return self


class ServedAs(Strict):
    """What the upstream calls this model and version, where that differs."""

    model: Text | None = setting(None, "Replaces the model in a body or path; the model's own name if absent.")
    version: Text | None = setting(None, "Replaces the version in a path; as the client says if absent.")


class EndpointSettings(Strict):
    """One address of a model server. A plain URL is short for `{url: URL}`."""

    model_config = ConfigDict(json_schema_extra=also_text)

    url: EndpointURL = needed("`http(s)://host[:port][/prefix]`.")
    weight: float = setting(1, "Share of the work among its version's endpoints.", gt=0)
    tier: int = setting(0, "For the policy `priority`: the lowest number first.", ge=0)
    drain: bool = setting(False, "Takes no new sessions; those it has are kept.")

    @model_validator(mode="before")
    @classmethod
    def _accept_url(cls, data: Any) -> Any:
        return {"url": data} if isinstance(data, str) else data

    @property
    def address(self) -> Address:
        return address_of(self.url)


class VersionSettings(Strict):
    """One version of a model and the endpoints that serve it."""

    endpoints: list[EndpointSettings] = needed("Where it is served; at least one.")
    weight: float | None = setting(
        None,
        "Share of the requests that name no version. Without one, beside versions that have one: none of them.",
        ge=0,
    )
    served_as: ServedAs = setting({}, "What the upstream calls this model and version.")
    health: HealthSettings | None = setting(None, "Instead of the model's.")
    balance: BalanceSettings | None = setting(None, "Instead of the model's.")
    upstream_tls: UpstreamTLS | None = setting(None, "Instead of the model's.")


class MatchSettings(Strict):
    """A host, a path prefix, or both."""

    host: Host | None = setting(None, "The Host a request names, without a port.")
    prefix: MatchPrefix | None = setting(None, "The first segments of its path.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.host is None and self.prefix is None:
            raise ValueError("needs host, prefix, or both")
        return self


class AllowSettings(Strict):
    """What a token must claim: a scope, or a claim that holds a text. Or who it must be."""

    user: Text | None = setting(None, "A user of `auth.htpasswd`.")
    scope: Text | None = setting(None, "One of the token's scopes (`scope` or `scp`).")
    claim: Text | None = setting(None, "A claim; `realm_access.roles` is `roles` inside `realm_access`.")
    contains: Text | None = setting(None, "What the claim must be, or have among its items.")
    methods: list[Method] = setting([], "What this allows; all methods if empty.")
    versions: list[Text] = setting([], "Globs of the versions that this allows; all if empty.")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        given = sum(each is not None for each in (self.scope, self.claim, self.user))
        if given != 1 or (self.claim is None) != (self.contains is None):
            raise ValueError("needs one of `scope`, `claim` with `contains`, `user`")
        return self


class ExternalAuth(Strict):
    """Another service that decides about each request, as for nginx's `auth_request` and Envoy's `ext_authz`. It is
    asked with GET; 2xx admits, a redirect or 4xx refuses and is passed on to the client. While it fails nobody comes
    in: 503."""

    external: WebURL = needed("What is asked.")
    send: list[FieldName] = setting(
        ["authorization", "x-api-key", "api-key", "cookie"],
        "The request's headers that it is sent, beside `x-forwarded-*` and `x-gateway-model`. Keys of ours never are.",
    )
    accept: list[IdentityField] = setting(
        [], "Headers of an answer that admits which go to the model server. No client may set them, for any model."
    )
    answer: list[OwnField] = setting([], "Headers of an answer that admits which go to the client, such as set-cookie.")
    principal: FieldName | None = setting(
        None, "The header of an answer that names the caller, for limits and logs; without it all are one."
    )
    timeout: Positive = setting("1s", "How long it may take; then 503.")
    cache: Duration = setting(
        "0s",
        "How long an answer counts for requests that it was asked the same about; its own Cache-Control shortens it.",
    )
    tls: UpstreamTLS = setting({}, "How an https service is proved, and the gateway to it.")


def _is_external(value: Any) -> str:
    return "[external]" if isinstance(value, (dict, ExternalAuth)) else "[method]"


AuthMethod = Annotated[
    Annotated[Literal["key", "jwt", "introspection", "basic", "mtls"], Tag("[method]")]
    | Annotated[ExternalAuth, Tag("[external]")],
    Discriminator(_is_external),
]


class ModelDefaults(Strict):
    """Policies of a model; all of them may also be in `defaults`."""

    auth: list[AuthMethod] = setting(["key"], "How callers may prove who they are, any of these; [] is public.")
    allow: list[AllowSettings] = setting(
        [],
        "Which tokens and users may call it: those that meet any of these; all if empty. What a key may call, the key "
        "says.",
    )
    hide: bool = setting(False, "Answer all who may not call it as if it did not exist: 404.")
    limits: list[LimitSettings] = setting([], "How much a caller may ask for; more is 429.")
    plugins: list[PluginSettings] = setting([], "After auth and limits, before forwarding.")
    headers: HeaderSettings = setting({}, "Rules for header fields.")
    path: PathSettings = setting({}, "Rules for the path that is sent upstream.")
    sticky: StickySettings | None = setting(None, "Keep a client on one endpoint; null: no.")
    balance: BalanceSettings = setting({}, "How an endpoint is chosen.")
    health: HealthSettings | None = setting(None, "Checks of each endpoint; null: none.")
    ejection: EjectionSettings | None = setting({}, "Leave endpoints out that fail; null: never.")
    breaker: BreakerSettings | None = setting({}, "Answer 503 at once while no endpoint answers; null: never.")
    timeouts: Timeouts = setting({}, "How long the model server may take.")
    upstream_tls: UpstreamTLS = setting({}, "How `https://` endpoints are proved, and the gateway to them.")
    upstream_auth: UpstreamAuth | None = setting(None, "The model server's own key; null: none is sent.")
    pass_credentials: bool = setting(False, "Send the caller's credential on to the model server, as it came.")
    pass_certificate: list[Literal["client-cert", "x-client-cert", "x-forwarded-client-cert"]] = setting(
        [], "Headers that tell the model server of the caller's TLS certificate; a client's own never pass."
    )
    retry: RetrySettings = setting({}, "Another attempt where the first one failed and may be repeated.")
    fallback: list[Text] = setting(
        [],
        "Models that answer when this one cannot, as `model` or `model@version`, the first that can. That is: no "
        "endpoint is up, every attempt failed (with a status of `retry.when`, too), or there was no room.",
    )
    hedge: HedgeSettings | None = setting(None, "A second attempt beside one whose first byte is late; null: none.")
    max_in_flight: MaxInFlight | None = setting(None, "How many requests at one time; null: any number.")
    queue: QueueSettings = setting({}, "Where requests wait that `max_in_flight` leaves no room for.")
    body_bytes: Size = setting(0, "Largest request body; more is 413. 0: no limit for what streams through.")
    json_bytes: PositiveSize = setting("32MiB", "Largest body that is read to find `model` in it; more is 413.")
    methods: list[Method] = setting([], "Allowed methods; all if empty. Others are 405.")
    preserve_host: bool = setting(False, "Send the client's Host upstream instead of the endpoint's own.")

    @property
    def methods_of_auth(self) -> tuple[str, ...]:
        """The ways that the gateway itself knows, in order."""
        return tuple(method for method in self.auth if isinstance(method, str))

    @property
    def external(self) -> ExternalAuth | None:
        """The service that decides about whom the gateway does not know."""
        return next((method for method in self.auth if isinstance(method, ExternalAuth)), None)

    @property
    def kinds_of_auth(self) -> frozenset[str]:
        """What kinds of principals it takes; empty: it is public."""
        return frozenset(self.methods_of_auth) | ({"external"} if self.external is not None else set())


class ModelSettings(ModelDefaults):
    """A model, by its name. A name may contain "/"; of several that fit a path, the longest wins."""

    aliases: list[ModelName] = setting([], "Other names for it.")
    match: list[MatchSettings] = setting([], "Hosts and path prefixes that reach it without its name.")
    default_version: VersionName | None = setting(
        None, "Serves requests that name no version, where no weights split them; the last version if absent."
    )
    versions: dict[VersionName, VersionSettings] = needed("What is served, by version; at least one.")
