"""The shape of routes.yaml. Every key's meaning, unit and default is here once: the reference in docs/ and the JSON
Schema are generated from it. `load.py` reads a file into it."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.config.values import Duration, Listen, Network, Size


class Strict(BaseModel):
    """An unknown key is an error; a value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AccessLog(Strict):
    path: str = Field("-", description='A file, "-" for standard output, "" for none.')
    format: Literal["json"] = "json"


class Limits(Strict):
    """What a client may send, and for how long."""

    header_bytes: Size = Field(64 * 1024, description="The whole header section; more is 431.")
    header_count: int = Field(100, ge=1, description="Fields in a header section; more is 431.")
    target_bytes: Size = Field(16 * 1024, description="The request target; more is 414.")
    headers_timeout: Duration = Field(10.0, description="From the first byte of a head to its end.")
    body_idle: Duration = Field(30.0, description="Longest silence inside a request's body.")
    write_idle: Duration = Field(60.0, description="Longest time a client may take none of an answer.")
    keep_alive: Duration = Field(75.0, description="Longest silence between two requests of a connection.")


class Shutdown(Strict):
    delay: Duration = Field(0.0, description="From /readyz failing to the listeners closing.")
    grace: Duration = Field(300.0, description="How long requests in flight, streams too, may take to end.")


class GatewaySettings(Strict):
    https: Listen = Field(("0.0.0.0", 8443), description="The public entry point.")
    http: Listen | None = Field(None, description="Redirects to https and answers ACME challenges; nothing else.")
    admin: Listen = Field(("127.0.0.1", 9901), description="Health, metrics, status.")
    workers: Literal["auto"] | int = Field("auto", description="Worker processes; auto: one per core.")
    trusted_proxies: list[Network] = Field([], description="CIDRs whose X-Forwarded-* and X-Request-Id are believed.")
    limits_store: str = Field("shared://", description="shared:// | memory:// | redis://host:6379/0")
    state_dir: Path = Field(Path(".gateway"), description="Where the gateway keeps what it must remember.")
    access_log: AccessLog = AccessLog()
    limits: Limits = Limits()
    shutdown: Shutdown = Shutdown()


class TLSSettings(Strict):
    certificates: Path = Field(Path("certs"), description="Every NAME.crt + NAME.key here is served by SNI.")
    default_certificate: str = Field(
        "", description="NAME for clients that ask for no or an unknown host; if empty `default`, else the first by name."
    )
    strict_sni: bool = Field(False, description="Refuse the handshake for a host that no certificate names.")
    profile: Literal["intermediate", "modern", "custom"] = Field(
        "intermediate", description="Mozilla's guideline 6.0; modern is TLS 1.3 alone; custom takes `ciphers`."
    )
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str = Field("", description="For `profile: custom`: the TLS 1.2 suites, in OpenSSL's notation.")
    session_tickets: bool = Field(False, description="Resume sessions, in every worker; the key lives until a restart.")
    handshake_timeout: Duration = Field(10.0, description="From accepting a connection to the end of its handshake.")

    @model_validator(mode="after")
    def _ciphers_belong_to_custom(self) -> Self:
        if (self.profile == "custom") != bool(self.ciphers):
            raise ValueError("`profile: custom` and `ciphers` need each other")
        return self


class Issuer(Strict):
    """One issuer of JWTs; it alone decides what its tokens must look like (RFC 8725)."""

    issuer: str
    audience: list[str] = []
    jwks_url: str | None = None
    jwks_file: Path | None = None
    public_key_file: Path | None = None
    algorithms: list[str] = ["RS256", "ES256"]
    leeway: Duration = 30.0
    models_claim: str | None = Field(None, description="A claim holding globs of the models its subject may call.")
    claims_to_headers: dict[str, str] = Field({}, description="Claims sent upstream, each as this header.")


class AuthSettings(Strict):
    keys: Path = Field(Path("keys.yaml"), description="API keys, hashed; `gateway keys create` writes it.")
    jwt: list[Issuer] = []


class PluginSettings(BaseModel):
    """A class by dotted path or an entry point of the group `gateway.plugins`; the other keys are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class LimitSettings(Strict):
    rate: str = Field(description="`100/minute`, `5 per 10 second`: the notation of the `limits` package.")
    burst: int | None = Field(None, ge=1, description="Bucket size; the rate's amount if absent.")
    per: str = Field("key", description="key | principal | ip | model | header:NAME")


class HeaderRules(Strict):
    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: list[str] = []


class HeaderSettings(Strict):
    request: HeaderRules = HeaderRules()
    response: HeaderRules = HeaderRules()


class PathRegex(Strict):
    pattern: str
    replace: str = Field(description=r"With groups: \1 or \g<name>.")


class PathSettings(Strict):
    """Applied in this order to the path that is sent upstream."""

    strip_prefix: str = ""
    regex: PathRegex | None = None
    add_prefix: str = ""


class StickySettings(Strict):
    cookie: str = "gw_session"
    ttl: Duration = 3600.0


class HashKey(Strict):
    header: str | None = None
    cookie: str | None = None
    ip: bool = False


class BalanceSettings(Strict):
    policy: Literal[
        "round_robin",
        "random",
        "least_connections",
        "weighted_least_connections",
        "ip_hash",
        "consistent_hash",
        "least_response_time",
    ] = "least_connections"
    hash: HashKey = Field(HashKey(ip=True), description="What consistent_hash hashes.")


class HealthSettings(Strict):
    path: str = "/"
    interval: Duration = 5.0
    timeout: Duration = 2.0
    rise: int = Field(2, ge=1, description="Good checks in a row that bring an endpoint up.")
    fall: int = Field(3, ge=1, description="Bad checks in a row that take it down.")
    expect: list[int] = Field([], description="Statuses that count as good; any 2xx or 3xx if empty.")


class Timeouts(Strict):
    connect: Duration = 5.0
    first_byte: Duration = 120.0
    idle: Duration = 60.0
    total: Duration = 1800.0


class RetrySettings(Strict):
    attempts: int = Field(3, ge=1, le=10, description="Attempts in all, each on another endpoint while there is one.")


class ServedAs(Strict):
    """What the upstream calls this model and version."""

    model: str | None = None
    version: str | None = None


class EndpointSettings(Strict):
    url: str
    weight: float = Field(1, gt=0)
    drain: bool = Field(False, description="Takes no new sessions; those it has are kept.")


class VersionSettings(Strict):
    endpoints: list[EndpointSettings]
    weight: float | None = Field(None, ge=0, description="Share of the requests that name no version.")
    served_as: ServedAs = ServedAs()
    health: HealthSettings | None = Field(None, description="Instead of the model's.")
    balance: BalanceSettings | None = Field(None, description="Instead of the model's.")


class MatchSettings(Strict):
    """A host, a path prefix, or both."""

    host: str | None = None
    prefix: str | None = None


class ModelDefaults(Strict):
    auth: list[Literal["key", "jwt"]] = Field(["key"], description="Any of these; [] is public.")
    limits: list[LimitSettings] = []
    plugins: list[PluginSettings] = Field([], description="After auth and limits, before forwarding.")
    headers: HeaderSettings = HeaderSettings()
    path: PathSettings = PathSettings()
    sticky: StickySettings | None = None
    balance: BalanceSettings = BalanceSettings()
    health: HealthSettings | None = None
    timeouts: Timeouts = Timeouts()
    retry: RetrySettings = RetrySettings()
    body_bytes: Size = Field(0, description="Largest request body; more is 413. 0: no limit for what streams through.")
    json_bytes: Size = Field(32 * 2**20, description="Largest body that is read to find `model` in it; more is 413.")
    methods: list[str] = Field([], description="Allowed methods; all if empty.")
    preserve_host: bool = Field(False, description="Send the client's Host upstream instead of the endpoint's own.")


class ModelSettings(ModelDefaults):
    aliases: list[str] = []
    match: list[MatchSettings] = []
    default_version: str | None = None
    versions: dict[str, VersionSettings]


class Settings(Strict):
    """routes.yaml."""

    gateway: GatewaySettings = GatewaySettings()
    tls: TLSSettings = TLSSettings()
    auth: AuthSettings = AuthSettings()
    plugins: list[PluginSettings] = Field([], description="Run for every request, before matching.")
    defaults: dict[str, Any] = Field({}, description="Any key of a model; a model overrides.")
    models: dict[str, ModelSettings] = {}
