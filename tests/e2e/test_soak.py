"""A gateway under 70 % of the load that it can carry, while clients leave, model servers die and come back, and the
configuration changes all the time: no request fails, and afterwards memory, file descriptors and tasks are back where
they were. `pytest -m slow -k 20 -s tests/e2e/test_soak.py` takes a minute; the real one takes ten.
"""

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import DemoModel, Gateway, served, until
from tests.e2e.harness_load import Load
from tests.e2e.harness_usage import MIB, descriptors, private
from tests.e2e.harness_wire import Truncated, Wire

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SERVERS = 3
SHARE = 0.7  # of the load that it can carry
# A plugin of the test's own, in front of a model that nobody else asks: what only the process itself can tell. What a
# connection leaves behind waits for Python's collector, 20 to 40 KiB each: what is left when that has run counts.
TASKS = """
import asyncio, ctypes, gc, os
from starlette.responses import JSONResponse

class Tasks:
    def __init__(self, app):
        pass

    async def __call__(self, scope, receive, send):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        found = {"pid": os.getpid(), "tasks": len(asyncio.all_tasks()) - 1}  # without its own
        await JSONResponse(found, headers={"connection": "close"})(scope, receive, send)
"""


@dataclass(frozen=True)
class Use:
    """What the processes use: the controller and the workers, by process id."""

    memory: dict[int, int]
    descriptors: dict[int, int]
    tasks: dict[int, int]  # of the workers

    def __str__(self) -> str:
        mib = {pid: round(size / MIB, 1) for pid, size in self.memory.items()}
        return f"private memory in MiB {mib}, file descriptors {self.descriptors}, tasks {self.tasks}"


@dataclass
class Churn:
    """Everything that does not stay as it is, each in a thread of its own, again and again until the end."""

    gateway: Gateway
    servers: list[DemoModel]
    count: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def leave(self, dice: random.Random) -> None:
        """A client that leaves: in its handshake, in its request, or in the middle of a stream."""
        with suppress(OSError):  # it was too slow for itself
            self._leave(dice)

    def _leave(self, dice: random.Random) -> None:
        if dice.random() < 0.2:
            with socket.create_connection(("127.0.0.1", self.gateway.port)) as sock:
                sock.sendall(b"\x16\x03\x01")
            return
        body = {"model": "demo", "stream": True, "max_tokens": 500, "ignore_eos": True}
        data = json.dumps(body | {"messages": [{"role": "user", "content": "go " * dice.randrange(2000)}]}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.gateway.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        ).encode()
        with self.gateway.raw() as wire:
            if dice.random() < 0.3:
                wire.send(head + data[: len(data) // 2])
            else:
                wire.send(head + data)
                self._read_some(wire, dice)
            if dice.random() < 0.5:
                wire.reset()

    def _read_some(self, wire: Wire, dice: random.Random) -> None:
        with suppress(Truncated):  # its model server died
            status = wire.read_head().status
            if status not in (200, 502, 503):  # 502: it died before it answered; a POST is not sent twice
                self.problems.append(f"a stream was answered {status}")
            for _ in range(dice.randrange(20)):
                wire.read_until(b"\r\n")

    def restart(self, dice: random.Random) -> None:
        """A model server that dies and comes back on its port."""
        index = dice.randrange(SERVERS)
        port = self.servers[index].port
        self.servers[index].kill()
        time.sleep(dice.uniform(0.0, 1.0))
        self.servers[index] = DemoModel(port=port, delay=0.01)
        time.sleep(2.0)

    def reload(self, dice: random.Random) -> None:
        self.problems += self.gateway.reload(models(self.servers, dice.randrange(1000)))
        time.sleep(1.0)

    def __enter__(self) -> "Churn":
        self.threads = [
            threading.Thread(target=self._again_and_again, args=(what, seed), daemon=True)
            for seed, what in enumerate([self.leave, self.leave, self.restart, self.reload])
        ]
        for thread in self.threads:
            thread.start()
        return self

    def _again_and_again(self, what: Callable[[random.Random], None], seed: int) -> None:
        dice = random.Random(seed)
        while not self.is_over.wait(0.02):
            try:
                what(dice)
            except Exception as error:
                self.problems.append(f"{what.__name__}: {error!r}")
            self.count[what.__name__] = self.count.get(what.__name__, 0) + 1

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join(60)


def models(servers: list[DemoModel], number: int) -> dict[str, Any]:
    """Another configuration for each number: a field, a version, a model."""
    often = {"path": "/v2/health/ready", "interval": "500ms", "timeout": "2s", "rise": 1, "fall": 2}
    demo = served(
        [server.url for server in servers],
        health=often,
        balance={"policy": "least_connections"},
        ejection={"time": "500ms"},  # each dies every few seconds: with the default's growing times all would be out
        retry={"attempts": 3, "when": ["unsent", "broken"]},
        headers={"response": {"set": {"x-number": str(number)}}},
    )
    demo["versions"][f"spare{number % 7}"] = {"endpoints": [f"http://127.0.0.1:{1 + number % 5}"]}
    demo["default_version"] = "v1"
    tasks = served([servers[0].url], auth=[], plugins=[{"use": "plugins.tasks.Tasks"}])
    return {"demo": demo, "tasks": tasks, f"other{number % 3}": served([servers[0].url])}


@pytest.fixture
def servers() -> Iterator[list[DemoModel]]:
    servers = [DemoModel(delay=0.01) for _ in range(SERVERS)]
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def gateway(servers: list[DemoModel], tmp_path: Any) -> Iterator[Gateway]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "tasks.py").write_text(TASKS)
    settings = {"gateway": {"workers": 2, "access_log": {"path": "access.log"}}}
    with Gateway(models(servers, 0), settings, folder=tmp_path) as gateway:
        yield gateway


def use(gateway: Gateway) -> Use:
    workers = gateway.pids()
    pids = [gateway.controller_pid(), *workers]
    running = tasks(gateway, workers)
    time.sleep(1.0)  # until those who asked have left
    return Use({pid: private(pid) for pid in pids}, {pid: descriptors(pid) for pid in pids}, running)


def tasks(gateway: Gateway, workers: list[int]) -> dict[int, int]:
    """Asked over new connections, until each worker has got one."""
    found: dict[int, int] = {}

    def ask() -> bool:
        with gateway.raw() as wire:
            wire.send(b"GET /models/tasks/x HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = json.loads(wire.read_response().body)
        found[answer["pid"]] = answer["tasks"]
        return set(found) == set(workers)

    until(ask, "an answer of every worker", 60.0)
    return found


def rest(gateway: Gateway) -> None:
    """Wait until nothing is under way, and connections that nobody uses have been closed by either side."""
    until(lambda: gateway.in_flight() == 0, "no request under way", 60.0)
    time.sleep(5.0)


def carried(gateway: Gateway) -> float:
    """Requests a second that gateway and clients can do together on this machine now."""
    with Load(gateway, rate=100_000, connections=32) as load:
        load.run_for(3.0)
    assert load.failures == []
    return len(load.answers) / (load.answers[-1].at - load.answers[0].at)


def failed(log: Path) -> list[dict[str, Any]]:
    """What the gateway says of the load's requests that it did not answer with 200."""
    lines = map(json.loads, log.read_text().splitlines())
    return [line for line in lines if line["method"] == "GET" and line["status"] != 200]


@pytest.mark.parametrize("seconds", [20, 600])
def test_a_soak_leaves_nothing_behind_and_fails_no_request(
    gateway: Gateway, servers: list[DemoModel], seconds: int, tmp_path: Path
) -> None:
    rate = SHARE * carried(gateway)
    with Load(gateway, rate=rate, connections=32) as load, Churn(gateway, servers):
        load.run_for(max(8.0, seconds / 10))  # everything has happened once, every cache and pool has been filled
    rest(gateway)
    before = use(gateway)
    with Load(gateway, rate=rate, connections=32) as load, Churn(gateway, servers) as churn:
        load.run_for(seconds)
    rest(gateway)
    after = use(gateway)
    print(
        f"\n{len(load.answers)} requests at {rate:.0f}/s in {seconds} s, {len(load.failures)} failures, {churn.count}"
    )
    print(f"before: {before}\nafter:  {after}")
    assert load.failures == [], failed(tmp_path / "access.log")
    assert churn.problems == []
    assert after.memory.keys() == before.memory.keys(), "no process has died"
    for pid, size in after.memory.items():
        assert size - before.memory[pid] < 8 * MIB
        assert after.descriptors[pid] - before.descriptors[pid] <= 8
    assert after.tasks == before.tasks
