"""A running gateway takes over what changes, all of it or nothing, and nobody's request notices."""

import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from gateway.tls import authority
from tests.e2e.harness import DemoModel, Gateway, gateway_command, run_gateway, served, temporary_folder, until
from tests.e2e.harness_load import READY, Answer, Load, worker_of
from tests.e2e.harness_upstream import Connection, RawUpstream, answering, response
from tests.e2e.harness_usage import MIB, private

PLUGIN = """
class Marker:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def marked(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-plugin", b"MARK")]
            await send(message)

        await self.app(scope, receive, marked)
"""


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel(delay=0.1) as demo:
        yield demo


@pytest.fixture(scope="module")
def gateway(demo: DemoModel) -> Iterator[Gateway]:
    """Two workers before one demo model."""
    with Gateway({"demo": served([demo.url])}, {"gateway": {"workers": 2}}) as gateway:
        (gateway.folder / "plugins").mkdir()
        yield gateway


@pytest.fixture
def model(gateway: Gateway, demo: DemoModel) -> Iterator[dict[str, Any]]:
    """The one that is served when a test begins, and when it has ended."""
    model = served([demo.url])
    yield model
    gateway.write({"demo": model})
    assert gateway.reload() == []


def marked(model: dict[str, Any], mark: str) -> dict[str, Any]:
    return {**model, "headers": {"response": {"set": {"x-mark": mark}}}}


def marks(gateway: Gateway, name: str = "x-mark") -> set[str | None]:
    """What answers of all workers are marked with."""
    found: dict[str, str | None] = {}
    while len(found) < 2:
        with gateway.client() as client:
            answer = client.get(READY)
        found[worker_of(answer.headers["x-request-id"])] = answer.headers.get(name)
    return set(found.values())


def command(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        gateway_command(*arguments), cwd=gateway.folder, capture_output=True, text=True, check=False, env=environment()
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def generation(gateway: Gateway) -> int:
    return int(gateway.status()["generation"])


def loaded(gateway: Gateway) -> set[int]:
    """The generations that workers serve."""
    return {worker["generation"] for worker in gateway.status()["workers"] if not worker["is_ending"]}


# --- what makes it happen ---------------------------------------------------------------------------------------------


def test_a_changed_file_is_noticed_by_every_worker_within_a_second(gateway: Gateway, model: dict[str, Any]) -> None:
    began = time.monotonic()
    gateway.write({"demo": marked(model, "noticed")})
    until(lambda: marks(gateway) == {"noticed"}, "the new configuration")
    assert time.monotonic() - began < 2.0


def test_sighup_reloads_even_if_nothing_seems_to_have_changed(gateway: Gateway) -> None:
    before = generation(gateway)
    gateway.popen.send_signal(signal.SIGHUP)
    until(lambda: min(loaded(gateway)) > before, "the next generation")


def test_the_command_waits_until_every_worker_serves_the_new_generation(
    gateway: Gateway, model: dict[str, Any]
) -> None:
    gateway.write({"demo": marked(model, "told")})
    done = command(gateway, "reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert marks(gateway) == {"told"}
    assert f"generation {generation(gateway)} serves" in done.stdout or generation(gateway) > 2  # the watcher's own


def test_changed_code_of_a_plugin_rolls_the_workers_and_cuts_nothing_off(
    gateway: Gateway, model: dict[str, Any]
) -> None:
    plugin = gateway.folder / "plugins" / "marker.py"
    plugin.write_text(PLUGIN.replace("MARK", "first"))
    assert gateway.reload({"demo": {**model, "plugins": [{"use": "plugins.marker.Marker"}]}}) == []
    assert marks(gateway, "x-plugin") == {"first"}
    before = gateway.pids()
    with Load(gateway, rate=80, connections=8, streams=10, tokens=60) as load:
        load.run_for(0.5)
        plugin.write_text(PLUGIN.replace("MARK", "second"))
        until(lambda: serving(gateway) and not serving(gateway) & {*before}, "two new workers")
        # An old one takes what had come to its door before it closed it.
        until(lambda: marks(gateway, "x-plugin") == {"second"}, "the new code alone")
        load.run_for(1.0)
    assert load.failures == []
    until(lambda: not {*gateway.pids()} & {*before}, "the old workers' end")
    assert len(gateway.pids()) == 2
    assert gateway.output.count("the workers are replaced, one by one") == 1
    assert "is replaced" not in gateway.output.partition("one by one")[2], "none has died"


def serving(gateway: Gateway) -> set[int]:
    """The workers that take new work; empty unless there are two."""
    pids = {worker["pid"] for worker in gateway.status()["workers"] if worker["pid"] and not worker["is_ending"]}
    return pids if len(pids) == 2 else set()


def test_broken_code_of_a_plugin_changes_nothing_and_holds_up_no_key(gateway: Gateway, model: dict[str, Any]) -> None:
    plugin = gateway.folder / "plugins" / "marker.py"
    plugin.write_text(PLUGIN.replace("MARK", "good"))
    assert gateway.reload({"demo": {**model, "plugins": [{"use": "plugins.marker.Marker"}]}}) == []
    pids = serving(gateway)
    try:
        plugin.write_text("broken(")
        (problem,) = gateway.reload()
        assert re.search(r"plugins\[0\]: .*marker.py", problem)
        key = run_gateway("keys", "create", "--name", "carl", "--models", "*", folder=gateway.folder).strip()
        with gateway.client(headers={"authorization": f"Bearer {key}"}) as client:
            until(lambda: client.get(READY).status_code == 200, "the new key")
            assert client.get(READY).headers["x-plugin"] == "good"
        assert serving(gateway) == pids
    finally:
        plugin.write_text(PLUGIN.replace("MARK", "mended"))
    until(lambda: marks(gateway, "x-plugin") == {"mended"}, "the mended code")


def test_a_new_key_is_valid_and_a_revoked_one_is_not_within_a_second(gateway: Gateway, demo: DemoModel) -> None:
    key = run_gateway("keys", "create", "--name", "bob", "--models", "*", folder=gateway.folder).strip()
    headers = {"authorization": f"Bearer {key}"}
    with gateway.client(headers=headers) as client:
        secret = {"secret": served([demo.url], auth=["key"])}
        assert gateway.reload({**gateway.config["models"], **secret}) == []
        assert client.get("/models/secret/x").status_code == 200
        gateway.write_text("models: {nonsense")  # a mistake elsewhere must not keep a key valid
        run_gateway("keys", "revoke", "bob", "--file", "keys.yaml", folder=gateway.folder)
        began = time.monotonic()
        until(lambda: client.get("/models/secret/x").status_code == 401, "the end of the key")
        assert time.monotonic() - began < 2.0


def test_a_renewed_certificate_is_served_even_if_routes_yaml_has_a_mistake(
    gateway: Gateway, model: dict[str, Any]
) -> None:
    gateway.write_text("models: {nonsense")
    until(lambda: "not reloaded" in gateway.output, "the report of the mistake")
    before = serial(gateway)
    authority.issue(gateway.folder / "certs", ["localhost"])
    until(lambda: serial(gateway) != before, "the new certificate")
    gateway.write({"demo": model})


def serial(gateway: Gateway) -> str:
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 10) as sock,
        gateway.context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        return str(tls.getpeercert()["serialNumber"])  # type: ignore[index]


# --- what is not noticed ----------------------------------------------------------------------------------------------


def test_a_request_in_flight_ends_under_the_configuration_it_began_with(gateway: Gateway) -> None:
    may_answer = threading.Event()

    def slow(connection: Connection) -> None:
        while True:
            request = connection.read_request()
            if request.target.endswith("/slow"):
                may_answer.wait(20)
            connection.send(response())

    with RawUpstream(slow) as upstream, gateway.client() as client:
        assert gateway.reload({"demo": marked(served([upstream.url]), "old")}) == []
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(client.get("/models/demo/slow").headers["x-mark"]))
        asking.start()
        until(lambda: gateway.in_flight() == 1, "the request")
        assert gateway.reload({"demo": marked(served([upstream.url]), "new")}) == []
        assert marks(gateway) == {"new"}
        may_answer.set()
        asking.join(20)
        assert answers == ["old"]


def test_an_endpoint_that_stays_keeps_its_connections_health_and_averages(gateway: Gateway, demo: DemoModel) -> None:
    checks = {"path": "/health", "interval": "30s", "timeout": "10s"}

    def state() -> dict[str, Any]:
        (model,) = [model for model in gateway.status()["models"] if model["model"] == "demo"]
        (found,) = [found for version in model["versions"] for found in version["endpoints"]]
        return dict(found)

    with RawUpstream(answering()) as upstream, ExitStack() as open_:
        assert gateway.reload({"demo": served([upstream.url], health=checks)}) == []
        until(lambda: state()["health"] == "up", "the check")
        clients = [open_.enter_context(gateway.client()) for _ in range(6)]
        for client in clients:
            client.get(READY)
        connections = len(upstream.connections)
        latency = state()["latency"]
        for number in range(3):
            assert gateway.reload({"demo": marked(served([upstream.url], health=checks), str(number))}) == []
            assert state()["health"] == "up"
            for client in clients:
                assert client.get(READY).headers["x-mark"] == str(number)
        assert 0.0 < state()["latency"] != latency
        assert len(upstream.connections) == connections
        assert not any(connection.at_end for connection in upstream.connections)
    assert gateway.reload({"demo": served([demo.url])}) == []


def test_connections_to_an_endpoint_that_was_removed_are_closed_after_their_last_use(
    gateway: Gateway, demo: DemoModel
) -> None:
    may_answer = threading.Event()

    def slow(connection: Connection) -> None:
        connection.read_request()
        may_answer.wait(20)
        connection.send(response())
        assert connection.wait_closed(10)

    with RawUpstream(slow) as upstream, gateway.client() as client:
        assert gateway.reload({"demo": served([upstream.url])}) == []
        asking = threading.Thread(target=lambda: client.get(READY))
        asking.start()
        upstream.wait_connections(1)
        assert gateway.reload({"demo": served([demo.url])}) == []
        may_answer.set()
        asking.join(20)
        until(lambda: upstream.connections[0].at_end, "the connection's end")


# --- what is refused --------------------------------------------------------------------------------------------------


def _routes(text: str) -> Callable[[Gateway], None]:
    return lambda gateway: gateway.write_text((gateway.folder / "routes.yaml").read_text() + text)


def _file(name: str, text: str) -> Callable[[Gateway], None]:
    def spoil(gateway: Gateway) -> None:
        (gateway.folder / name).write_text(text, "latin-1")

    return spoil


def _plugin(code: str) -> Callable[[Gateway], None]:
    def spoil(gateway: Gateway) -> None:
        (gateway.folder / "plugins" / "wrong.py").write_text(code)
        _routes("plugins: [{use: plugins.wrong.Wrong}]\n")(gateway)

    return spoil


BAD = {
    "no YAML": (_routes("models: {"), r"routes.yaml:\d+: "),
    "an unknown key": (_routes("modles: {}\n"), r"routes.yaml:\d+: modles: .*models"),
    "a value of another kind": (_routes("plugins: 7\n"), r"routes.yaml:\d+: plugins: "),
    "no file": (
        lambda gateway: (gateway.folder / "routes.yaml").unlink(),
        r"routes.yaml: cannot be read",
    ),
    "bytes that are no text": (_file("routes.yaml", "\xff"), r"routes.yaml"),
    "a plugin that does not exist": (
        _routes("plugins: [{use: plugins.none.None}]\n"),
        r"routes.yaml:\d+: plugins\[0\]",
    ),
    "a plugin with a mistake": (_plugin("class Wrong(:\n"), r"routes.yaml:\d+: plugins\[0\]: .*wrong.py"),
    "a plugin that fails": (_plugin("1 / 0\n"), r"routes.yaml:\d+: plugins\[0\]: .*ZeroDivisionError.*wrong.py:1"),
    "a plugin that leaves": (_plugin("import sys; sys.exit(3)\n"), r"plugins\[0\]: .*SystemExit"),
    "keys that are none": (_file("keys.yaml", "keys: [{}]\n"), r"keys.yaml:\d+: "),
    "keys that are gone": (lambda gateway: (gateway.folder / "keys.yaml").unlink(), r"keys.yaml: cannot be read"),
    "keys that are about to be written": (_file("keys.yaml", "\n"), r"keys.yaml: is empty"),
    "a certificate that is none": (_file("certs/other.crt", "nonsense"), r"certificate other.crt: "),
}


@pytest.mark.parametrize("spoil", [pytest.param(spoil, id=name) for name, (spoil, _) in BAD.items()])
def test_a_bad_file_changes_nothing_and_is_reported(
    gateway: Gateway, model: dict[str, Any], request: pytest.FixtureRequest, spoil: Callable[[Gateway], None]
) -> None:
    kept = {name: (gateway.folder / name).read_bytes() for name in ("routes.yaml", "keys.yaml")}
    try:
        spoil(gateway)
        problems = gateway.reload()
        (pattern,) = (pattern for name, (_, pattern) in BAD.items() if f"[{name}]" in request.node.name)
        assert any(re.search(pattern, problem) for problem in problems), problems
        with gateway.client() as client:
            assert client.get(READY).status_code == 200
        gateway.check_alive()
    finally:
        for name, content in kept.items():
            (gateway.folder / name).write_bytes(content)
        (gateway.folder / "certs" / "other.crt").unlink(missing_ok=True)


def test_what_is_wrong_is_seen_until_it_is_mended(gateway: Gateway, model: dict[str, Any]) -> None:
    right = (gateway.folder / "routes.yaml").read_bytes()
    _routes("modles: {}\n")(gateway)
    (problem,) = until(lambda: gateway.status()["problems"], "the mistake's being seen")
    assert re.search(r"routes.yaml:\d+: modles", problem)
    assert "gateway_config_problems 1.0" in gateway.metrics()
    said = command(gateway, "status")
    shown = "".join(said.stdout.split())  # in as many lines as it takes
    assert (said.returncode, "".join(f"not reloaded: {problem}".split()) in shown) == (0, True), said.stdout
    (gateway.folder / "routes.yaml").write_bytes(right)  # which is what serves: nothing has changed
    until(lambda: not gateway.status()["problems"], "the mistake's being mended")
    assert "gateway_config_problems 0.0" in gateway.metrics()


def test_the_command_names_every_error_and_ends_with_1(gateway: Gateway, model: dict[str, Any]) -> None:
    _routes("modles: {}\nplugin: []\n")(gateway)
    done = command(gateway, "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"routes.yaml:\d+: modles", done.stderr)
    assert re.search(r"routes.yaml:\d+: plugin", done.stderr)
    gateway.write({"demo": {**model, "plugins": [{"use": "plugins.none.X"}, {"use": "plugins.none.Y"}]}})
    done = command(gateway, "reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(re.findall(r"routes.yaml:\d+: models.demo.plugins\[[01]\]", done.stderr)) == 2


def test_what_a_reload_cannot_change_is_said_and_stays_as_it_is(gateway: Gateway, model: dict[str, Any]) -> None:
    state_dir = gateway.folder / "elsewhere"
    gateway.write({"demo": model}, {"gateway": {"workers": 3, "state_dir": str(state_dir)}})
    try:
        done = command(gateway, "reload")
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert done.stderr.startswith("note: gateway.workers, gateway.state_dir: ")
        assert len(gateway.pids()) == 2
        assert not state_dir.exists()
    finally:
        gateway.write({"demo": model}, {"gateway": {"workers": 2, "state_dir": ".gateway"}})


# --- under load -------------------------------------------------------------------------------------------------------


def changes(demo: DemoModel, number: int) -> dict[str, Any]:
    """A configuration that differs from the one before in a rule, an endpoint, a version and a model."""
    dead = f"http://127.0.0.1:{1 + number % 3}"
    model = marked(served([demo.url]), str(number))
    model["versions"]["spare"] = {"endpoints": [dead]}
    model["default_version"] = "v1"
    return {"demo": model, f"other{number % 2}": served([dead])}


def reload_often(gateway: Gateway, demo: DemoModel, count: int, within: float) -> list[float]:
    """-> when each began (monotonic). Does as little as it can beside the load, which runs in the same process."""
    texts = [yaml.safe_dump({**gateway.config, "models": changes(demo, number)}) for number in range(count)]
    door = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=20)
    began = []
    start = time.monotonic()
    for number, text in enumerate(texts):
        time.sleep(max(0.0, start + number * within / count - time.monotonic()))
        began.append(time.monotonic())
        gateway.write_text(text)
        door.request("POST", "/reload")
        answer = door.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    door.close()
    return began


def test_ten_reloads_under_load_fail_no_request_and_cut_no_stream(gateway: Gateway, demo: DemoModel) -> None:
    with Load(gateway, rate=150, connections=16, streams=20) as load:
        reload_often(gateway, demo, 10, 4.0)
    assert load.failures == []
    assert min(load.events.values()) >= 20


def test_a_controller_that_dies_at_any_point_of_a_reload_leaves_all_workers_alike(
    gateway: Gateway, demo: DemoModel, model: dict[str, Any]
) -> None:
    dice = random.Random(7)
    with Load(gateway, rate=50, connections=4, streams=4) as load:
        for number in range(6):
            pid = until(lambda: living_controller(gateway), "a controller")
            gateway.write({"demo": marked(model, f"{number}")})
            gateway.popen.send_signal(signal.SIGHUP)
            time.sleep(dice.uniform(0.0, 0.12))
            os.kill(pid, signal.SIGKILL)
        until(lambda: marks(gateway) == {"5"}, "the last configuration")
        until(lambda: living_controller(gateway), "a controller")
    assert load.failures == []
    until(lambda: loaded(gateway) == {generation(gateway)}, "all workers to be alike")


def living_controller(gateway: Gateway) -> int:
    try:
        return gateway.controller_pid() if gateway.is_ready() else 0
    except Exception:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_hundred_reloads_in_a_minute_under_load(demo: DemoModel) -> None:
    """500 requests a second, 100 open streams: no failure, no cut, no growth of memory, p99 within 1.5 of its own."""
    options = {"gateway": {"workers": 2, "access_log": {"path": ""}}}
    with Gateway({"demo": served([demo.url])}, options) as gateway:
        reload_often(gateway, demo, 10, 2.0)
        pids = [*gateway.pids(), gateway.controller_pid()]
        with Load(gateway, rate=500, connections=32, streams=100) as load:
            load.run_for(5.0)
            before, quiet = [private(pid) for pid in pids], time.monotonic()
            load.run_for(15.0)
            busy = time.monotonic()
            began = reload_often(gateway, demo, 200, 60.0)
            end = time.monotonic()
            load.run_for(5.0)
            after = [private(pid) for pid in pids]
        calm = [answer for answer in load.since(quiet) if answer.at < busy]
        loud = [answer for answer in load.since(busy) if answer.at < end]
        report(load, calm, loud, began, end)
        print("memory before", before, "after", after, "bytes (workers, controller)")
        assert load.failures == []
        assert load.quantile(0.99, loud) <= 1.5 * load.quantile(0.99, calm)
        assert all(new - old <= 5 * MIB for old, new in zip(before, after, strict=True))


def report(load: Load, calm: list[Answer], loud: list[Answer], began: list[float], end: float) -> None:
    for name, answers in (("without", calm), ("with", loud)):
        quantiles = [f"{1000 * load.quantile(share, answers):.2f}" for share in (0.5, 0.9, 0.99, 0.999)]
        rate = len(answers) / (answers[-1].at - answers[0].at)
        print(f"{name} reloads: {len(answers)} requests, {rate:.0f}/s, p50 p90 p99 p999 in ms: {' '.join(quantiles)}")
    print(f"{len(began)} reloads in {end - began[0]:.1f} s, {len(load.failures)} failures, {len(load.cuts)} cuts")


def test_a_folder_that_is_removed_and_comes_back_is_looked_into(demo: DemoModel) -> None:
    """The gateway stands in it: a path that begins there leads nowhere any more."""
    base = temporary_folder("gateway-")
    (base / "here").mkdir()
    with Gateway({"demo": served([demo.url])}, folder=base / "here") as gateway, gateway.client() as client:
        shutil.copytree(gateway.folder, base / "kept", ignore=shutil.ignore_patterns(".gateway"))  # it is written to

        def is_removed() -> bool:
            shutil.rmtree(gateway.folder, ignore_errors=True)
            return not gateway.folder.exists()

        until(is_removed, "an end of what the gateway writes there")
        answer = httpx2.post(f"{gateway.admin_url}/reload", timeout=20)
        assert answer.status_code == 422
        assert any("routes.yaml" in problem for problem in answer.json()["problems"])
        shutil.copytree(base / "kept", gateway.folder, dirs_exist_ok=True)  # there is something: the state is kept
        gateway.write({"demo": served([demo.url]), "new": served([demo.url])})
        until(lambda: client.get("/models/new/v2/health/ready").status_code == 200, "the new model")
