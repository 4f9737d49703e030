"""The shape of a model in routes.yaml: its policies, its versions, their endpoints."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from limits import parse as parse_rate
from pydantic import BaseModel, ConfigDict, Discriminator, Tag, model_validator

from gateway.config.balance import BalanceSettings, StickySettings
from gateway.config.names import (
    CertificateField,
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
    VersionName,
    check_replacement,
)
from gateway.config.patience import HealthSettings, HedgeSettings, MaxInFlight, QueueSettings, RetrySettings, Timeouts
from gateway.config.shape import Strict, needed, setting
from gateway.config.traffic import BreakerSettings, EjectionSettings
from gateway.config.values import (
    Duration,
    EndpointURL,
    FilePath,
    Positive,
    PositiveSize,
    Rate,
    Size,
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


class KeyStoreSettings(PluginSettings):
    """A class that says which API keys there are, by dotted path or an entry point of the group `gateway.plugins`; the
    other keys are its options."""

    every: Positive = setting("10s", "How often it is asked.")


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
    max_in_flight: int = setting(
        128, "Questions about this model at one time, from each worker; who would be one more is 503.", ge=1
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
    pass_certificate: list[CertificateField] = setting(
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

    @property
    def urls(self) -> list[str]:
        """Every endpoint of every version, in the order of the file; one of two versions is there twice."""
        return [endpoint.url for version in self.versions.values() for endpoint in version.endpoints]
