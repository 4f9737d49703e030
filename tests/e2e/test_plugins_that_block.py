"""A plugin that blocks its worker's loop: who it was is said, and the worker is replaced where that is wanted."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.e2e.harness import Gateway, served, temporary_folder, until
from tests.e2e.harness_upstream import RawUpstream, answering

SLEEPY = """
import time


class Sleepy:
    def __init__(self, app, seconds):
        self.app, self.seconds = app, seconds

    async def __call__(self, scope, receive, send):
        if scope["query_string"] == b"sleep":
            time.sleep(self.seconds)
        await self.app(scope, receive, send)
"""


def folder() -> Path:
    found = temporary_folder("gateway-")
    (found / "plugins").mkdir()
    (found / "plugins" / "sleepy.py").write_text(SLEEPY)
    return found


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering()) as upstream:
        yield upstream


def gateway(upstream: RawUpstream, seconds: float, watchdog: dict[str, str]) -> Gateway:
    models = {"m": served([upstream.url], auth=[], plugins=[{"use": "plugins.sleepy.Sleepy", "seconds": seconds}])}
    return Gateway(models, {"gateway": {"watchdog": watchdog}}, folder=folder())


def test_where_it_blocks_is_logged_once_with_its_name_and_counted(upstream: RawUpstream) -> None:
    with gateway(upstream, 2.0, {"stall": "500ms"}) as running, running.client() as client:
        assert client.get("/models/m/x?sleep").status_code == 200
        assert client.get("/models/m/x").status_code == 200
        until(lambda: "the loop turns again" in running.err.read_text(), "the loop's turning")
        log = running.err.read_text()
        assert log.count("held up by plugins.sleepy.Sleepy; it stands in") == 1
        assert "time.sleep(self.seconds)" in log
        counted = 'gateway_loop_stalls_total{plugin="plugins.sleepy.Sleepy"} 1.0'
        until(lambda: counted in running.metrics(), "the count")
        assert len(running.pids()) == 1


def test_a_worker_that_does_not_come_back_is_replaced_if_the_operator_says_so(upstream: RawUpstream) -> None:
    with gateway(upstream, 300.0, {"stall": "500ms", "kill": "1500ms"}) as running, running.client() as client:
        (before,) = running.pids()
        with pytest.raises(httpx2.TransportError):
            client.get("/models/m/x?sleep")
        until(lambda: running.pids() and running.pids() != [before], "the successor")
        assert client.get("/models/m/x").status_code == 200
        assert "the worker is ended" in running.err.read_text()


def test_ending_it_needs_a_time_that_is_not_shorter(upstream: RawUpstream) -> None:
    with gateway(upstream, 1.0, {}) as running:
        # It is the process's: it takes effect with the next start, but what is wrong with it is said at once.
        problems = running.reload(settings={"gateway": {"watchdog": {"stall": "2s", "kill": "1s"}}})
        assert "`kill` needs a `stall` that is not longer" in problems[0]
