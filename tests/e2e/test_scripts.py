"""scripts/serve as a newcomer runs it, in a copy of the project on free ports: the curl line, Ctrl-C, what goes wrong.

The environment is not installed again: `.venv/bin/python` of the copy is the Python of the tests.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Process, until
from tests.ports import free_port

READY = "The gateway is ready"


class Copy:
    """A folder with what scripts/serve needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {known: free_port() for known in (8443, 9901, 9001, 9002)}
        for name in ("scripts/serve", "scripts/lib.sh", "routes.yaml", "pyproject.toml"):
            (folder / name).parent.mkdir(exist_ok=True)
            text = (ROOT / name).read_text()
            for known, port in self.ports.items():
                text = re.sub(rf"\b{known}\b", str(port), text)
            (folder / name).write_text(text)
        shutil.copymode(ROOT / "scripts" / "serve", folder / "scripts" / "serve")

    def pretend_installed(self) -> None:
        python = self.folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        done = subprocess.run(["cksum"], stdin=(self.folder / "pyproject.toml").open(), capture_output=True, check=True)
        (self.folder / ".venv" / ".stamp-.").write_bytes(done.stdout.strip())

    def serve(self) -> Process:
        for log in (*self.folder.glob("serve.*"),):
            log.unlink()
        return Process("serve", [str(self.folder / "scripts" / "serve")], self.folder)

    def is_ready(self, process: Process) -> bool:
        process.check_alive()
        return READY in process.output

    def leftovers(self) -> list[str]:
        """Every process that works in this folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_here = (process / "cwd").readlink() == self.folder
            except OSError:
                continue
            if is_here:
                found.append(f"{process.name} {(process / 'cmdline').read_text()}".replace("\0", " "))
        return found


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Copy]:
    copy = Copy(tmp_path)
    copy.pretend_installed()
    yield copy
    for line in copy.leftovers():
        os.kill(int(line.split()[0]), signal.SIGKILL)


def curl_line(process: Process) -> str:
    (line,) = [line for line in process.output.splitlines() if line.startswith("curl ")]
    return line


def test_the_printed_curl_line_works_as_pasted_and_is_the_same_the_next_time(copy: Copy, tmp_path: Path) -> None:
    lines = []
    for _ in range(2):
        with copy.serve() as process:
            until(lambda process=process: copy.is_ready(process), "scripts/serve", 60)  # type: ignore[misc]
            lines.append(curl_line(process))
            done = subprocess.run(["bash", "-c", lines[-1]], cwd="/", capture_output=True, text=True, check=True)
            assert re.search(r'"content":"demo@v[12] here. You said: Hello!"', done.stdout), done.stdout
            assert process.stop(signal.SIGINT) in (0, 130)
            assert "Traceback" not in process.output
            assert copy.leftovers() == []
    assert lines[0] == lines[1]
    assert (tmp_path / ".gateway" / "demo-key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_the_script_ends(copy: Copy, number: signal.Signals) -> None:
    with copy.serve() as process:
        until(lambda: copy.is_ready(process), "scripts/serve", 60)
        process.popen.send_signal(number)
        process.popen.wait(60)
        until(lambda: not copy.leftovers(), f"left behind: {copy.leftovers()}")


@pytest.mark.parametrize("known", [8443, 9901, 9001, 9002])
def test_a_port_in_use_is_named_in_one_line(copy: Copy, known: int) -> None:
    port = copy.ports[known]
    with socket.create_server(("127.0.0.1", port)), copy.serve() as process:
        assert process.popen.wait(60) == 1
        assert len(process.output.splitlines()) == 1
        assert f"port {port} is in use" in process.output


def test_a_child_that_dies_ends_everything_and_is_named(copy: Copy) -> None:
    with copy.serve() as process:
        until(lambda: copy.is_ready(process), "scripts/serve", 60)
        (line,) = [line for line in copy.leftovers() if "--version v2" in line and "python" in line.split()[1]]
        os.kill(int(line.split()[0]), signal.SIGKILL)
        assert process.popen.wait(60) == 1
        assert process.err.read_text().count("ended with status") == 1
        assert "demo model v2 ended with status 137" in process.output
        assert copy.leftovers() == []


def test_a_wrong_routes_yaml_is_reported_and_nothing_stays(copy: Copy, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    text = routes.read_text().replace("    aliases:", "    alaises:", 1)
    routes.write_text(text)
    line = text[: text.index("alaises")].count("\n") + 1
    with copy.serve() as process:
        assert process.popen.wait(60) == 1
        assert f"routes.yaml:{line}:" in process.output
        assert 'did you mean "aliases"?' in process.output
        assert "Traceback" not in process.output
        assert copy.leftovers() == []


def test_a_machine_without_python_is_told_so_in_one_line(tmp_path: Path) -> None:
    Copy(tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "dirname", "mkdir", "sed", "head", "cat", "cksum", "setpriv"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    command = [str(tmp_path / "scripts" / "serve")]
    done = subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{command[0]}: Python 3.11 or later is needed; on Debian: apt-get install python3 python3-venv"
    ]
