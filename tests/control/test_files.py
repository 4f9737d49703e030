"""Every file that a configuration can name is watched, or is one of the few that are read at a start alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from gateway.config.settings import Settings
from gateway.control.files import Watched
from tests.config.routes_file import settings_of

EVERYTHING = """
gateway: {http: "127.0.0.1:80", admin_token_file: /f/token, state_dir: /f/state}
tls:
  certificates: /f/certs
  client_ca: {"*": {file: /f/clients.crt, crl: /f/clients.crl}}
  acme: {domains: [a.example], email: a@a.example, directory: "https://acme.example/dir", ca: /f/acme.crt}
auth:
  keys: /f/keys.yaml
  htpasswd: /f/htpasswd
  introspection:
    url: https://i.example/
    client_id: me
    secret_file: /f/introspection
    tls: {ca: /f/i.crt, client_cert: /f/i-client.crt, client_key: /f/i-client.key}
  jwt:
    - {issuer: a, audience: [m], jwks_file: /f/a.json, algorithms: [RS256], revoked_file: /f/a.revoked}
    - {issuer: b, audience: [m], public_key_file: /f/b.pem, algorithms: [RS256]}
    - {issuer: c, audience: [m], secret_file: /f/c.secret, algorithms: [HS256]}
models:
  one:
    upstream_tls: {ca: /f/one.crt, client_cert: /f/one-client.crt, client_key: /f/one-client.key}
    upstream_auth: {header: authorization, value_file: /f/one.secret}
    versions: {v1: {endpoints: ["https://127.0.0.1:1"]}}
  two:
    auth:
      - external: https://e.example/
        tls: {ca: /f/e.crt, client_cert: /f/e-client.crt, client_key: /f/e-client.key}
    versions:
      v1:
        endpoints: ["https://127.0.0.1:2"]
        upstream_tls: {ca: /f/two.crt, client_cert: /f/two-client.crt, client_key: /f/two-client.key}
"""
AT_START = {Path("/f/token"), Path("/f/state"), Path("/f/acme.crt")}


def named_in(value: object) -> Iterator[tuple[tuple[type, str], Path]]:
    """-> by which field of which settings, and what."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            given = getattr(value, name)
            if isinstance(given, Path):
                yield (type(value), name), given
            yield from named_in(given)
    elif isinstance(value, Mapping):
        yield from named_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from named_in(each)


def fields_in(kind: object, seen: frozenset[object] = frozenset()) -> Iterator[tuple[type, str]]:
    """Those that may name a file, of settings and the settings within."""
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
        for name, field in kind.model_fields.items():
            if is_path(field.annotation):
                yield kind, name
            yield from fields_in(field.annotation, seen | {kind})
    for part in get_args(kind):
        yield from fields_in(part, seen)


def is_path(kind: object) -> bool:
    return kind is Path or any(is_path(part) for part in get_args(kind))


def test_every_file_that_is_named_is_watched() -> None:
    settings = settings_of(EVERYTHING)
    named = {path for _, path in named_in(settings) if path.is_relative_to("/f")}
    assert named - {*Watched(Path("/f/routes.yaml")).of(settings)} == AT_START


def test_what_is_looked_at_here_names_all_that_can_be_named() -> None:
    settings = settings_of(EVERYTHING)
    assert {field for field, path in named_in(settings) if path.is_relative_to("/f")} == {*fields_in(Settings)}
