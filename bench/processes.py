"""Processes that are started, measured and ended: CPU and memory of a whole tree, from /proc (proc(5))."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; the kernel keeps the sum of user and system exact to one
# The kernel ends what we start if we are killed outright.
_TETHER = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class Failed(Exception):
    """A process did not start, ended by itself, or a run is not valid. Its text is for people."""


def run(main: Callable[[], int]) -> NoReturn:
    """A command of the bench, with all the file descriptors it may have."""
    signal.signal(signal.SIGTERM, _on_term)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


def _on_term(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)  # through every `finally`, so that nothing is left running


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


class Running:
    """A command, started in a session of its own, with its output in files of `folder`."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.folder = folder
        self.began = time.monotonic()
        with (folder / "stdout").open("ab") as out, (folder / "stderr").open("ab") as err:
            self.process = subprocess.Popen(
                [*_TETHER, *command],
                cwd=folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises Failed if it has ended."""
        if (code := self.process.poll()) is not None:
            said = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()[-5:]
            raise Failed(f"{self.name} ended with {code}: {' | '.join(said) or 'it said nothing'}")

    def wait_for_port(self, port: int, within: float = 30.0) -> None:
        """Raises Failed if nothing listens on `port` in time."""
        while not is_open(port):
            self.check()
            if time.monotonic() - self.began > within:
                raise Failed(f"{self.name} does not listen after {within:.0f} s")
            time.sleep(0.005)

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that the whole tree has used."""
        self.check()
        return sum(cpu_seconds(pid) for pid in tree(self.pid))

    def memory(self) -> tuple[int, int]:
        """(proportional, resident) KiB of the whole tree: what several processes share counts once, or in each."""
        self.check()
        found = [_rollup(pid) for pid in tree(self.pid)]
        return sum(pss for pss, _ in found), sum(rss for _, rss in found)

    def stop(self) -> None:
        """Ask it to end, and force it after three seconds, with all of its children."""
        family = tree(self.pid)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            pass
        for pid in family:
            if _session(pid) == self.pid:  # still there, and still ours
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def ended(running: Running) -> Iterator[Running]:
    """End it in any case."""
    try:
        yield running
    finally:
        running.stop()


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def tree(root: int) -> list[int]:
    """`root` and all its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [root]
    for pid in family:
        family += children.get(pid, ())
    return family


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, with that of children it has waited for."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) * _TICK if fields else 0.0


def busy_seconds() -> float:
    """What all processors have spent on processes since the machine started (proc(5), /proc/stat)."""
    user, nice, system, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return (int(user) + int(nice) + int(system)) * _TICK


def _session(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[3]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (the second may hold anything); none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _rollup(pid: int) -> tuple[int, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return sizes["Pss"], sizes["Rss"]
