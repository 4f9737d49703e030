"""SIGUSR2: a new master takes over the sockets and the shared memory, and nobody's request notices."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.harness import DemoModel, Gateway, children_of, served, until
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


SLOW = """
import pathlib, time

class Slow:
    def __init__(self, app):
        self.app = app
        while pathlib.Path("slow").exists():
            time.sleep(0.05)

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
"""


def test_a_successor_that_hangs_and_dies_leaves_its_predecessor_serving_and_another_takes_over(
    demo: DemoModel,
) -> None:
    with Gateway({"demo": served([demo.url])}, {"gateway": {"workers": 2, "shutdown": {"grace": "30s"}}}) as gateway:
        (gateway.folder / "plugins").mkdir()
        (gateway.folder / "plugins" / "slow.py").write_text(SLOW)
        (gateway.folder / "slow").touch()
        before = {*children_of(gateway.pid)}
        text = (gateway.folder / "routes.yaml").read_text()
        with Load(gateway, rate=100, connections=8, streams=4, tokens=40) as load:
            # Behind the controller's back, which would hang in it as well: it ends before the successor reads the file.
            gateway.popen.send_signal(signal.SIGUSR2)
            (gateway.folder / "routes.yaml").write_text(text + "plugins: [{use: plugins.slow.Slow}]\n")
            (successor,) = until(lambda: {*children_of(gateway.pid)} - before, "the successor")
            load.run_for(0.5)
            os.kill(successor, signal.SIGKILL)
            until(lambda: "goes on" in gateway.output, "word of its end", 20)
            (gateway.folder / "slow").unlink()
            gateway.wait_ready()
            gateway.popen.send_signal(signal.SIGUSR2)
            assert gateway.popen.wait(30) == 0
            load.run_for(0.5)
        assert load.failures == []
        assert serving(gateway) not in (gateway.pid, successor)
        end(gateway)


def test_a_stop_during_a_handover_ends_both(demo: DemoModel) -> None:
    with Gateway({"demo": served([demo.url])}, {"gateway": {"workers": 2}}) as gateway:
        before = {*children_of(gateway.pid)}
        gateway.popen.send_signal(signal.SIGUSR2)
        until(lambda: {*children_of(gateway.pid)} - before, "the successor")
        gateway.popen.send_signal(signal.SIGTERM)
        assert gateway.popen.wait(30) == 0
        until(lambda: not gateway.members(), "the successor's end", 20)


def test_a_successor_takes_over_from_a_master_that_is_killed_while_it_starts(demo: DemoModel) -> None:
    with Gateway({"demo": served([demo.url])}, {"gateway": {"workers": 2, "shutdown": {"grace": "30s"}}}) as gateway:
        before = {*children_of(gateway.pid)}
        with Load(gateway, rate=50, connections=8, streams=2, tokens=40) as load:
            gateway.popen.send_signal(signal.SIGUSR2)
            (successor,) = until(lambda: {*children_of(gateway.pid)} - before, "the successor")
            gateway.popen.kill()
            gateway.popen.wait()
            until(lambda: serving(gateway) == successor, "its taking over")
            load.run_for(0.5)
        assert load.failures == []
        end(gateway)
