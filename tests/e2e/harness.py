"""The gateway and the demo model as real processes, for the end-to-end tests.

    with DemoModel() as model, Gateway({"demo": served([model.url])}) as gateway, gateway.client() as client:
        assert client.get("/v1/models").status_code == 200

Nothing sleeps for a fixed time: `until` polls with a deadline, generous because the machine may be busy.
"""

import atexit
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import yaml

from tests.e2e.harness_wire import Wire, connect
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0  # seconds until something that should happen counts as not happening
T = TypeVar("T")

running: list["Process"] = []  # what a failed test's report shows the output of


def until(check: Callable[[], T], what: str, within: float = PATIENCE, every: float = 0.01) -> T:
    """Poll until `check()` is true, and return it. Raises AssertionError naming `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not (result := check()):
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(every)
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def served(endpoints: Sequence[str | dict[str, Any]], version: str = "v1", **options: Any) -> dict[str, Any]:
    """A model of routes.yaml with one version; `options` are the model's other keys."""
    return {"versions": {version: {"endpoints": list(endpoints)}}, **options}


class Process:
    """A command in a process group of its own, its output in files."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.out = folder / f"{name}.out"
        self.err = folder / f"{name}.err"
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.popen = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        running.append(self)

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        """Standard output and standard error so far, of the files that are still there."""
        return "".join(file.read_text(errors="replace") for file in (self.out, self.err) if file.exists())

    def check_alive(self) -> None:
        assert self.popen.poll() is None, f"{self.name} ended with {self.popen.returncode}:\n{self.output}"

    def members(self) -> list[int]:
        """The living processes of its group: itself and its children."""
        return [pid for pid, group, state in _processes() if group == self.pid and state not in "ZX"]

    def stop(self, number: int = signal.SIGTERM, within: float = PATIENCE) -> int:
        """End it with a signal, and return its exit code. Raises AssertionError if it, or a child of it, stays."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            code = self.popen.wait(within)
            until(lambda: not self.members(), f"{self.name} leaves children behind: {self.members()}", 5)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within} s of signal {number}") from None
        finally:
            self.kill()
        return code

    def kill(self) -> None:
        """End the whole group at once. No effect if it has ended."""
        for pid in self.members():
            os.kill(pid, signal.SIGKILL)
        self.popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.popen.poll() is None:
            self.stop()
        self.kill()


def _processes() -> list[tuple[int, int, str]]:
    """(pid, process group, state) of every process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group, *_ = stat.read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue  # it ended while we looked
        found.append((int(stat.parent.name), int(group), state))
    return found


def children_of(pid: int) -> list[int]:
    """The living children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    states = {each: state for each, _, state in _processes()}
    return [child for child in map(int, text.split()) if states.get(child, "X") not in "ZX"]


def gateway_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", *arguments]


def run_gateway(*arguments: str, folder: Path) -> str:
    """Run a command of the gateway to its end and return its standard output. Raises AssertionError if it fails."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(gateway_command(*arguments), cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"gateway {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@cache
def material() -> tuple[Path, str]:
    """A folder with certs/ (of a development CA) and keys.yaml, made once, and the key in it, whose name is alice."""
    folder = temporary_folder("gateway-material-")
    (folder / "routes.yaml").write_text("models: {}\n")
    run_gateway("certs", "init", folder=folder)
    key = run_gateway("keys", "create", "--name", "alice", "--models", "*", folder=folder).strip()
    return folder, key


def temporary_folder(prefix: str) -> Path:
    """A folder that is removed when the tests end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class DemoModel(Process):
    """What `gateway demo-model` runs, on a free port or the one given. `delay`: seconds before a streamed chunk;
    `engine`: takes the time of this GPU, `speed` times as fast."""

    def __init__(
        self,
        name: str = "demo",
        version: str = "v1",
        *,
        port: int = 0,
        delay: float = 0.0,
        engine: str = "",
        speed: float = 1.0,
    ) -> None:
        self.folder = temporary_folder("demo-model-")
        # Not through the command: that would import all of the gateway, four times the work of starting this.
        serving = f", Serving(demo, PROFILES[{engine!r}], speed={speed})" if engine else ""
        code = (
            "from gateway.demo.app import Demo, Serving, run; from gateway.demo.engine import PROFILES; "
            f"demo = Demo({name!r}, {version!r}, {delay}); run(demo, '127.0.0.1', {port or free_port()}{serving})"
        )
        super().__init__("demo-model", [sys.executable, "-c", code], self.folder)
        self.url = until(self._announced, "the demo model's start")
        self.port = int(self.url.rpartition(":")[2])

    def _announced(self) -> str:
        self.check_alive()
        line = self.out.read_text()
        return line.split()[-1] if line.endswith("\n") else ""


class Gateway(Process):
    """`gateway serve` in a folder of its own, with a certificate for localhost and a key that may call every model.

    `models` is the section of routes.yaml; `settings` its other sections, laid over the harness's own (free ports, one
    worker, a short grace period).
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        *,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        wait: bool = True,
    ) -> None:
        """`prefix` is put before the command, as `nice` would be."""
        self.folder = folder or temporary_folder("gateway-")
        self.port, self.admin_port = free_port(), free_port()
        source, self.key = material()
        if not (self.folder / "certs").exists():
            shutil.copytree(source / "certs", self.folder / "certs")
            shutil.copy(source / "keys.yaml", self.folder / "keys.yaml")
        own = {
            "https": f"127.0.0.1:{self.port}",
            "admin": f"127.0.0.1:{self.admin_port}",
            "workers": 1,
            "shutdown": {"grace": "5s"},
        }
        self.config = merge({"gateway": own}, settings or {})
        self.write(models)
        command = [*prefix, *gateway_command("serve", "--config", "routes.yaml")]
        super().__init__("gateway", command, self.folder, env)
        if wait:
            self.wait_ready()

    # --- where things are ---

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "certs" / "dev-ca" / "ca.crt"

    @property
    def context(self) -> ssl.SSLContext:
        """A client's TLS context that trusts the development CA and nothing else."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    # --- configuration ---

    def write(self, models: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> None:
        """Replace routes.yaml in one step. The gateway notices by itself, soon; `reload` does not leave it to that."""
        self.config = merge(self.config, settings or {}) | {"models": dict(models)}
        self.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def write_text(self, text: str) -> None:
        fresh = self.folder / ".routes.yaml.new"
        fresh.write_text(text)
        fresh.replace(self.folder / "routes.yaml")

    def reload(self, models: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> list[str]:
        """Replace routes.yaml, if there is something new for it, and have every worker take it over.

        Returns what is wrong with it: an empty list once all requests get the new configuration."""
        if models is not None or settings is not None:
            self.write(self.config["models"] if models is None else models, settings)
        answer = httpx2.post(f"{self.admin_url}/reload", timeout=PATIENCE)
        problems: list[str] = answer.json()["problems"]
        assert answer.status_code == (422 if problems else 200), answer.text
        return problems

    def create_key(self, name: str, *models: str) -> str:
        """A further key, for these models (globs); it is valid at once."""
        options = [option for model in models for option in ("--models", model)]
        key = run_gateway("keys", "create", "--name", name, *options, folder=self.folder).strip()
        assert self.reload() == []
        return key

    # --- talking to it ---

    def wait_ready(self, within: float = PATIENCE) -> None:
        until(self.is_ready, "the gateway's start", within)

    def is_ready(self) -> bool:
        self.check_alive()
        try:
            return httpx2.get(f"{self.admin_url}/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def client(self, **options: Any) -> httpx2.Client:
        """An HTTPS client with the key."""
        own: dict[str, Any] = {"base_url": self.base_url, "verify": self.context, "headers": self.headers}
        return httpx2.Client(timeout=PATIENCE, **(own | options))

    def raw(self) -> Wire:
        """A TLS connection to send exact bytes on."""
        return connect("127.0.0.1", self.port, self.context)

    def metrics(self) -> str:
        """The admin port's metrics, as text."""
        return httpx2.get(f"{self.admin_url}/metrics").text

    def status(self) -> dict[str, Any]:
        """The admin port's status: workers, endpoints, certificates."""
        found: dict[str, Any] = httpx2.get(f"{self.admin_url}/status").json()
        return found

    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["pid"]]

    def controller_pid(self) -> int:
        """The one child of the master that is no worker."""
        workers = self.pids()
        (pid,) = (pid for pid in children_of(self.pid) if pid not in workers)
        return pid

    def in_flight(self) -> int:
        """Requests that endpoints hold now, over all models."""
        versions = [version for model in self.status()["models"] for version in model["versions"]]
        return sum(endpoint["in_flight"] for version in versions for endpoint in version["endpoints"])

    def access_log(self) -> list[dict[str, Any]]:
        """The lines of the access log so far, if it goes to standard output (as it does unless told otherwise)."""
        lines = [line for line in self.out.read_text().splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines if line.endswith("}")]
