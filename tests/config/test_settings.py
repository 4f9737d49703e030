"""Settings as one process hands them to another, and as they describe themselves."""

import json
import pickle

import pytest
from pydantic import ValidationError

from gateway.config.policies import ModelDefaults, ModelSettings
from gateway.config.settings import Settings
from gateway.config.shape import fields_of, section_at, section_of
from tests.config.routes_file import ROOT, settings_of

EVERYTHING = """
    gateway:
      https: "[::1]:8443"
      http: 0.0.0.0:8080
      admin: 127.0.0.1:9901
      workers: 4
      trusted_proxies: [10.0.0.0/8, "fd00::/8", 192.0.2.1]
      limits_store: redis://limits:6379/0
      access_log: {path: access.log}
      limits: {header_bytes: 32KiB, headers_timeout: 1500ms}
      shutdown: {delay: 5s, grace: 1h30m}
    tls: {profile: custom, ciphers: ECDHE+AESGCM, min_version: 1.2}
    auth:
      jwt:
        - {issuer: a, audience: models, jwks_url: https://a/jwks, claims_to_headers: {sub: X-User}}
        - {issuer: b, audience: [x, y], public_key_file: b.pem, algorithms: [EdDSA], leeway: 0}
    plugins: [{use: a.B, code: "5", number: 5, deep: {on: [1.5, null, true, text]}}]
    defaults:
      limits: [{rate: 1/second}]
      health: {path: /health, expect: [200, 204]}
      retry: {attempts: 2}
    models:
      meta-llama/Llama-3.1-8B:
        auth: [key, jwt]
        aliases: [llama]
        match: [{host: Llama.Example.com}, {prefix: /llama/}]
        limits: [{rate: 5 per 10 second, burst: 2, per: header:X-User}]
        plugins: [{use: c.D}]
        headers: {request: {set: {X-Team: ml}, add: {x-b: "2"}, remove: [Cookie]}, response: {remove: [server]}}
        path: {strip_prefix: /a, add_prefix: /b/, regex: {pattern: "^/(x)", replace: '/\\1'}}
        sticky: {cookie: c, ttl: 5m}
        balance: {policy: consistent_hash, hash: {header: X-Session}}
        timeouts: {connect: 250ms}
        body_bytes: 1GiB
        methods: [get]
        preserve_host: true
        default_version: 1.10
        versions:
          1.10: {endpoints: [http://h:1, {url: https://i/p, weight: 2.5, drain: true}], weight: 95}
          "2": {endpoints: [http://j], weight: 5, served_as: {model: m, version: 3}, health: {interval: 1s}}
"""


def test_settings_are_the_same_after_json():
    settings = settings_of(EVERYTHING)
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_settings_are_the_same_after_pickling():
    settings = settings_of(EVERYTHING)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_the_defaults_alone_are_the_same_after_json():
    assert Settings.model_validate_json(Settings().model_dump_json()) == Settings()


def test_options_of_plugins_keep_their_types_on_the_way():
    again = Settings.model_validate_json(settings_of(EVERYTHING).model_dump_json())
    assert again.plugins[0].options == {"code": "5", "number": 5, "deep": {"on": [1.5, None, True, "text"]}}


def test_names_are_in_the_form_in_which_requests_are_compared_with_them():
    model = settings_of(EVERYTHING).models["meta-llama/Llama-3.1-8B"]
    assert [(match.host, match.prefix) for match in model.match] == [("llama.example.com", None), (None, "/llama")]
    assert (model.headers.request.set, model.headers.request.remove) == ({"x-team": "ml"}, ["cookie"])
    assert (model.limits[0].per, model.balance.hash.header, model.methods) == ("header:x-user", "x-session", ["GET"])
    assert model.path.add_prefix == "/b"
    assert list(model.versions) == ["1.10", "2"]


def test_every_kind_of_value_is_plain_text_or_number_for_other_libraries():
    settings = settings_of(EVERYTHING)
    model = settings.models["meta-llama/Llama-3.1-8B"]
    found = [*settings.models, *model.versions, model.default_version, model.methods[0], model.timeouts.connect]
    found += [settings.gateway.workers, settings.auth.jwt[0].audience[0], model.versions["1.10"].endpoints[0].url]
    assert {type(value) for value in found} == {str, float, int}


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().gateway.workers = 2


def test_a_plain_url_and_a_plain_audience_are_short_for_the_whole():
    settings = settings_of(EVERYTHING)
    endpoint = settings.models["meta-llama/Llama-3.1-8B"].versions["1.10"].endpoints[0]
    assert (endpoint.url, endpoint.weight, endpoint.drain) == ("http://h:1", 1.0, False)
    assert [issuer.audience for issuer in settings.auth.jwt] == [["models"], ["x", "y"]]


def sections(section=Settings, seen=None):
    seen = {} if seen is None else seen
    if section not in seen:
        seen[section] = section.__doc__
        for annotation in fields_of(section).values():
            if section_of(annotation):
                sections(section_of(annotation), seen)
    return seen


def test_every_section_and_every_key_says_what_it_means():
    undescribed = [section.__name__ for section, text in sections().items() if not text]
    for section in sections():
        undescribed += [f"{section.__name__}.{name}" for name, f in section.model_fields.items() if not f.description]
    assert undescribed == []
    assert len(sections()) > 20


def test_every_policy_of_a_model_may_be_in_the_defaults():
    own = set(ModelSettings.model_fields) - set(ModelDefaults.model_fields)
    assert own == {"aliases", "match", "default_version", "versions"}


def test_a_path_leads_to_its_section():
    names = {
        path: section_at(Settings, path)
        for path in [(), ("models", "a.b"), ("models", "x", "versions", "v1"), ("models", "x", "auth", 0)]
    }
    assert [section.__name__ for section in names.values()] == [
        "Settings",
        "ModelSettings",
        "VersionSettings",
        "ExternalAuth",
    ]
    nowhere = [("gateway", "workers"), ("nonsense", "x"), ("auth", "failures", "rate"), ("gateway", "https", 0)]
    assert [section_at(Settings, path) for path in nowhere] == [None] * 4


def test_the_default_folders_are_those_of_the_repository():
    settings = Settings()
    assert (settings.tls.certificates.name, settings.auth.keys.name) == ("certs", "keys.yaml")
    assert (ROOT / settings.tls.certificates).is_dir()
