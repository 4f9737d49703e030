"""The master: binds the sockets, maps the zone, forks one controller and N workers, and replaces those that die.

Small, synchronous and without threads, so that a fork is safe at any time. Signals arrive through `sigtimedwait`, never
in the middle of something.

    SIGTERM, SIGINT   stop gracefully; a second one: at once
    SIGHUP            reload
    SIGUSR1           have the workers write their counts
    SIGUSR2           start a successor (of a new version, perhaps) that takes the sockets and the zone over
    SIGQUIT           from that successor, once it serves: finish what runs, and go
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.config.settings import Settings
from gateway.server import controller, worker
from gateway.server.listeners import VARIABLE, Handover, Listeners
from gateway.server.zone import DRAINING, FIRST_WORKER, MASTER, PID, WORKER_COUNT, WORKERS, Zone, end_with_parent
from gateway.tls.store import CertificateStore

_log = logging.getLogger("gateway.master")

PID_FILE = "gateway.pid"
_SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
_READY_SECONDS = 60.0  # a successor whose workers do not serve by then leaves its predecessor alone
_CONTROLLER = -1  # its slot among the children
_CRASH_SECONDS = 1.0  # a child that lived shorter is started again only after a pause
_CRASH_PAUSE = 1.0


class Master:
    """One run of the gateway."""

    def __init__(
        self,
        settings: Settings,
        config: Path,
        zone: Zone,
        certificates: CertificateStore,
        handover: Handover | None = None,
    ) -> None:
        """`handover`: what a predecessor leaves us; it goes on serving until our workers do. Raises OSError."""
        self.settings = settings
        self.config = config
        self.zone = zone
        self.certificates = certificates
        self.handover = handover
        self.tls = certificates.server_context()
        self.count = worker_count(settings)
        self.first = handover.first_slot if handover else 0  # row of the zone of the first worker
        self.listeners = Listeners.open(settings.gateway, self.count, handover)
        self.successor: subprocess.Popen[bytes] | None = None
        self.is_relieved = False  # a successor serves
        self.children: dict[int, int] = {}  # pid -> slot
        self.started: dict[int, float] = {}  # slot -> when
        self.due: dict[int, float] = {}  # slot -> when it may be started again
        self.stopping = 0  # how many times we were told to stop
        zone.header[MASTER] = os.getpid()
        zone.header[WORKER_COUNT] = self.count
        zone.header[FIRST_WORKER] = self.first
        zone.header[DRAINING] = 0

    # --- the life of it ---

    def run(self) -> int:
        """Serve until told to stop; -> the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for slot in (*self.slots, _CONTROLLER):
            self.start(slot)
        if self.handover is not None:
            self._relieve(self.handover.predecessor)
        self._write_pid()
        while not self.stopping:
            self.wait(self._until_due())
            self._start_due()
        return self.stop()

    @property
    def slots(self) -> range:
        """The rows of the zone that our workers have."""
        return range(self.first, self.first + self.count)

    def _relieve(self, predecessor: int) -> None:
        """Let the predecessor go as soon as every worker of ours serves."""
        rows = self.zone.workers
        self._wait_for(lambda: all(rows[slot][PID] for slot in self.slots) or self.stopping > 0, _READY_SECONDS)
        if all(rows[slot][PID] for slot in self.slots) and os.getppid() == predecessor:
            _log.info("taking over from master %d", predecessor)
            os.kill(predecessor, signal.SIGQUIT)

    def _write_pid(self) -> None:
        """For those who send signals: state_dir/gateway.pid names the master that serves."""
        path = self.settings.gateway.state_dir / PID_FILE
        scratch = path.with_suffix(".new")
        scratch.write_text(f"{os.getpid()}\n")
        scratch.rename(path)

    def stop(self) -> int:
        """Stop taking work, let what runs end, and take the children down."""
        shutdown = self.settings.gateway.shutdown
        _log.info("stopping: %d s of grace for what runs", shutdown.grace)
        if not self.is_relieved:
            self.zone.header[DRAINING] = 1
            self._wait_for(lambda: self.stopping > 1, shutdown.delay)
        self.listeners.close_public()
        self._signal_workers(signal.SIGTERM)
        self._wait_for(lambda: self.stopping > 1 or not self._workers(), shutdown.grace + 5)
        left = self._workers()
        for number in (signal.SIGKILL,) if left else ():
            self._signal_workers(number)
        self._signal(_CONTROLLER, signal.SIGTERM)
        self._wait_for(lambda: not self.children, 5)
        self._signal(_CONTROLLER, signal.SIGKILL)
        self._wait_for(lambda: not self.children, 1)
        return 1 if left and self.stopping < 2 else 0

    def start(self, slot: int) -> None:
        """Fork the child of `slot`."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                end_with_parent(parent, signal.SIGTERM)
                self._be(slot)
                code = 0
            except BaseException:  # a process's border: nothing of the master's must run in the child
                _log.exception("%s failed", name_of(slot))
            finally:
                logging.shutdown()
                sys.stdout.flush()
                os._exit(code)
        self.children[pid] = slot
        self.started[slot] = time.monotonic()
        self.due.pop(slot, None)

    def _be(self, slot: int) -> None:
        state_dir = self.settings.gateway.state_dir
        if slot == _CONTROLLER:
            self.listeners.close_public()
            admin = self.listeners.admin
            controller.run(controller.Office(self.config, state_dir, self.zone, admin, self.certificates))
            return
        index = slot - self.first
        self.listeners.keep_only(index)
        https = self.listeners.https[index]
        http = self.listeners.http[index] if self.listeners.http else None
        place = worker.Place(slot, self.slots, https, http, self.zone, state_dir)
        worker.run(place, self.certificates, self.tls)

    # --- what it waits for ---

    def wait(self, timeout: float) -> None:
        """Take one signal, if one comes within `timeout` seconds, and act on it."""
        info = signal.sigtimedwait(_SIGNALS, max(0.0, timeout))
        if info is None:
            return
        if info.si_signo in (signal.SIGTERM, signal.SIGINT):
            self.stopping += 1
        elif info.si_signo == signal.SIGHUP:
            self._signal(_CONTROLLER, signal.SIGHUP)
        elif info.si_signo == signal.SIGUSR1:
            self._signal_workers(signal.SIGUSR1)
        elif info.si_signo == signal.SIGUSR2:
            self._hand_over()
        elif info.si_signo == signal.SIGQUIT and self.successor is not None:
            self.is_relieved = True
            self.stopping += 1
        self._reap()

    def _hand_over(self) -> None:
        """Start a successor from what is installed now. Our controller ends first, so that health and generations have
        one writer; it comes back if the successor fails."""
        if self.successor is not None or self.stopping:
            return
        listeners = self.listeners
        handover = Handover(
            https=[listener.fileno() for listener in listeners.https],
            http=[listener.fileno() for listener in listeners.http],
            admin=listeners.admin.fileno(),
            zone=self.zone.fd,
            first_slot=0 if self.first else WORKERS // 2,
            predecessor=os.getpid(),
        )
        self._signal(_CONTROLLER, signal.SIGTERM)
        _log.info("starting a successor")
        self.successor = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "gateway", "serve", "--config", str(self.config)],
            pass_fds=handover.descriptors,
            env={**os.environ, VARIABLE: handover.to_text()},
            preexec_fn=_unblock,  # noqa: PLW1509 - there are no threads here
        )

    def _wait_for(self, is_over: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_over() and time.monotonic() < end:
            self.wait(min(0.1, end - time.monotonic()))

    def _reap(self) -> None:
        while self.children or self.successor is not None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if self.successor is not None and pid == self.successor.pid:
                self._on_successor_lost(code)
                continue
            slot = self.children.pop(pid)
            if slot != _CONTROLLER:
                self.zone.reclaim(slot)
            if self.stopping or (slot == _CONTROLLER and self.successor is not None):
                continue
            _log.error("%s (pid %d) ended with %d and is replaced", name_of(slot), pid, code)
            now = time.monotonic()
            self.due[slot] = now + (_CRASH_PAUSE if now - self.started[slot] < _CRASH_SECONDS else 0.0)

    def _on_successor_lost(self, code: int) -> None:
        """It could not start, or died while we still serve: we go on as before."""
        _log.error("the successor ended with %d; this gateway goes on", code)
        self.successor = None
        self.zone.header[MASTER] = os.getpid()
        self.zone.header[WORKER_COUNT] = self.count
        self.zone.header[FIRST_WORKER] = self.first
        if _CONTROLLER not in self.children.values():
            self.due[_CONTROLLER] = time.monotonic()

    def _until_due(self) -> float:
        now = time.monotonic()
        return min((when - now for when in self.due.values()), default=60.0)

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, when in self.due.items() if when <= now]:
            self.start(slot)

    # --- whom it tells ---

    def _workers(self) -> list[int]:
        return [pid for pid, slot in self.children.items() if slot != _CONTROLLER]

    def _signal_workers(self, number: int) -> None:
        for pid in self._workers():
            os.kill(pid, number)

    def _signal(self, slot: int, number: int) -> None:
        for pid, at in self.children.items():
            if at == slot:
                os.kill(pid, number)

    def __repr__(self) -> str:
        return f"<Master children={self.children} due={self.due} stopping={self.stopping}>"


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def name_of(slot: int) -> str:
    return "the controller" if slot == _CONTROLLER else f"worker {slot}"


def worker_count(settings: Settings) -> int:
    """`workers: auto` is one for each core that this process may use. Half of the zone's rows at most: a successor has
    the other half."""
    wanted = settings.gateway.workers
    return min(WORKERS // 2, len(os.sched_getaffinity(0)) if wanted == "auto" else wanted)
