"""Processes that die: who notices, what is lost, what is not."""

import os
import resource
import select
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from gateway.server.state import ensure_secret
from tests.e2e.harness import DemoModel, Gateway, served, temporary_folder, until
from tests.e2e.harness_load import READY, Load, worker_of
from tests.e2e.harness_upstream import RawUpstream, hanging, saying_once, streaming

DEADLY = '''
import os, signal
from gateway.stores.table import BucketTable

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Deadly:
    """A request with x-die ends its worker inside a bucket's lock."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if (b"x-die", b"1") in scope["headers"]:
            BucketTable.take_one = die
        await self.app(scope, receive, send)
'''


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel(delay=0.05) as demo:
        yield demo


@pytest.fixture(scope="module")
def gateway(demo: DemoModel) -> Iterator[Gateway]:
    """Two workers before one demo model."""
    with Gateway({"demo": served([demo.url])}, {"gateway": {"workers": 2}}) as gateway:
        yield gateway


def kill(gateway: Gateway, pid: int) -> float:
    """Kill a worker; -> seconds until its successor serves."""
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(gateway.pids()) - {pid}) == 2, "the successor")
    return time.monotonic() - began


def test_a_killed_worker_is_replaced_and_only_its_own_connections_fail(gateway: Gateway) -> None:
    with Load(gateway, rate=150, connections=16, streams=8) as load:
        seconds = kill(gateway, gateway.pids()[0])
        at = time.monotonic()
        load.run_for(0.5)
    # A request in flight, or sent before the news of the end came, is lost with the worker; nothing else is.
    before = {answer.worker for answer in load.answers if answer.at < at - seconds} - {""}
    victim = before - {answer.worker for answer in load.since(at)}
    assert (len(before), len(victim)) == (2, 1)
    assert {answer.worker for answer in load.answers if answer.problem} <= victim
    assert {cut.worker for cut in load.cuts} == victim
    assert seconds < 1.0 or kill(gateway, gateway.pids()[0]) < 1.0  # the machine may be busy, but not twice
    until(lambda: gateway.in_flight() == 0, "the return of what the dead held")


def test_connections_spread_over_the_workers(gateway: Gateway) -> None:
    """The kernel chooses by a hash: of 100 connections, fewer than 25 on one of two workers is 5 sigma away."""

    def ask(_: int) -> str:
        with gateway.client() as client:
            return worker_of(client.get(READY).headers["x-request-id"])

    with ThreadPoolExecutor(8) as pool:
        counts = Counter(pool.map(ask, range(100)))
    assert len(counts) == 2
    assert min(counts.values()) >= 25, counts


def test_a_dead_controller_comes_back_and_traffic_never_notices(gateway: Gateway, demo: DemoModel) -> None:
    with (
        # Down after its one bad check; what comes back asks again, and gets no answer before the test is over.
        RawUpstream(saying_once(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"), hanging) as lame,
        Load(gateway, rate=100, streams=2) as load,
    ):
        health = {"path": "/v2/health/ready", "interval": "30s", "timeout": "20s", "fall": 1}
        assert gateway.reload({"demo": served([demo.url, lame.url], health=health)}) == []
        until(lambda: healths(gateway) == {demo.url: "up", lame.url: "down"}, "the checks")
        before = gateway.controller_pid()
        os.kill(before, signal.SIGKILL)
        until(lambda: back(gateway, before), "the controller's return")
        assert healths(gateway) == {demo.url: "up", lame.url: "down"}
        assert gateway.reload({"demo": served([demo.url])}) == []
        load.run_for(0.3)
    assert load.failures == []
    assert "Traceback" not in gateway.output


def test_what_changed_while_there_was_no_controller_is_noticed(gateway: Gateway, demo: DemoModel) -> None:
    pid = gateway.controller_pid()
    os.kill(pid, signal.SIGSTOP)
    gateway.write({"demo": served([demo.url]), "new": served([demo.url])})
    os.kill(pid, signal.SIGKILL)
    with gateway.client() as client:
        until(lambda: client.get("/models/new/x").status_code == 200, "the new model")
    gateway.write({"demo": served([demo.url])})


def healths(gateway: Gateway) -> dict[str, str]:
    versions = [version for model in gateway.status()["models"] for version in model["versions"]]
    return {endpoint["url"]: endpoint["health"] for version in versions for endpoint in version["endpoints"]}


def back(gateway: Gateway, before: int) -> bool:
    """The admin port answers, and not from the queue of the process that is dead."""
    try:
        return gateway.is_ready() and gateway.controller_pid() != before
    except (httpx2.TransportError, ValueError):
        return False


def test_a_worker_that_dies_inside_a_buckets_lock_blocks_nobody(demo: DemoModel, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "deadly.py").write_text(DEADLY)
    model = served([demo.url], limits=[{"rate": "1000/minute"}])
    settings = {"gateway": {"workers": 2}, "plugins": [{"use": "plugins.deadly.Deadly"}]}
    plain = {"GATEWAY_COMPILED": "0"}  # what is compiled calls its own, whatever a plugin puts in its place
    with Gateway({"demo": model}, settings, folder=tmp_path, env=plain) as gateway:
        with gateway.client() as client, pytest.raises(httpx2.TransportError):
            client.get(READY, headers={"x-die": "1"})
        for _ in range(8):  # whichever worker these reach
            with gateway.client() as client:
                assert client.get(READY, timeout=2).status_code == 200
        assert "ended with -9" in gateway.output


def test_a_worker_is_replaced_though_neither_its_counts_nor_its_log_can_be_written(demo: DemoModel) -> None:
    """As on a disk that is full or read-only: the listener of one that cannot start would let half of all wait."""
    settings = {"gateway": {"workers": 2, "access_log": {"path": "logs/access.log"}}}
    folder = temporary_folder("gateway-")
    (folder / "logs").mkdir()
    with Gateway({"demo": served([demo.url])}, settings, folder=folder) as gateway:
        (folder / "logs").rename(folder / "moved")
        (folder / ".gateway" / "metrics").rename(folder / "metrics")
        (folder / ".gateway" / "metrics").write_text("no folder")
        kill(gateway, gateway.pids()[0])
        for _ in range(20):
            with gateway.client() as client:
                assert client.get(READY).status_code == 200


def test_children_of_a_killed_master_finish_what_runs_and_end(demo: DemoModel) -> None:
    with (
        RawUpstream(streaming([b"1"] * 20, every=0.05)) as slow,
        Gateway({"demo": served([slow.url])}, {"gateway": {"workers": 2}}) as gateway,
        gateway.client() as client,
    ):
        with client.stream("GET", READY) as response:
            gateway.popen.kill()
            assert response.read().count(b"data: 1") == 20
        gateway.popen.wait()
        until(lambda: not gateway.members(), "the children's end", 5)
        assert "Traceback" not in gateway.output


def test_processes_that_are_not_its_own_do_not_disturb_the_master(demo: DemoModel) -> None:
    """Orphans become children of a container's first process, and so do those of the shell that became the gateway."""
    shell = ["sh", "-c", 'sleep 0.2 & sleep 2 & exec "$@"', "sh"]
    with Gateway({"demo": served([demo.url])}, prefix=shell) as gateway:
        os.kill(gateway.pids()[0], signal.SIGKILL)
        until(lambda: "is replaced" in gateway.output, "the news of the worker's end")
        gateway.check_alive()
        assert gateway.stop() == 0


def test_what_waits_for_a_worker_that_died_is_accepted_by_its_successor(demo: DemoModel) -> None:
    with Gateway({"demo": served([demo.url])}) as gateway:
        (pid,) = gateway.pids()
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(ask, gateway) for _ in range(4)]
            until(lambda: waiting(gateway.port) >= 4, "the connections to wait")
            os.kill(pid, signal.SIGKILL)
            assert [answer.result() for answer in answers] == [200] * 4


def test_what_came_while_a_worker_stood_still_is_read_before_anything_is_overdue() -> None:
    """As in a container that was frozen: its streams were cut, and their endpoint left out as one that fails."""
    with (
        RawUpstream(streaming([b"1"] * 60, every=0.05)) as upstream,
        Gateway({"demo": served([upstream.url], timeouts={"idle": "1s"})}) as gateway,
        gateway.client() as client,
        ExitStack() as stack,
    ):
        streams = [stack.enter_context(client.stream("GET", READY)) for _ in range(6)]
        (pid,) = gateway.pids()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)
        assert [stream.read().count(b"data: 1") for stream in streams] == [60] * 6
        assert "left out" not in gateway.output


def ask(gateway: Gateway) -> int:
    with gateway.client() as client:
        return int(client.get(READY).status_code)


def waiting(port: int) -> int:
    """Connections in the queue of a listening socket (proc(5): rx_queue of a socket in state 0A)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == "0A" and local.endswith(f":{port:04X}"):
            return int(queues.partition(":")[2], 16)
    return 0


def test_a_worker_takes_a_dead_ones_place_though_the_folder_of_state_was_emptied(demo: DemoModel) -> None:
    with Gateway({"demo": served([demo.url], sticky={"cookie": "gw_session"})}) as gateway:
        state = gateway.folder / ".gateway"
        secret = (state / "session.secret").read_bytes()
        shutil.rmtree(state)
        old = gateway.pids()[0]
        os.kill(old, signal.SIGKILL)
        until(lambda: gateway.pids() not in ([], [old]), "the successor")
        assert gateway.client().get(READY).status_code == 200
        assert (state / "session.secret").read_bytes() == secret
        assert (state / "gateway.pid").read_text() == f"{gateway.pid}\n"
        assert (state.stat().st_mode & 0o777, (state / "session.secret").stat().st_mode & 0o777) == (0o700, 0o600)
        until((state / "metrics" / "worker-0").exists, "the counts")


def test_a_full_disk_leaves_no_secret_with_which_no_gateway_would_start(tmp_path: Path) -> None:
    secret, (soft, hard) = tmp_path / "session.secret", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError):
            ensure_secret(secret, b"s" * 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not secret.exists()
    ensure_secret(secret, b"s" * 64)
    ensure_secret(secret, b"another")
    assert (secret.read_bytes(), secret.stat().st_mode & 0o777) == (b"s" * 64, 0o600)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_gateway_whose_standard_output_is_closed_serves(demo: DemoModel, closed: str) -> None:
    """Also with the log there: it must not be written into what was opened next."""
    with Gateway({"demo": served([demo.url])}, prefix=["sh", "-c", f'exec "$@" {closed}', "sh"]) as gateway:
        assert ask(gateway) == 200
        first = [os.readlink(f"/proc/{gateway.pids()[0]}/fd/{number}") for number in range(3)]
        assert first[1] == "/dev/null"
        assert "socket" not in str(first)


def test_a_log_that_nobody_reads_any_more_holds_up_neither_the_master_nor_a_worker(demo: DemoModel) -> None:
    folder = temporary_folder("gateway-")
    os.mkfifo(folder / "log")
    reader = os.open(folder / "log", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(folder / "log", os.O_WRONLY | os.O_NONBLOCK)
    with Gateway({"demo": served([demo.url])}, folder=folder, prefix=["sh", "-c", 'exec "$@" 2>log', "sh"]) as gateway:

        def replace_worker() -> None:
            (old,) = gateway.pids()
            os.kill(old, signal.SIGKILL)
            until(lambda: gateway.pids() not in ([], [old]), "the successor")

        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, bytes(select.PIPE_BUF))
        replace_worker()
        assert ask(gateway) == 200
        os.read(reader, 2**20)
        replace_worker()
        assert b"(nobody read this log: 1 messages are lost)" in os.read(reader, 2**20)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, bytes(select.PIPE_BUF))
        assert gateway.stop() == 0
    os.close(reader)
    os.close(writer)


def test_a_gateway_says_that_its_folder_of_state_is_anothers(demo: DemoModel) -> None:
    """A worker of the one could start with the models of the other."""
    model = {"demo": served([demo.url])}
    with Gateway(model) as gateway:
        state = gateway.folder / ".gateway"
        assert "another gateway's" not in gateway.output
        with Gateway(model, {"gateway": {"state_dir": str(state)}}) as other:
            assert f"{state} is another gateway's, which runs" in other.output
    with Gateway(model, {"gateway": {"state_dir": str(state)}}) as third:
        assert "another gateway's" not in third.output
