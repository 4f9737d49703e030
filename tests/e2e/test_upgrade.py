"""SIGUSR2: a new master takes over the sockets and the shared memory, and nobody's request notices."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.harness import DemoModel, Gateway, served, until
from tests.e2e.harness_load import Load


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel(delay=0.05) as demo:
        yield demo


def serving(gateway: Gateway) -> int:
    """The pid of the master that serves."""
    return int((gateway.folder / ".gateway" / "gateway.pid").read_text())


def end(gateway: Gateway) -> None:
    os.kill(serving(gateway), signal.SIGTERM)
    until(lambda: not gateway.members(), "the successor's end", 20)


def test_a_successor_takes_over_under_load_and_nobody_notices(demo: DemoModel) -> None:
    limits = [{"rate": "5/hour", "burst": 5, "per": "header:x-who"}]
    models = {"demo": served([demo.url]), "few": served([demo.url], limits=limits)}
    with Gateway(models, {"gateway": {"workers": 2, "shutdown": {"grace": "30s"}}}) as gateway:
        with gateway.client() as client:
            path, who = "/models/few/v2/health/ready", {"x-who": "somebody"}
            assert [client.get(path, headers=who).status_code for _ in range(3)] == [200] * 3
        with Load(gateway, rate=200, connections=16, streams=5, tokens=40) as load:
            gateway.popen.send_signal(signal.SIGUSR2)
            assert gateway.popen.wait(30) == 0
            load.run_for(0.5)
        assert load.failures == []
        assert load.ended >= 5
        assert serving(gateway) != gateway.pid
        with gateway.client() as client:  # the bucket was inherited: two are left
            assert [client.get(path, headers=who).status_code for _ in range(3)] == [200, 200, 429]
        end(gateway)


def test_a_successor_that_cannot_start_leaves_its_predecessor_serving(demo: DemoModel) -> None:
    with Gateway({"demo": served([demo.url])}) as gateway:
        good = (gateway.folder / "routes.yaml").read_text()
        (gateway.folder / "routes.yaml").write_text("modles: {}\n")
        gateway.popen.send_signal(signal.SIGUSR2)
        until(lambda: "goes on" in gateway.output, "word of the successor's end", 20)
        (gateway.folder / "routes.yaml").write_text(good)
        gateway.wait_ready()
        with gateway.client() as client:
            assert client.get("/models/demo/v2/health/ready").status_code == 200
        assert serving(gateway) == gateway.pid
        assert gateway.reload() == []
