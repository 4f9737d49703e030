"""Failed attempts to authenticate, over real connections and all workers."""

from collections.abc import Iterator

import pytest

from tests.e2e.harness import DemoModel, Gateway, served

READY = "/models/demo/v2/health/ready"
BAD = "gw_aaaaaaaaaa_bad"


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel() as demo:
        yield demo


def statuses(gateway: Gateway, credential: str, count: int, path: str = READY) -> list[int]:
    """Of requests on connections of their own, so that every worker has some."""
    found = []
    for _ in range(count):
        with gateway.client(headers={"authorization": f"Bearer {credential}"}) as client:
            found.append(int(client.get(path).status_code))
    return found


def test_guessing_is_slowed_down_in_all_workers_and_a_good_key_is_taken_all_the_while(demo: DemoModel) -> None:
    models = {"demo": served([demo.url]), "hidden": served([demo.url], hide=True)}
    settings = {"gateway": {"workers": 2}, "auth": {"failures": {"rate": "6/hour", "ban": "1m"}}}
    with Gateway(models, settings) as gateway:
        assert statuses(gateway, BAD, 3) == [401] * 3
        assert statuses(gateway, BAD, 3, "/v1/models") == [401] * 3
        assert statuses(gateway, BAD, 6) == [429] * 6
        assert statuses(gateway, BAD, 2, "/v1/models") == [429] * 2
        assert statuses(gateway, BAD, 2, "/models/hidden/v2/health/ready") == [404] * 2
        assert statuses(gateway, gateway.key, 6) == [200] * 6
        with gateway.client(headers={}) as client:
            assert client.get(READY).status_code == 401, "who offers nothing has failed at nothing"
        assert "too many failed attempts from" in gateway.output
        assert BAD not in gateway.output
        assert gateway.reload(settings={"auth": {"failures": {"rate": None}}}) == []
        assert statuses(gateway, BAD, 9) == [401] * 9
