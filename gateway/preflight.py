"""What routes.yaml refers to, looked at before it is taken: plugins, certificates, the entries of issuers.

`gateway check`, the start and every reload use the same list.
"""

from collections.abc import Iterator, Sequence

from gateway import plugin
from gateway.config.problems import Problem, render_key
from gateway.config.settings import PluginSettings, Settings
from gateway.edge.tokens import Tokens
from gateway.tls import inspect


def plugins(settings: Settings) -> Iterator[Problem]:
    """Every plugin is found and made once."""
    yield from _plugins(settings.plugins, ("plugins",), is_global=True)
    for name, model in settings.models.items():
        yield from _plugins(model.plugins, ("models", name, "plugins"), is_global=False)


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


def certificates(settings: Settings) -> Iterator[Problem]:
    """Files that cannot be served. An empty folder is no problem: a development certificate is made."""
    folder = settings.tls.certificates
    if not folder.is_dir() or not any(folder.glob("*.crt")):
        return
    for problem in inspect.problems(folder, settings.tls):
        if problem.is_error:
            yield Problem(str(folder / problem.file), 0, "", problem.message)


VALIDATORS = (plugins, issuers)
"""For a reload: a bad certificate is reported by the store, which serves the last good one on."""

EVERYTHING = (*VALIDATORS, certificates)
"""For `gateway check`."""
