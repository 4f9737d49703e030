"""What a key's own entry says, over real connections: limits over all models, methods, headers for model servers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.harness import Gateway, run_gateway, served, until
from tests.e2e.harness_upstream import RawUpstream, answering


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering(b"ok")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    told = {"name": "x-user", "owner": "x-team", "tier": "x-tier"}
    models = {
        "one": served([upstream.url]),
        "two": served([upstream.url], limits=[{"rate": "50/minute"}]),
        "hidden": served([upstream.url], hide=True),
        "public": served([upstream.url], auth=[]),
    }
    settings = {"auth": {"identity_headers": told}, "gateway": {"workers": 2}}
    with Gateway(models, settings) as gateway:
        yield gateway


def create(gateway: Gateway, name: str, *more: str) -> str:
    key = run_gateway("keys", "create", "--name", name, "--models", "*", *more, folder=gateway.folder).strip()
    assert gateway.reload() == []
    return key


def statuses(gateway: Gateway, key: str, *models: str, method: str = "GET") -> list[int]:
    """Each over a connection of its own, so that both workers are met."""

    def one(model: str) -> int:
        with gateway.client(headers={"authorization": f"Bearer {key}"}) as client:
            return int(client.request(method, f"/models/{model}/x").status_code)

    return [one(model) for model in models]


def test_a_keys_own_limit_counts_over_all_models_and_workers_and_only_for_it(gateway: Gateway) -> None:
    limited = create(gateway, "limited", "--limit", "3/hour")
    assert statuses(gateway, limited, "one", "two", "one", "two", "one") == [200, 200, 200, 429, 429]
    assert statuses(gateway, gateway.key, *["one"] * 5) == [200] * 5
    with gateway.client(headers={"authorization": f"Bearer {limited}"}) as client:
        answer = client.get("/models/one/x")
    assert (answer.status_code, "3 per 1 hour" in answer.text) == (429, True)
    assert int(answer.headers["retry-after"]) > 60


def test_a_changed_limit_counts_at_once_and_the_bucket_stays_with_the_key_when_it_is_rotated(gateway: Gateway) -> None:
    create(gateway, "rotated", "--limit", "2/hour")
    first = run_gateway("keys", "rotate", "rotated", folder=gateway.folder).strip()
    assert gateway.reload() == []
    assert statuses(gateway, first, "one", "one") == [200, 200]
    second = run_gateway("keys", "rotate", "rotated", folder=gateway.folder).strip()
    assert gateway.reload() == []
    assert statuses(gateway, second, "one") == [429]


def test_a_keys_requests_at_one_time_are_limited(gateway: Gateway) -> None:
    def hang(connection: object) -> None:
        connection.read_request()  # type: ignore[attr-defined]
        connection.hang()  # type: ignore[attr-defined]

    key = create(gateway, "crowded", "--in-flight", "1")
    with RawUpstream(hang) as slow:
        assert gateway.reload({**gateway.config["models"], "slow": served([slow.url])}) == []
        with ThreadPoolExecutor() as pool, gateway.raw() as client:
            client.send(f"GET /models/slow/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
            until(lambda: slow.requests, "the first request")
            assert pool.submit(statuses, gateway, key, "one").result() == [429]
        until(lambda: statuses(gateway, key, "one") == [200], "the end of the first request")


def test_a_key_may_call_by_its_methods_only(gateway: Gateway) -> None:
    reader = create(gateway, "reader", "--method", "GET", "--method", "HEAD")
    assert statuses(gateway, reader, "one", "hidden") == [200, 200]
    assert statuses(gateway, reader, "one", "hidden", method="POST") == [403, 404]


def test_the_model_server_is_told_who_a_key_is_and_by_nobody_else(gateway: Gateway, upstream: RawUpstream) -> None:
    key = create(gateway, "told", "--owner", "team-a", "--metadata", "tier=gold")
    lies = {"x-user": "root", "X_Team": "root", "x-tier": "platinum"}
    for headers in ({"authorization": f"Bearer {key}", **lies}, {"x-api-key": key, **lies, "connection": "x-user"}):
        with gateway.client(headers=headers) as client:
            assert client.get("/models/one/x").status_code == 200
        told = upstream.requests[-1]
        found = [told.all(name) for name in ("x-user", "x-team", "x_team", "x-tier")]
        assert found == [["told"], ["team-a"], [], ["gold"]]
    with gateway.client(headers=lies) as client:
        assert client.get("/models/public/x").status_code == 200
    assert upstream.requests[-1].all("x-user") == []
