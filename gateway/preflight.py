"""What routes.yaml refers to, looked at before it is taken: plugins, keys, certificates, the entries of issuers.

`gateway check`, the start and every reload use the same list.
"""

from collections.abc import Iterator, Sequence

from gateway import plugin
from gateway.admin.guard import check_exposure, read_token
from gateway.config.problems import Problem, render_key
from gateway.config.settings import PluginSettings, Settings, UpstreamTLS
from gateway.control.keys import load_keys
from gateway.control.reload import key_files, read_users, revoked_tokens, unusable_users
from gateway.edge.credentials import read_credential
from gateway.edge.introspection import read_secret
from gateway.edge.tokens import Tokens
from gateway.stores.htpasswd import HtpasswdError
from gateway.stores.keyfile import KeyFileError
from gateway.tls import clients, inspect
from gateway.tls.client import context_of


def plugins(settings: Settings) -> Iterator[Problem]:
    """Every plugin is found and made once, from its file as it is now."""
    plugin.forget_changed()
    yield from _plugins(settings.plugins, ("plugins",), is_global=True)
    for name, model in settings.models.items():
        yield from _plugins(model.plugins, ("models", name, "plugins"), is_global=False)


def key_store(settings: Settings) -> Iterator[Problem]:
    """The store of keys can be found and made; it is not asked."""
    if settings.auth.key_store is not None:
        try:
            plugin.load_store(settings.auth.key_store)
        except plugin.PluginError as error:
            yield Problem("", 0, "auth.key_store", str(error))


def _plugins(entries: Sequence[PluginSettings], at: tuple[str, ...], *, is_global: bool) -> Iterator[Problem]:
    for index, entry in enumerate(entries):
        try:
            plugin.load(entry, is_global=is_global)
        except plugin.PluginError as error:
            yield Problem("", 0, render_key((*at, index)), str(error))


def issuers(settings: Settings) -> Iterator[Problem]:
    """The entries of auth.jwt, alone and together."""
    try:
        Tokens(settings.auth.jwt)
    except ValueError as error:
        yield Problem("", 0, "auth.jwt", str(error))


def issuers_keys(settings: Settings) -> Iterator[Problem]:
    """Issuers' keys that are in files can be used, and lists of revoked tokens read."""
    yield from key_files(settings, None)[1]
    yield from revoked_tokens(settings)[1]


def certificates(settings: Settings) -> Iterator[Problem]:
    """Files that cannot be served. An empty folder is no problem: a development certificate is made."""
    folder = settings.tls.certificates
    if folder.exists() and not folder.is_dir():
        yield Problem("", 0, "tls.certificates", f"{folder} is no folder")
    if not folder.is_dir() or not any(folder.glob("*.crt")):
        return
    for problem in inspect.problems(folder, settings.tls):
        if problem.is_error:
            yield Problem(str(folder / problem.file), 0, "", problem.message)


def certificate_warnings(settings: Settings) -> Iterator[Problem]:
    """What is served, or believed, and yet not as it should be."""
    folder = settings.tls.certificates
    if folder.is_dir() and any(folder.glob("*.crt")):
        for problem in inspect.problems(folder, settings.tls):
            if not problem.is_error:
                yield Problem(str(folder / problem.file), 0, "", problem.message)
    for entry in settings.tls.client_ca.values():
        for problem in clients.problems(entry):
            yield Problem(problem.file, 0, "", problem.message)


def upstream_tls(settings: Settings) -> Iterator[Problem]:
    """The files for https endpoints can be used."""
    places: dict[UpstreamTLS, tuple[str | int, ...]] = {}
    if settings.auth.introspection is not None and settings.auth.introspection.url.startswith("https:"):
        places[settings.auth.introspection.tls] = ("auth", "introspection", "tls")
    for name, model in settings.models.items():
        for label, version in model.versions.items():
            at = ("models", name, *(("versions", label) if version.upstream_tls else ()), "upstream_tls")
            if any(endpoint.address.scheme == "https" for endpoint in version.endpoints):
                places.setdefault(version.upstream_tls or model.upstream_tls, at)
        if model.external is not None and model.external.external.startswith("https:"):
            places.setdefault(model.external.tls, ("models", name, "auth", model.auth.index(model.external), "tls"))
    for tls, at in places.items():
        try:
            context_of(tls)
        except ValueError as error:
            yield Problem("", 0, render_key(at), str(error))


def client_cas(settings: Settings) -> Iterator[Problem]:
    """The CAs of clients, and their lists of revoked certificates, can be read."""
    for name, entry in settings.tls.client_ca.items():
        try:
            clients.read(entry)
        except ValueError as error:
            yield Problem("", 0, render_key(("tls", "client_ca", name)), str(error))


def upstream_auth(settings: Settings) -> Iterator[Problem]:
    """The model servers' own keys can be had."""
    for name, model in settings.models.items():
        if model.upstream_auth is not None:
            try:
                read_credential(model.upstream_auth)
            except ValueError as error:
                yield Problem("", 0, render_key(("models", name, "upstream_auth")), str(error))


def introspection(settings: Settings) -> Iterator[Problem]:
    """The gateway's own secret there can be had."""
    if settings.auth.introspection is not None:
        try:
            read_secret(settings.auth.introspection)
        except ValueError as error:
            yield Problem("", 0, "auth.introspection", str(error))


def admin(settings: Settings) -> Iterator[Problem]:
    """The operator's door does not stand open to the network."""
    try:
        check_exposure(settings.gateway.admin[0], read_token(settings.gateway.admin_token_file))
    except (ValueError, OSError) as error:
        yield Problem("", 0, "gateway.admin", str(error))


def keys(settings: Settings) -> Iterator[Problem]:
    """The file of keys can be used. None yet is no problem: it comes with the first key."""
    if settings.auth.key_store is not None:
        return
    try:
        load_keys(settings.auth.keys)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Problem("", 0, "auth.keys", str(error))
    except KeyFileError as error:
        for line in str(error).splitlines():
            place, _, message = line.partition(": ")
            yield Problem(place, 0, "", message)


def key_warnings(settings: Settings) -> Iterator[Problem]:
    """No file of keys where some would be taken: it may be named wrongly, and then all callers are nobody."""
    auth = settings.auth
    if auth.key_store is None and not auth.keys.exists() and any("key" in m.auth for m in settings.models.values()):
        yield Problem(
            "", 0, "auth.keys", f"{auth.keys} is not there: no key is taken until `gateway keys create` makes it"
        )


def users(settings: Settings) -> Iterator[Problem]:
    """The file of users can be used."""
    try:
        read_users(settings)
    except (HtpasswdError, OSError) as error:
        yield from unusable_users(settings, error)


VALIDATORS = (plugins, key_store, issuers, admin, upstream_tls, client_cas, upstream_auth, introspection)
"""For a start and a reload, which read all keys themselves; a bad certificate is reported by the store, which serves
the last good one on."""

EVERYTHING = (*VALIDATORS, keys, users, issuers_keys, certificates)
"""For `gateway check`."""

WARNINGS = (certificate_warnings, key_warnings)
"""For `gateway check` as well: the gateway would start with it."""
