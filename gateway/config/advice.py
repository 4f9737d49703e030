"""What is allowed and probably not meant: the warnings."""

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.config.problems import Path
from gateway.config.rules import Finding, Rule, named_in
from gateway.config.settings import EndpointSettings, ExternalAuth, Settings, UpstreamTLS
from gateway.core.headers import REPLACED_UPSTREAM
from gateway.core.pick import PROMPTED

# Names that no public DNS answers for: RFC 6761, 6762, 8375, ICANN's .internal, and what clusters use.
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa", ".lan", ".svc", ".test")
_OWN_PATHS = ("/models", "/v1", "/v2/models")


@lru_cache(maxsize=2**14)
def is_private(host: str) -> bool:
    """Whether traffic to `host` stays in networks of one's own, as far as its name tells."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_NAMES)


def _is_in_clear(url: str) -> bool:
    """Whether it is reached over http:// outside private networks."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_private(parts.hostname or "")


def models_exist(settings: Settings) -> Iterator[Finding]:
    if not settings.models:
        yield Finding(("models",), "nothing is served")


def everybody_is_trusted(settings: Settings) -> Iterator[Finding]:
    for index, network in enumerate(settings.gateway.trusted_proxies):
        if network.prefixlen == 0:
            message = "anyone may say which address they come from"
            yield Finding(("gateway", "trusted_proxies", index), message)


def issuers_are_careless(settings: Settings) -> Iterator[Finding]:
    for index, issuer in enumerate(settings.auth.jwt):
        path: Path = ("auth", "jwt", index)
        if not issuer.audience:
            yield Finding((*path, "audience"), "without an audience, every token that names one is refused")
        if _is_in_clear(issuer.jwks_url or (issuer.issuer if issuer.is_discovered else "")):
            place = "issuer" if issuer.is_discovered else "jwks_url"
            yield Finding((*path, place), "keys that come over http:// can be replaced on their way")


def models_are_public(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        if not model.auth:
            yield Finding(("models", name, "auth"), f"model {name!r} is public: anyone may call it")


def hidden_models_take_their_time(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        slow = sorted(model.kinds_of_auth & {"basic", "introspection", "external"})
        if model.hide and slow:
            message = f"to look at a credential ({', '.join(slow)}) takes time, which tells that there is something"
            yield Finding(("models", name, "hide"), message)


def services_are_in_clear(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for index, method in enumerate(model.auth):
            if isinstance(method, ExternalAuth) and _is_in_clear(method.external):
                path: Path = ("models", name, "auth", index, "external")
                yield Finding(path, "credentials go to it over http:// outside private networks")


def endpoints_are_in_clear(settings: Settings) -> Iterator[Finding]:
    for path, endpoint in _endpoints(settings):
        if endpoint.address.scheme == "http" and not is_private(endpoint.address.host):
            yield Finding(path, f"{endpoint.url} is reached over http:// outside private networks")


def endpoints_are_not_proved(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for label, version in model.versions.items():
            tls = version.upstream_tls or model.upstream_tls
            path: Path = ("models", name, *(("versions", label) if version.upstream_tls else ()), "upstream_tls")
            if tls.insecure:
                yield Finding(path, f"{name}@{label}: whoever answers for its endpoints is believed")
            if tls != UpstreamTLS() and all(endpoint.address.scheme == "http" for endpoint in version.endpoints):
                yield Finding(path, f"has no effect on {name}@{label}: no endpoint of it is https")


def _endpoints(settings: Settings) -> Iterator[tuple[Path, EndpointSettings]]:
    for name, model in settings.models.items():
        for label, version in model.versions.items():
            for index, endpoint in enumerate(version.endpoints):
                yield ("models", name, "versions", label, "endpoints", index), endpoint


def versions_are_chosen_by_order(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        is_split = any(version.weight for version in model.versions.values())
        if len(model.versions) > 1 and not is_split and model.default_version is None:
            last = list(model.versions)[-1]
            message = f"no weights and no default_version: the last, {last!r}, serves requests that name none"
            yield Finding(("models", name, "versions"), message)


def fallbacks_pass_plugins_by(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for index, text in enumerate(model.fallback):
            other, _ = named_in(settings, text)
            target = settings.models.get(other)
            missed = [each.use for each in target.plugins if each not in model.plugins] if target is not None else []
            if missed:
                message = (
                    f"what falls back to {other!r} passes its plugins by ({', '.join(missed)}): {name!r} lacks them"
                )
                yield Finding(("models", name, "fallback", index), message)


def prefixes_hide_names(settings: Settings) -> Iterator[Finding]:
    for name, model in settings.models.items():
        for index, match in enumerate(model.match):
            hidden = [path for path in _OWN_PATHS if match.host is None and _overlap(path, match.prefix or "/")]
            if hidden:
                path: Path = ("models", name, "match", index)
                yield Finding(path, f"comes before {', '.join(hidden)}, by which every model is reached")


def _overlap(path: str, prefix: str) -> bool:
    first, second = path + "/", prefix.rstrip("/") + "/"
    return first.startswith(second) or second.startswith(first)


def headers_are_replaced(settings: Settings) -> Iterator[Finding]:
    replaced = frozenset(name.decode() for name in REPLACED_UPSTREAM)
    for name, model in settings.models.items():
        for action in ("set", "add"):
            for field in replaced.intersection(getattr(model.headers.request, action)):
                path: Path = ("models", name, "headers", "request", action, field)
                yield Finding(path, "has no effect: the gateway writes this header itself")


def hash_is_unused(settings: Settings) -> Iterator[Finding]:
    if "hash" in settings.defaults.balance.model_fields_set:
        return
    for name, model in settings.models.items():
        policies = [model.balance, *(version.balance for version in model.versions.values() if version.balance)]
        is_used = any(balance.policy == "consistent_hash" for balance in policies)
        if "hash" in model.balance.model_fields_set and not is_used:
            yield Finding(("models", name, "balance", "hash"), "only the policy consistent_hash has a use for it")


def prompts_are_not_read(settings: Settings) -> Iterator[Finding]:
    if "max_in_flight" in settings.defaults.model_fields_set:
        return
    for name, model in settings.models.items():
        policies = {model.balance.policy, *(arm.balance.policy for arm in model.versions.values() if arm.balance)}
        bound = model.max_in_flight
        if bound is not None and bound.pending_tokens is not None and not policies & PROMPTED.keys():
            path: Path = ("models", name, "max_in_flight", "pending_tokens")
            yield Finding(path, f"has no effect: no policy here reads prompts, as {', '.join(sorted(PROMPTED))} do")


ADVICE: tuple[Rule, ...] = (
    models_exist,
    everybody_is_trusted,
    issuers_are_careless,
    models_are_public,
    hidden_models_take_their_time,
    services_are_in_clear,
    endpoints_are_in_clear,
    endpoints_are_not_proved,
    versions_are_chosen_by_order,
    fallbacks_pass_plugins_by,
    prefixes_hide_names,
    headers_are_replaced,
    hash_is_unused,
    prompts_are_not_read,
)
