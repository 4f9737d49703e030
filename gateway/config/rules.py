"""What no single key can say: that names are not claimed twice, and that what one part needs, another one has.

A rule yields `Finding`s and may assume that every value is valid by itself. A finding that rests on keys which are
wrong already is dropped by `load.py`: `needs` says on which, beside the one that it is about.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations

from gateway.config.problems import Path
from gateway.config.settings import GatewaySettings, ModelSettings, Settings, UpstreamTLS, VersionSettings
from gateway.core.endpoint import Address
from gateway.core.snapshot import ENDPOINTS

_ANY_HOST = ("0.0.0.0", "::")
_VERB = re.compile(r"(.+)(?:/(?:infer|ready|generate|generate_stream|config|stats)|:(?:predict|classify|regress))")


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    message: str
    needs: tuple[Path, ...] = ()


Rule = Callable[[Settings], Iterator[Finding]]


def listeners_differ(settings: Settings) -> Iterator[Finding]:
    names = [name for name in ("https", "http", "admin") if getattr(settings.gateway, name) is not None]
    for first, second in combinations(names, 2):
        if _collide(settings.gateway, first, second):
            yield Finding(("gateway", second), f"listens where {first} does", (("gateway", first),))


def _collide(gateway: GatewaySettings, first: str, second: str) -> bool:
    (host, port), (other_host, other_port) = getattr(gateway, first), getattr(gateway, second)
    is_shared = host == other_host or host in _ANY_HOST or other_host in _ANY_HOST
    return port == other_port != 0 and is_shared


def proxies_are_known(settings: Settings) -> Iterator[Finding]:
    if settings.gateway.proxy_protocol and not settings.gateway.trusted_proxies:
        message = "needs trusted_proxies: nobody else is believed to speak for others"
        yield Finding(("gateway", "proxy_protocol"), message, (("gateway", "trusted_proxies"),))


def store_is_installed(settings: Settings) -> Iterator[Finding]:
    if settings.gateway.limits_store.startswith("redis") and find_spec("redis") is None:
        yield Finding(("gateway", "limits_store"), "needs the package redis: install model-gateway[redis]")


def acme_can_work(settings: Settings) -> Iterator[Finding]:
    if settings.tls.acme is None:
        return
    if find_spec("acme") is None:
        yield Finding(("tls", "acme"), "needs the package acme: install model-gateway[acme]")
    if settings.gateway.http is None and settings.tls.acme.challenge == "http-01":
        yield Finding(("tls", "acme"), "needs gateway.http, where the CA looks for its proof", (("gateway", "http"),))


def keys_are_in_one_place(settings: Settings) -> Iterator[Finding]:
    if settings.auth.key_store is not None and "keys" in settings.auth.model_fields_set:
        yield Finding(("auth", "key_store"), "is beside `keys`: in which of them are the keys?", (("auth", "keys"),))


def issuers_differ(settings: Settings) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, issuer in enumerate(settings.auth.jwt):
        if first.setdefault(issuer.issuer, index) != index:
            path: Path = ("auth", "jwt", index, "issuer")
            yield Finding(path, f"{issuer.issuer!r} is auth.jwt[{first[issuer.issuer]}] already")


def issuers_exist(settings: Settings) -> Iterator[Finding]:
    if settings.auth.jwt:
        return
    for name, model in settings.models.items():
        if "jwt" in model.auth:
            message = "takes JWTs, but auth.jwt names no issuer"
            yield Finding(("models", name, "auth"), message, (("auth",),))


def users_exist(settings: Settings) -> Iterator[Finding]:
    if settings.auth.htpasswd is not None:
        return
    for name, model in settings.models.items():
        if "basic" in model.auth:
            message = "takes passwords, but auth.htpasswd names no file of users"
            yield Finding(("models", name, "auth"), message, (("auth",),))


def introspection_is_somewhere(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        if "introspection" in model.auth and settings.auth.introspection is None:
            message = "takes tokens that must be asked about, but auth.introspection names nobody to ask"
            yield Finding(("models", name, "auth"), message, (("auth",),))


def services_decide_alone(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        services = [index for index, method in enumerate(model.auth) if not isinstance(method, str)]
        for index in services[1:]:
            message = f"auth[{services[0]}] decides already; one service has the last word"
            yield Finding(("models", name, "auth", index, "external"), message)


def hosts_have_one_ca(settings: Settings) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, ca in settings.tls.client_ca.items():
        for host in ca.hosts or [""]:
            owner = owners.setdefault(host, name)
            if owner != name:
                what = f"clients of {host} already" if host else "all hosts that no other names, too: give it `hosts`"
                yield Finding(("tls", "client_ca", name), f"{owner} asks {what}")


def certificates_have_cas(settings: Settings) -> Iterator[Finding]:
    known = settings.tls.client_ca
    at: Path = ("tls", "client_ca")
    for index, rule in enumerate(settings.auth.mtls):
        if rule.ca not in known:
            message = f"tls.client_ca has no {rule.ca!r}; it has {', '.join(known) or 'none'}"
            yield Finding(("auth", "mtls", index, "ca"), message, (at,))
    for name, model in settings.models.items() if not known else ():
        if "mtls" in model.auth:
            yield Finding(("models", name, "auth"), "takes client certificates, but tls.client_ca has no CA", (at,))
        if model.pass_certificate:
            message = "no client is asked for a certificate: tls.client_ca has no CA"
            yield Finding(("models", name, "pass_certificate"), message, (at,))


def chains_follow_certificates(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        if "client-cert-chain" in model.pass_certificate and "client-cert" not in model.pass_certificate:
            message = "`client-cert-chain` needs `client-cert` (RFC 9440, 2.3)"
            yield Finding(("models", name, "pass_certificate"), message)


def permissions_have_callers(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        at: Path = ("models", name)
        for index, rule in enumerate(model.allow):
            needed, whom = (("basic",), "a user") if rule.user is not None else (("jwt", "introspection"), "tokens")
            if not any(method in model.auth for method in needed):
                message = f"speaks of {whom}, but `auth` takes no {needed[0]}"
                yield Finding((*at, "allow", index), message, ((*at, "auth"),))
        if model.hide and not model.auth:
            yield Finding((*at, "hide"), "a public model cannot be hidden: anyone may call it", ((*at, "auth"),))


def credentials_go_one_way(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        at: Path = ("models", name)
        if model.pass_credentials and model.upstream_auth is not None:
            message = "the caller's credential is either passed on or replaced (upstream_auth)"
            yield Finding((*at, "pass_credentials"), message, ((*at, "upstream_auth"),))


def names_are_claimed_once(settings: Settings) -> Iterator[Finding]:
    owners = {name: name for name in settings.models}
    places: dict[str, Path] = {name: ("models", name) for name in settings.models}
    for name, model in settings.models.items():
        for index, alias in enumerate(model.aliases):
            path: Path = ("models", name, "aliases", index)
            if alias in owners:
                yield Finding(path, f"{alias!r} leads to model {owners[alias]!r} already")
            owners.setdefault(alias, name)
            places.setdefault(alias, path)
    for name, path in places.items():
        verb = _VERB.fullmatch(name)
        if verb and verb[1] in owners:
            message = f"{name!r} is also a path of model {owners[verb[1]]!r}: its name and what is asked of it"
            yield Finding(path, message)


def matches_are_claimed_once(settings: Settings) -> Iterator[Finding]:
    claimed: dict[tuple[str | None, str], str] = {}
    for name, model in settings.models.items():
        for index, match in enumerate(model.match):
            key = (match.host, match.prefix or "/")
            if key in claimed:
                message = f"{match.host or ''}{match.prefix or '/'} leads to model {claimed[key]!r} already"
                yield Finding(("models", name, "match", index), message)
            claimed.setdefault(key, name)


def versions_are_reachable(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        versions: Path = ("models", name, "versions")
        weights = [version.weight for version in model.versions.values() if version.weight is not None]
        if not model.versions:
            yield Finding(versions, "needs at least one version")
        if weights and not sum(weights):
            yield Finding(versions, "every weight is 0: no version serves requests that name none")
        default = model.default_version
        if default is not None and default not in model.versions:
            message = f"there is no version {default!r}; there is {', '.join(model.versions) or 'none'}"
            yield Finding(("models", name, "default_version"), message, ((*versions, default),))


def endpoints_differ(settings: Settings) -> Iterator[Finding]:
    urls: set[str] = set()
    for name, model in settings.models.items():
        for label, version in model.versions.items():
            yield from _repeated(version, ("models", name, "versions", label, "endpoints"))
        urls.update(model.urls)
    if len(urls) > ENDPOINTS:
        yield Finding(("models",), f"{len(urls)} endpoints; one machine has room for {ENDPOINTS}")


def endpoints_are_proved_in_one_way(settings: Settings) -> Iterator[Finding]:
    """Connections and health belong to an endpoint, whichever model it serves."""
    first: dict[str, tuple[UpstreamTLS, str]] = {}
    for name, model in settings.models.items():
        for label, version in model.versions.items():
            tls = version.upstream_tls or model.upstream_tls
            for index, endpoint in enumerate(version.endpoints):
                if endpoint.address.scheme != "https":
                    continue
                known, owner = first.setdefault(endpoint.url, (tls, f"{name}@{label}"))
                if known != tls:
                    path: Path = ("models", name, "versions", label, "endpoints", index)
                    yield Finding(path, f"{endpoint.url} has another upstream_tls in {owner}")


def _repeated(version: VersionSettings, path: Path) -> Iterator[Finding]:
    if not version.endpoints:
        yield Finding(path, "needs at least one endpoint")
    seen: set[Address] = set()
    for index, endpoint in enumerate(version.endpoints):
        address = endpoint.address
        if address in seen:
            yield Finding((*path, index), f"{endpoint.url} is there already; for more work, give it a weight")
        seen.add(address)


def limits_know_their_callers(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        auth: Path = ("models", name, "auth")
        for index, limit in enumerate(model.limits):
            why = _unknown_caller(model, limit.per)
            if why:
                path: Path = ("models", name, "limits", index, "per")
                yield Finding(path, f"per: {limit.per} counts nobody in model {name!r}, {why}", (auth,))


def _unknown_caller(model: ModelSettings, per: str) -> str:
    if not model.auth and per in ("key", "principal"):
        return "which is public: use per: ip"
    if "key" not in model.auth and per == "key":
        return "which takes no keys: use per: principal"
    return ""


def fallbacks_can_answer(settings: Settings) -> Iterator[Finding]:
    """They exist, are something else, and take whoever this model takes: nobody gets in by way of another model."""
    for name, model in settings.models.items():
        for index, text in enumerate(model.fallback):
            at: Path = ("models", name, "fallback", index)
            other, version = named_in(settings, text)
            target = settings.models.get(other)
            if target is None:
                yield Finding(at, f"there is no model {text!r}")
            elif version is not None and version not in target.versions:
                yield Finding(at, f"model {other!r} has no version {version!r}; it has {', '.join(target.versions)}")
            elif other == name and (version is None or len(model.versions) == 1):
                yield Finding(at, f"{text!r} is this model itself")
            elif target.auth and not (model.auth and model.kinds_of_auth <= target.kinds_of_auth):
                kinds = " and ".join(sorted(target.kinds_of_auth))
                message = f"model {other!r} takes {kinds} only, and this one others, too"
                yield Finding(at, message, (("models", name, "auth"), ("models", other, "auth")))


def named_in(settings: Settings, text: str) -> tuple[str, str | None]:
    """`model` or `model@version`, where a model's own name may have an "@"."""
    if text in settings.models or "@" not in text:
        return text, None
    name, _, version = text.rpartition("@")
    return name, version


RULES: tuple[Rule, ...] = (
    listeners_differ,
    proxies_are_known,
    store_is_installed,
    acme_can_work,
    keys_are_in_one_place,
    issuers_differ,
    issuers_exist,
    users_exist,
    introspection_is_somewhere,
    services_decide_alone,
    hosts_have_one_ca,
    certificates_have_cas,
    chains_follow_certificates,
    permissions_have_callers,
    credentials_go_one_way,
    names_are_claimed_once,
    matches_are_claimed_once,
    versions_are_reachable,
    endpoints_differ,
    endpoints_are_proved_in_one_way,
    limits_know_their_callers,
    fallbacks_can_answer,
)
