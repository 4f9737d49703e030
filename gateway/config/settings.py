"""The shape of routes.yaml. Every key's meaning, unit and default is said once, here and in `certificates.py`,
`policies.py`, `balance.py`, `patience.py` and `traffic.py`: the reference in docs/ and the JSON Schema are generated
from them. `load.py` reads a file into them.

Defaults are written as they would be in the file. Settings are immutable, and survive JSON: `model_dump(mode="json")`
gives what `model_validate` takes, so that one process can hand them to another.
"""

from typing import Literal, Self

from pydantic import model_validator

from gateway.config.balance import BalanceSettings, EngineMetrics, HashKey, StickySettings
from gateway.config.certificates import AcmeSettings, CertificateRule, ClientCA, HstsSettings, TLSSettings
from gateway.config.names import Algorithm, IdentityField, ModelName, OwnField
from gateway.config.patience import (
    AdaptiveSettings,
    Backoff,
    HealthSettings,
    HedgeSettings,
    MaxInFlight,
    PrioritySettings,
    QueueSettings,
    RetryBudget,
    RetrySettings,
    Timeouts,
)
from gateway.config.policies import (
    AllowSettings,
    EndpointSettings,
    ExternalAuth,
    HeaderRules,
    HeaderSettings,
    KeyStoreSettings,
    LimitSettings,
    MatchSettings,
    ModelDefaults,
    ModelSettings,
    PathRegex,
    PathSettings,
    PluginSettings,
    ServedAs,
    UpstreamAuth,
    UpstreamTLS,
    VersionSettings,
)
from gateway.config.shape import Strict, needed, setting
from gateway.config.traffic import BreakerSettings, EjectionSettings
from gateway.config.values import (
    Audience,
    Duration,
    FilePath,
    Listen,
    LogPath,
    Network,
    Positive,
    PositiveSize,
    Rate,
    StoreURL,
    Text,
    WebURL,
    Workers,
    check_web_url,
)

__all__ = [
    "AccessLog",
    "AcmeSettings",
    "AdaptiveSettings",
    "AllowSettings",
    "AuthSettings",
    "Backoff",
    "BalanceSettings",
    "BreakerSettings",
    "CertificateRule",
    "ClientCA",
    "EjectionSettings",
    "EndpointSettings",
    "EngineMetrics",
    "ExternalAuth",
    "FailureSettings",
    "GatewaySettings",
    "HashKey",
    "HeaderRules",
    "HeaderSettings",
    "HealthSettings",
    "HedgeSettings",
    "HstsSettings",
    "Introspection",
    "Issuer",
    "KeyStoreSettings",
    "LimitSettings",
    "Limits",
    "MatchSettings",
    "MaxInFlight",
    "ModelDefaults",
    "ModelSettings",
    "PathRegex",
    "PathSettings",
    "PluginSettings",
    "PrioritySettings",
    "QueueSettings",
    "RetryBudget",
    "RetrySettings",
    "ServedAs",
    "Settings",
    "Shutdown",
    "StickySettings",
    "Strict",
    "TLSSettings",
    "Timeouts",
    "UpstreamAuth",
    "UpstreamTLS",
    "VersionSettings",
    "WatchdogSettings",
]


class AccessLog(Strict):
    """One line for each request, when it has ended."""

    path: LogPath = setting("-", 'A file, "-" for standard output, "" for none.')
    format: Literal["json"] = setting("json", "One JSON object a line.")


class Limits(Strict):
    """What a client may send, and for how long."""

    header_bytes: PositiveSize = setting("64KiB", "The whole header section; more is 431.")
    header_line_bytes: PositiveSize = setting("16KiB", "One field of it; more is 431.")
    header_count: int = setting(100, "Fields in a header section; more is 431.", ge=1)
    target_bytes: PositiveSize = setting("16KiB", "The request target; more is 414.")
    headers_timeout: Positive = setting("10s", "From the first byte of a head to its end.")
    unfinished_bytes: PositiveSize = setting(
        "16MiB", "All header sections under way in a worker; above it those that take longest are cut off."
    )
    trailer_bytes: PositiveSize = setting("16KiB", "A trailer section, and the extensions of chunks; more is 431.")
    body_idle: Positive = setting("30s", "Longest silence inside a request's body.")
    body_rate: int = setting(
        240, "Bytes a second at which a body comes at least, over each `body_idle`; 0: any rate will do.", ge=0
    )
    write_bytes: PositiveSize = setting("64KiB", "Of an answer, that wait for a client which is slow to take it.")
    write_idle: Positive = setting("60s", "Longest time a client may take none of an answer that waits for it.")
    write_rate: int = setting(
        240,
        "Bytes a second at which it takes them at least, over each `write_idle` in which they wait: time in which it "
        "is the model server that is slow does not count. 0: any rate will do.",
        ge=0,
    )
    connections: int = setting(20_000, "In all; more wait to be accepted. Idle ones make room.", ge=1)
    connections_per_address: int = setting(
        10_000, "Of one address, an IPv6 /64; more are closed before their handshake. 0: any number.", ge=0
    )
    keep_alive: Positive = setting("75s", "Longest silence between two requests of a connection.")
    requests: int = setting(10_000, "Requests of one connection; it closes behind the last.", ge=1)


class Shutdown(Strict):
    """How the gateway ends."""

    delay: Duration = setting("0s", "From /readyz failing to the listeners closing.")
    grace: Duration = setting("5m", "How long requests in flight, streams too, may take to end.")


class OverloadSettings(Strict):
    """When the gateway has too much to do itself: a share of new requests is refused at the door, with 503 and
    Retry-After. What is under way goes on."""

    lag: Duration = setting("500ms", "How late its timers may fire for a whole second; 0s: never mind.")
    memory: PositiveSize | None = setting(
        None,
        "What a worker may have, its resident set; null: what the control group of all of them may have, if limited.",
    )


class WatchdogSettings(Strict):
    """When a worker's loop stands still, because a plugin blocks in it: where it stands is logged, once each time, with
    the plugin's name, and counted (`gateway_loop_stalls_total`)."""

    stall: Duration = setting("2s", "For how long, until it is said; 0s: never.")
    kill: Positive | None = setting(
        None, "For how long, until the worker is ended and another one takes its place; null: it is left to itself."
    )

    @model_validator(mode="after")
    def _says_it_first(self) -> Self:
        if self.kill is not None and not 0 < self.stall <= self.kill:
            raise ValueError("`kill` needs a `stall` that is not longer")
        return self


class GatewaySettings(Strict):
    """The process: where it listens, whom it believes, what it keeps."""

    https: Listen = setting("0.0.0.0:8443", "The public entry point.")
    http: Listen | None = setting(None, "Redirects to https and answers ACME challenges; nothing else.")
    admin: Listen = setting("127.0.0.1:9901", "Health, metrics, status.")
    admin_token_file: FilePath | None = setting(
        None,
        "File of the token that opens `admin`; the variable GATEWAY_ADMIN_TOKEN wins. Needed unless `admin` is a "
        "loopback address.",
    )
    workers: Workers = setting("auto", "Worker processes; `auto`: one per core.")
    trusted_proxies: list[Network] = setting(
        [], "Whose X-Forwarded-* (else Forwarded, else X-Real-IP) and X-Request-Id are believed."
    )
    proxy_protocol: bool = setting(
        False, "Each connection of `trusted_proxies` begins with a PROXY header, version 1 or 2; no other's does."
    )
    limits_store: StoreURL = setting(
        "shared://",
        "Where token buckets live. `shared://`: exact over all workers of this machine; `memory://`: each worker's; "
        "`redis://host:6379/0`, `rediss://`: exact over all gateways that use it.",
    )
    state_dir: FilePath = setting(".gateway", "Folder of what the gateway must remember.")
    access_log: AccessLog = setting({}, "One line for each request.")
    limits: Limits = setting({}, "What a client may send, and for how long.")
    overload: OverloadSettings = setting({}, "When the gateway has too much to do itself.")
    watchdog: WatchdogSettings = setting({}, "When a plugin blocks a worker.")
    shutdown: Shutdown = setting({}, "How the gateway ends.")


class Issuer(Strict):
    """One issuer of JWTs; it alone decides what its tokens must look like (RFC 8725). Its keys come from one of
    `jwks_url`, `jwks_file` and `public_key_file`; with none of them, by discovery. With HS256 and its kin there is one
    secret instead, from `secret_file` or `secret_env`."""

    issuer: Text = needed("What a token's `iss` must be, to the letter.")
    audience: Audience = setting([], "Any of these must be in a token's `aud`; [] takes tokens without one.")
    jwks_url: WebURL | None = setting(None, "Where its keys are published.")
    jwks_file: FilePath | None = setting(None, "A file of its keys, as a JSON Web Key Set.")
    public_key_file: FilePath | None = setting(None, "A file of its one public key, in PEM.")
    discovery: bool = setting(
        False, "Find its keys by its `.well-known/openid-configuration`; so it is if nothing says where they are."
    )
    secret_file: FilePath | None = setting(None, "For HS256 and its kin: a file of the shared secret.")
    secret_env: Text | None = setting(None, "Or an environment variable, read when the gateway starts.")
    algorithms: list[Algorithm] = setting(
        ["RS256", "ES256"],
        "Accepted signatures. HS256, HS384, HS512: whoever can check one can forge it, so they need a `secret_…`.",
        min_length=1,
    )
    leeway: Duration = setting("30s", "How far its clock may be from ours.")
    types: list[Text] = setting(["JWT", "at+jwt"], "Accepted `typ`; a token without one is a JWT.", min_length=1)
    max_age: Positive | None = setting(None, "How long after its `iat` a token is taken at most.")
    scopes: list[Text] = setting([], "What all must be among a token's scopes (`scope` or `scp`).")
    required_claims: dict[Text, Audience] = setting(
        {}, "Claims that a token must have, each with one of these values; [] is any value."
    )
    revoked_file: FilePath | None = setting(
        None, "A file of revoked tokens, a `jti` a line; picked up live. Tokens without `jti` are refused then."
    )
    models_claim: Text | None = setting(None, "A claim holding globs of the models its subject may call.")
    claims_to_headers: dict[Text, OwnField] = setting({}, "Claims sent upstream, each as this header.")

    @model_validator(mode="after")
    def _has_one_source_of_keys(self) -> Self:
        sources = 3 - [self.jwks_url, self.jwks_file, self.public_key_file].count(None) + self.discovery
        secrets = 2 - [self.secret_file, self.secret_env].count(None)
        shared = [name for name in self.algorithms if name.startswith("HS")]
        if shared or secrets:
            if len(shared) != len(self.algorithms):
                raise ValueError("algorithms: a secret is for HS256, HS384, HS512, and these for no other key")
            if secrets != 1 or sources:
                raise ValueError(f"{shared[0]} needs secret_file or secret_env, and no other key")
        if sources > 1:
            raise ValueError("needs exactly one of jwks_url, jwks_file, public_key_file, discovery")
        if self.is_discovered:
            try:
                check_web_url(self.issuer)
            except ValueError as error:
                why = "; without jwks_url, jwks_file and public_key_file its keys are found at the issuer's own URL"
                raise ValueError(f"issuer: {error}{why}") from None
        return self

    @property
    def is_discovered(self) -> bool:
        """Nothing says where its keys are: the issuer does (OpenID Connect Discovery)."""
        places = (self.jwks_url, self.jwks_file, self.public_key_file, self.secret_file, self.secret_env)
        return all(place is None for place in places)


class Introspection(Strict):
    """An issuer of tokens that only it can read: it is asked about each (RFC 7662). For models with `introspection` in
    their `auth`."""

    url: WebURL = needed("Its introspection endpoint.")
    client_id: Text | None = setting(None, "Who the gateway is there; null: it need not say.")
    secret_file: FilePath | None = setting(None, "A file of the gateway's secret there; picked up live.")
    secret_env: Text | None = setting(None, "Or an environment variable, read when the gateway starts.")
    audience: Audience = setting([], "Any of these must be in a token's `aud`; [] takes tokens without one.")
    scopes: list[Text] = setting([], "What all must be among a token's scopes.")
    required_claims: dict[Text, Audience] = setting(
        {}, "What its answer must have besides `active`, each with one of these values; [] is any value."
    )
    models_claim: Text | None = setting(None, "A member of its answer holding globs of the models that may be called.")
    claims_to_headers: dict[Text, IdentityField] = setting({}, "Members sent upstream, each as this header.")
    leeway: Duration = setting("30s", "How far its clock may be from ours.")
    timeout: Positive = setting("2s", "How long it may take; then 503.")
    cache: Duration = setting("1m", "How long a token that is active counts as that, but never beyond its `exp`.")
    negative_cache: Duration = setting("10s", "How long one that is not is refused without asking again.")
    tls: UpstreamTLS = setting({}, "How an https endpoint is proved, and the gateway to it.")

    @model_validator(mode="after")
    def _has_one_secret(self) -> Self:
        secrets = 2 - [self.secret_file, self.secret_env].count(None)
        if secrets != (self.client_id is not None):
            raise ValueError("`client_id` and one of `secret_file`, `secret_env` need each other")
        return self


class FailureSettings(Strict):
    """How often an address may offer bad credentials. Good ones are always taken."""

    rate: Rate | None = setting("60/minute", "More failed attempts are answered 429; null: any number is answered 401.")
    ban: Positive = setting("1m", "For how long, once there were too many.")


class AuthSettings(Strict):
    """Who may be a caller. A model's `auth` says which of these it takes."""

    keys: FilePath = setting("keys.yaml", "File of API keys, hashed; `gateway keys create` writes it.")
    key_store: KeyStoreSettings | None = setting(
        None, "Another place for API keys than a file: a class of yours; see authentication.md."
    )
    jwt: list[Issuer] = setting([], "Issuers whose tokens are believed.")
    introspection: Introspection | None = setting(None, "Whom to ask about tokens that are no JWTs; null: nobody.")
    htpasswd: FilePath | None = setting(
        None, "File of users and their passwords, hashed by bcrypt or argon2 (`htpasswd -B`); picked up live."
    )
    mtls: list[CertificateRule] = setting(
        [], "Whom client certificates prove; of several rules that fit, the first. [] takes all that are verified."
    )
    identity_headers: dict[Text, IdentityField] = setting(
        {},
        "What a model server is told of who calls by key or password, each as this header: `id`, `name`, `kind`; of "
        "keys also `owner` and what their metadata have.",
    )
    failures: FailureSettings = setting({}, "How often an address may offer bad credentials.")


class Settings(Strict):
    """routes.yaml."""

    gateway: GatewaySettings = setting({}, "The process: where it listens, whom it believes, what it keeps.")
    tls: TLSSettings = setting({}, "The certificates, in one place, and how clients are spoken to.")
    auth: AuthSettings = setting({}, "Who may be a caller.")
    plugins: list[PluginSettings] = setting([], "Run for every request, before matching.")
    defaults: ModelDefaults = setting({}, "Any policy of a model. A model overrides it, mappings key by key.")
    models: dict[ModelName, ModelSettings] = setting({}, "What is served, by name.")
