"""A real model server behind the gateway: two versions of a scikit-learn model on three MLServers, called through HTTPS
with Triton's client and with plain HTTP; then one of the servers is killed, and comes back.

The first run installs MLServer into .cache/mlserver (half a minute); later runs find it there.
"""

import fcntl
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import ROOT, Gateway, Process, temporary_folder, until
from tests.ports import free_port

HERE = ROOT / "tests" / "e2e" / "mlserver"
CACHE = ROOT / ".cache" / "mlserver"
INTERVAL, TIMEOUT, FALL = 0.2, 1.0, 2  # of the health checks, in seconds
NOTICED = (INTERVAL + TIMEOUT) * FALL  # the longest that health checks may take to find a server gone

pytestmark = pytest.mark.timeout(300)  # the first run downloads


def environment() -> Path:
    """The Python of MLServer's virtual environment, which is made if it is absent or outdated."""
    requirements = HERE / "requirements.txt"
    stamp = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    python = CACHE / "venv" / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = CACHE / "installed"
        if not done.exists() or done.read_text() != stamp:
            done.unlink(missing_ok=True)
            shutil.rmtree(CACHE / "venv", ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(CACHE / "venv")], check=True)
            pip = [str(python), "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
            subprocess.run([*pip, "-r", str(requirements)], check=True)
            done.write_text(stamp)
    return python


def run(python: Path, script: str, *arguments: object) -> str:
    command = [str(python), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class MLServer:
    """One MLServer with one version of the model; it can be killed and started again on its port."""

    def __init__(self, python: Path, models: Path, version: str) -> None:
        self.python = python
        self.folder = temporary_folder(f"mlserver-{version}-")
        self.port, self.metrics_port = free_port(), free_port()
        ports = {"http_port": self.port, "grpc_port": free_port(), "metrics_port": self.metrics_port}
        # parallel_workers 0: the model runs in the server's own process, so that killing one process kills it all
        settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
        parameters = {"uri": str(models / f"{version}.joblib"), "version": version}
        model = {"name": "iris", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / "model-settings.json").write_text(json.dumps(model))
        self.start()

    def start(self) -> None:
        command = [str(self.python.parent / "mlserver"), "start", str(self.folder)]
        self.process = Process(f"mlserver-{self.port}", command, self.folder, {"PYTHONPATH": ""})

    def kill(self) -> None:
        self.process.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_ready(self) -> bool:
        self.process.check_alive()
        try:
            return httpx2.get(f"{self.url}/v2/models/iris/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def answered(self) -> int:
        """Inferences since its start, by its own count."""
        text = httpx2.get(f"http://127.0.0.1:{self.metrics_port}/metrics").text
        counts = re.findall(r'^rest_server_requests_total\{.*infer".* (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, counts)))


@dataclass
class Scene:
    """Servers 0 and 1 have v1, server 2 has v2; a quarter of what names no version goes to v2."""

    python: Path
    gateway: Gateway
    servers: list[MLServer]
    models: Path
    expected: dict[str, list[Any]]

    def infer(self, client: httpx2.Client, path: str = "/v2/models/iris/infer") -> httpx2.Response:
        samples = self.expected["samples"]
        flat = [value for row in samples for value in row]
        tensor = {"name": "x", "shape": [len(samples), 4], "datatype": "FP64", "data": flat}
        return client.post(path, json={"inputs": [tensor]})


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    python = environment()
    models = temporary_folder("models-")
    run(python, "train.py", models)
    expected = json.loads((models / "expected.json").read_text())
    with ExitStack() as stack:
        servers = [MLServer(python, models, version) for version in ("v1", "v1", "v2")]
        for server in servers:
            stack.callback(server.kill)
        for server in servers:
            until(server.is_ready, "an MLServer's start", 60)
        one, two, three = (server.url for server in servers)
        health = {"path": "/v2/health/ready", "rise": 1, "fall": FALL}
        iris = {
            "health": health | {"interval": f"{INTERVAL}s", "timeout": f"{TIMEOUT}s"},
            "balance": {"policy": "round_robin"},
            "versions": {"v1": {"endpoints": [one, two], "weight": 75}, "v2": {"endpoints": [three], "weight": 25}},
        }
        gateway = stack.enter_context(Gateway({"iris": iris}, {"gateway": {"workers": 2}}))
        yield Scene(python, gateway, servers, models, expected)


def predictions(answer: httpx2.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    found: list[int] = output["data"]
    return found


def test_the_two_versions_disagree_so_that_the_tests_can_tell_them_apart(scene: Scene) -> None:
    assert scene.expected["v1"] != scene.expected["v2"]


def test_tritons_clients_get_the_right_predictions_and_errors_over_tls(scene: Scene) -> None:
    gateway = scene.gateway
    address = f"localhost:{gateway.port}"
    found = json.loads(
        run(scene.python, "triton.py", address, gateway.ca_file, gateway.key, scene.models / "expected.json")
    )
    v1, v2 = scene.expected["v1"], scene.expected["v2"]
    assert (found["v1"], found["v2"], found["zipped"]) == (v1, v2, v2)
    assert (found["v1 name"], found["v2 name"], found["metadata"]) == ("v1", "v2", "iris")
    assert found["parallel"] == [v2] * 8
    assert found["asyncio"] == [v1, v2] * 10
    assert found["v1 ready"] is found["v2 ready"] is found["live"] is True
    assert [found[case]["status"] for case in ("no key", "no model", "no version")] == ["401", "404", "404"]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("path", ["/v2/models/iris/versions/{}/infer", "/models/iris/versions/{}/v2/models/iris/infer"])
def test_plain_http_reaches_the_version_that_the_path_names(scene: Scene, path: str, version: str) -> None:
    with scene.gateway.client() as client:
        assert predictions(scene.infer(client, path.format(version))) == scene.expected[version]


def test_what_names_no_version_is_split_by_the_weights_and_over_the_servers_of_a_version(scene: Scene) -> None:
    count = 600
    before = [server.answered() for server in scene.servers]
    with scene.gateway.client() as client:
        answers = [predictions(scene.infer(client)) for _ in range(count)]
    second = answers.count(scene.expected["v2"])
    assert answers.count(scene.expected["v1"]) + second == count
    # Binomial(600, 1/4) has a standard deviation of 10.6; five of them are missed once in two million runs.
    assert abs(second - count / 4) <= 53
    shares = [server.answered() - earlier for server, earlier in zip(scene.servers, before, strict=True)]
    assert sum(shares) == count
    assert shares[2] == second
    assert abs(shares[0] - shares[1]) <= 4  # round robin, in each worker


@contextmanager
def traffic(scene: Scene) -> Iterator[Callable[[], list[tuple[float, int]]]]:
    """Inferences of v1 one after another, meanwhile; yields what gives (when it began, status) of those so far;
    a status of 0 is a connection that ended."""
    seen: list[tuple[float, int]] = []
    stop = threading.Event()

    def ask() -> None:
        with scene.gateway.client() as client:
            while not stop.is_set():
                began, status = time.monotonic(), 0
                with suppress(httpx2.TransportError):  # an answer that had begun can only be broken off
                    status = scene.infer(client, "/v2/models/iris/versions/v1/infer").status_code
                seen.append((began, status))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield lambda: list(seen)
    finally:
        stop.set()
        thread.join()


def test_a_killed_servers_requests_move_on_and_it_gets_work_again_when_it_is_back(scene: Scene) -> None:
    victim, other = scene.servers[0], scene.servers[1]
    with traffic(scene) as seen:
        until(lambda: len(seen()) > 20, "some traffic")
        earlier = other.answered()
        victim.kill()
        killed = time.monotonic()
        until(lambda: seen()[-1][0] > killed + NOTICED + 1.0, "a second of traffic without the server")
        after = [status for began, status in seen() if began > killed]
        assert len(after) > 20
        assert other.answered() - earlier >= len(after) - 1  # one may still be under way
        victim.start()
        until(victim.is_ready, "the server's return", 60)
        until(lambda: victim.answered() > 5, "work for the server that is back", NOTICED + 5)
        back = time.monotonic()
        until(lambda: seen()[-1][0] > back + 0.5, "half a second of traffic")
    # The one that was under way when the server died may have been acted upon: it is not sent twice. No other fails.
    assert len([status for _, status in seen() if status != 200]) <= 1
    assert [status for began, status in seen() if began > killed and status != 200] == []
