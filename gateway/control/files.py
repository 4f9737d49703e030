"""What a configuration names beside itself: files that are watched, and proofs toward servers and ourselves."""

from collections.abc import Iterator
from pathlib import Path

from gateway.config.settings import Settings, UpstreamTLS


class Watched:
    """Files and folders whose change means something; `config` is the path of routes.yaml."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.named: list[Path] = []  # by these settings:
        self.settings: Settings | None = None

    def of(self, settings: Settings) -> list[Path]:
        """Asked ten times a second, which for 5,000 models would be a seventh of a core."""
        if self.settings is not settings:
            self.settings, self.named = settings, list(dict.fromkeys(filter(None, _named(settings))))
        return [self.config, self.config.resolve().parent / "plugins", *self.named]


def _named(settings: Settings) -> Iterator[Path | None]:
    auth = settings.auth
    if auth.key_store is None:
        yield auth.keys
    yield settings.tls.certificates
    yield auth.htpasswd
    if auth.introspection is not None:
        yield auth.introspection.secret_file
    for issuer in auth.jwt:
        yield from (issuer.jwks_file, issuer.public_key_file, issuer.secret_file, issuer.revoked_file)
    for asked in settings.tls.client_ca.values():
        yield from (asked.file, asked.crl)
    for model in settings.models.values():
        if model.upstream_auth is not None:
            yield model.upstream_auth.value_file
    for tls in proofs(settings):
        yield from tls.files


def proofs(settings: Settings) -> Iterator[UpstreamTLS]:
    """Every `upstream_tls` that is in use."""
    if settings.auth.introspection is not None:
        yield settings.auth.introspection.tls
    for model in settings.models.values():
        yield from (version.upstream_tls or model.upstream_tls for version in model.versions.values())
        if model.external is not None:
            yield model.external.tls
