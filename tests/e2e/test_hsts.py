"""Strict-Transport-Security: on every answer, once, and only if asked for."""

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Gateway, served
from tests.e2e.harness_upstream import Connection, RawUpstream

FIELD = "strict-transport-security"
OWN = b"HTTP/1.1 200 OK\r\nstrict-transport-security: max-age=1\r\ncontent-length: 0\r\n\r\n"


def answering(connection: Connection) -> None:
    connection.read_request()
    connection.sock.sendall(OWN)


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    other = {"headers": {"response": {"set": {FIELD: "max-age=2"}}}}
    models = {"m": served([upstream.url]), "other": served([upstream.url], **other)}
    hsts = {"max_age": "730d", "include_subdomains": True, "preload": True}
    with Gateway(models, {"tls": {"hsts": hsts}}) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("path", "status"), [("/models/m/x", 200), ("/models/absent/x", 404), ("/v1/models", 200), ("/nothing", 404)]
)
def test_every_answer_has_it_once(gateway: Gateway, path: str, status: int) -> None:
    with gateway.client() as client:
        answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers.get_list(FIELD) == ["max-age=63072000; includeSubDomains; preload"]


def test_a_routes_own_rule_wins(gateway: Gateway) -> None:
    with gateway.client() as client:
        assert client.get("/models/other/x").headers.get_list(FIELD) == ["max-age=2"]


def test_without_it_a_model_servers_own_is_passed_on(upstream: RawUpstream) -> None:
    with Gateway({"m": served([upstream.url])}) as gateway, gateway.client() as client:
        assert client.get("/models/m/x").headers.get_list(FIELD) == ["max-age=1"]
        assert FIELD not in client.get("/models/absent/x").headers
