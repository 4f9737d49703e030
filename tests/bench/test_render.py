"""Configurations of the contestants: whole, and for the gateway such that it accepts them."""

import re
from dataclasses import replace

import pytest
import yaml

from bench import site
from bench.contestants import TABLE, configure
from bench.render import models, render
from bench.rows import ROWS
from gateway.config.load import load

PORTS = {"port": 18443, "admin_port": 19901}
EVERYBODY = {
    f"{row.name}: {each.name}": each for row in ROWS.values() for each in row.contestants
}  # each configuration that is ever started


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return replace(site.make(tmp_path_factory.mktemp("site")), upstream_ports=(9001, 9002))


def configuration(contestant, place, folder, **words):
    configure(contestant, place, folder, {**PORTS, **words})
    return folder / contestant.template


def test_words_are_filled_in_and_may_hold_words():
    assert render("listen @address@;", {"address": "127.0.0.1:@port@", "port": 80}) == "listen 127.0.0.1:80;"


def test_a_word_that_nobody_knows_is_an_error():
    with pytest.raises(KeyError, match="nobody"):
        render("@nobody@", {"somebody": 1})


def test_what_only_looks_like_a_word_stays():
    assert render('"@type": a@example.com', {}) == '"@type": a@example.com'


@pytest.mark.parametrize("name", EVERYBODY)
def test_no_configuration_keeps_an_unfilled_word(name, place, tmp_path):
    contestant = EVERYBODY[name]
    command = configure(contestant, place, tmp_path, PORTS)
    texts = [*command, *(path.read_text() for path in tmp_path.iterdir())]
    assert texts
    assert not [found for text in texts for found in re.findall(r"@[a-z_]+@", text)]


@pytest.mark.parametrize("name", [name for name in EVERYBODY if EVERYBODY[name].template == "gateway.yaml"])
def test_the_gateway_accepts_its_configuration(name, place, tmp_path):
    contestant = EVERYBODY[name]
    settings = load(configuration(contestant, place, tmp_path))
    assert len(settings.models) == (contestant.count("model_count") or 1)
    assert settings.gateway.workers == (contestant.count("workers") or 1)
    assert settings.tls.profile == "modern"
    for model in settings.models.values():
        assert model.auth == [contestant.words.get("auth", "key")]
        assert model.limits
        assert model.sticky


@pytest.mark.parametrize("name", ["envoy", "envoy, all policies"])
def test_envoys_configuration_is_yaml_with_the_filters_it_is_named_for(name, place, tmp_path):
    contestant = TABLE[name]
    text = yaml.safe_load(configuration(contestant, place, tmp_path).read_text())
    connection = text["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    filters = [each["name"] for each in connection["http_filters"]]
    assert ("keys" in filters) == ("credentials" in contestant.policies)
    assert ("sticky" in filters) == ("sticky cookie" in contestant.policies)


def test_streams_are_compared_with_an_nginx_that_does_not_buffer(place, tmp_path):
    peer = next(each for each in ROWS["streams"].contestants if each.name == "nginx")
    assert "proxy_buffering off;" in configuration(peer, place, tmp_path).read_text()


@pytest.mark.parametrize("name", ["haproxy", "nginx", "envoy", "gateway"])
def test_the_low_rate_of_the_audit_reaches_every_configuration(name, place, tmp_path):
    usual = configuration(TABLE[name], place, tmp_path).read_text()
    low = configuration(TABLE[name], place, tmp_path, rate=5, burst=5).read_text()
    assert "1000000" in usual.replace("keepalive_requests 1000000000", "")
    assert "1000000" not in low.replace("keepalive_requests 1000000000", "")


def test_many_models_have_as_many_different_endpoints():
    found = yaml.safe_load("models:\n" + models(500, 20, (9001, 9002)))["models"]
    urls = [url for model in found.values() for url in model["versions"]["v1"]["endpoints"]]
    assert len(found) == 500
    assert "demo" in found
    assert len(urls) == len(set(urls)) == 10_000


def test_one_model_has_the_upstream_itself_as_its_endpoints():
    found = yaml.safe_load("models:\n" + models(1, 2, (9001, 9002)))["models"]
    assert found["demo"]["versions"]["v1"]["endpoints"] == ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]


def test_every_bar_is_about_a_contestant_of_its_row():
    for row in ROWS.values():
        assert set(row.bars) <= {each.name for each in row.contestants[1:]}
        assert set(row.ceilings) <= set(row.measures)
        assert row.contestants[0].name.startswith("gateway")
