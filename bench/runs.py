"""One run of each kind of row: load for some seconds, and what it cost."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, cast

from bench.audit import call, credentials
from bench.contestants import ROOT
from bench.load import wrk
from bench.load.wrk import Load
from bench.processes import Failed, Running
from bench.row import Run, Sample
from bench.site import Site

_MIB = 2**20
_ALL_IN_USE = 20_000  # requests, twice as many as endpoints or keys: both take turns
_KEPT_UP = 0.97  # of the events that were due must arrive, or it was not the contestant that was measured


@dataclass(frozen=True)
class PerRequest:
    """CPU of one request."""

    load: Load

    def __call__(self, run: Run) -> Sample:
        cpu, done = self.measure(run)
        return {"CPU µs/request": cpu / done.requests * 1e6, "requests/s": done.requests / done.seconds}

    def measure(self, run: Run) -> tuple[float, wrk.Done]:
        before = run.cpu()
        done = wrk.run(self.load, run.started, run.seconds)
        return run.cpu() - before, done


@dataclass(frozen=True)
class PerResumption:
    """CPU of one request on a connection of its own that resumes a TLS session."""

    clients: int

    def __call__(self, run: Run) -> Sample:
        it = run.started
        bearers = it.folder / "bearers"
        bearers.write_text("\n".join(f"Bearer {key}" for key in it.site.keys))
        where = ["bench.load.resumed", it.url, str(run.seconds), str(self.clients), str(bearers)]
        command = [sys.executable, "-m", *where, str(it.site.certificate)]
        before = run.cpu()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=run.seconds + 60)
        cpu = run.cpu() - before
        if done.returncode:
            raise Failed(f"{it.contestant.name}: {done.stderr.strip().splitlines()[-1:]}")
        found: dict[str, float] = json.loads(done.stdout)
        if found["resumed"] < found["requests"] - self.clients:
            raise Failed(f"{it.contestant.name} resumed {found['resumed']:.0f} of {found['requests']:.0f} sessions")
        return {"CPU µs/request": cpu / found["requests"] * 1e6, "requests/s": found["requests"] / found["seconds"]}


@dataclass(frozen=True)
class PerMiB:
    """CPU of one MiB, whichever way it goes."""

    load: Load

    def __call__(self, run: Run) -> Sample:
        cpu, done = PerRequest(self.load).measure(run)
        size = (done.requests * self.load.body if self.load.body else done.bytes) / _MIB
        return {"CPU µs/MiB": cpu / size * 1e6, "MiB/s": size / done.seconds}


@dataclass(frozen=True)
class PerEvent:
    """CPU of one event of a stream."""

    streams: int
    rate: int  # events a second of each

    def __call__(self, run: Run) -> Sample:
        with _clients(run, self.streams, self.rate) as count:
            time.sleep(0.5)
            before, cpu, began = count(), run.cpu(), time.monotonic()
            time.sleep(run.seconds)
            cpu, after, took = run.cpu() - cpu, count(), time.monotonic() - began
        events = after["events"] - before["events"]
        due = self.streams * self.rate * took
        if events < due * _KEPT_UP or after["open"] < self.streams:
            raise Failed(f"{run.started.contestant.name}: {events} of {due:.0f} events, {after['open']} streams left")
        return {"CPU µs/event": cpu / events * 1e6, "events/s": events / took}


@dataclass(frozen=True)
class PerIdleStream:
    """Memory that open streams take, and CPU while nothing happens."""

    streams: int

    def __call__(self, run: Run) -> Sample:
        proportional, resident = run.started.running.memory()
        with _clients(run, self.streams, rate=0) as count:
            time.sleep(1.0)
            grown, bigger = run.started.running.memory()
            cpu = run.cpu()
            time.sleep(run.seconds)
            cpu = run.cpu() - cpu
            if count()["open"] < self.streams:
                raise Failed(f"{run.started.contestant.name} closed idle streams")
        return {
            "PSS KiB/stream": (grown - proportional) / self.streams,
            "RSS KiB/stream": (bigger - resident) / self.streams,
            "CPU ms/s": cpu / run.seconds * 1e3,
        }


class AddedLatency:
    """What a contestant adds to an answer's way, at a constant rate: half of what the gateway can do at most."""

    _CONNECTIONS = 64

    def __init__(self) -> None:
        self.rate = 0.0

    def __call__(self, run: Run) -> Sample:
        if not self.rate:
            tries = [wrk.run(Load(), run.started, 2) for _ in range(3)]  # one may fall into a fast moment
            self.rate = median(done.requests / done.seconds for done in tries) / 2
        direct = self._paced(run, f"http://localhost:{run.started.site.upstream_ports[0]}/api/v1/chat/completions")
        through = self._paced(run, run.started.url)
        return {
            "added p50 µs": through["p50"] - direct["p50"],
            "added p99 µs": through["p99"] - direct["p99"],
            "direct p50 µs": direct["p50"],
            "direct p99 µs": direct["p99"],
            "requests/s": self.rate,
        }

    def _paced(self, run: Run, url: str) -> dict[str, float]:
        where = ["bench.load.paced", url, str(self.rate), str(run.seconds), str(self._CONNECTIONS)]
        command = [sys.executable, "-m", *where, str(_bearers(run)), str(run.started.site.certificate)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=run.seconds + 60)
        if done.returncode:
            raise Failed(f"{run.started.contestant.name}: {done.stderr.strip().splitlines()[-1:]}")
        found: dict[str, float] = json.loads(done.stdout)
        if found["behind"] > self._CONNECTIONS or found["requests"] < self.rate * run.seconds * _KEPT_UP:
            raise Failed(f"{run.started.contestant.name} or the load fell behind {self.rate:.0f} requests/s: {found}")
        return found


class AtScale:
    """A start, the load spread over all models and keys, a reload."""

    def __call__(self, run: Run) -> Sample:
        count = run.started.contestant.count("model_count") or 1
        names = ["demo", *(f"model-{number}" for number in range(1, count))]
        load = Load(paths=[f"/models/{name}/v1/chat/completions" for name in names])
        served = 0
        while served < _ALL_IN_USE:  # then every endpoint has its connection, every key its principal
            served += wrk.run(load, run.started, 2).requests
        cost = PerRequest(load)(run)
        memory, _ = run.started.running.memory()
        reload, cpu = self._reload(run)
        return {
            "CPU µs/request": cost["CPU µs/request"],
            "start s": run.ready_after,
            "reload s": reload,
            "reload CPU s": cpu,
            "PSS MiB": memory / 1024,
        }

    def _reload(self, run: Run) -> tuple[float, float]:
        """Change a policy of every model -> seconds until it is in force, CPU seconds of that."""
        config = run.started.folder / "gateway.yaml"
        text = config.read_text()
        before, began = run.cpu(), time.monotonic()
        config.write_text(text.replace('x-generation: "1"', 'x-generation: "2"'))
        while time.monotonic() - began < 60:
            answer = call(run.started, credentials(run.started))
            if answer.headers.get("x-generation") == "2":
                return time.monotonic() - began, run.cpu() - before
            time.sleep(0.01)
        raise Failed("the reload did not come into force in a minute")


def start_reading_upstream(site: Site) -> Running:
    """Instead of nginx, which answers before it has read a body, and cannot stream."""
    ports = map(str, site.upstream_ports)
    command = [sys.executable, "-m", "bench.upstream.server", *ports]
    running = Running("the reading upstream", command, site.folder, {"PYTHONPATH": str(ROOT)})
    running.wait_for_port(site.upstream_ports[1])
    return running


@contextmanager
def _clients(run: Run, streams: int, rate: int) -> Iterator[Callable[[], dict[str, int]]]:
    """Open streams, until the block ends -> a function that counts {"events", "open"}. Raises Failed."""
    where = ["bench.load.streams", f"{run.started.url}?rate={rate}", str(streams)]
    command: Sequence[str] = [sys.executable, "-m", *where, str(_bearers(run)), str(run.started.site.certificate)]
    with (run.started.folder / "clients.err").open("w+") as errors:
        clients = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        words, answers = cast(IO[str], clients.stdin), cast(IO[str], clients.stdout)

        def count() -> dict[str, int]:
            words.write("\n")
            words.flush()
            found: dict[str, int] = json.loads(answers.readline() or "{}")
            return found

        with clients:
            try:
                if answers.readline() != "READY\n":
                    raise Failed(f"{run.started.contestant.name}: {Path(errors.name).read_text().strip()[-300:]}")
                yield count
            finally:
                clients.kill()


def _bearers(run: Run) -> Path:
    path = run.started.folder / "bearers"
    path.write_text("\n".join(run.started.site.keys))
    return path
