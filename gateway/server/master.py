"""The master: binds the sockets, maps the zone, forks one controller and N workers, and replaces those that die.

Small, synchronous and without threads, so that a fork is safe at any time. Signals arrive through `sigtimedwait`, never
in the middle of something. SIGTERM or SIGINT: stop gracefully (a second one: at once). SIGHUP: reload.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.config.settings import Settings
from gateway.server import controller, worker
from gateway.server.zone import DRAINING, MASTER, WORKER_COUNT, WORKERS, Zone, end_with_parent
from gateway.tls.store import CertificateStore

_log = logging.getLogger("gateway.master")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)
_BACKLOG = 4096  # connections that wait to be accepted, as nginx has 511 and HAProxy 4096
_CONTROLLER = -1  # its slot among the children
_CRASH_SECONDS = 1.0  # a child that lived shorter is started again only after a pause
_CRASH_PAUSE = 1.0


class Master:
    """One run of the gateway."""

    def __init__(self, settings: Settings, config: Path, zone: Zone, certificates: CertificateStore) -> None:
        self.settings = settings
        self.config = config
        self.zone = zone
        self.certificates = certificates
        self.tls = certificates.server_context()
        self.count = worker_count(settings)
        gateway = settings.gateway
        self.https = bind_each(gateway.https, self.count)
        self.http = bind_each(gateway.http, self.count) if gateway.http else []
        self.admin = bind(gateway.admin, is_shared=False)
        self.children: dict[int, int] = {}  # pid -> slot
        self.started: dict[int, float] = {}  # slot -> when
        self.due: dict[int, float] = {}  # slot -> when it may be started again
        self.stopping = 0  # how many times we were told to stop
        zone.header[MASTER] = os.getpid()
        zone.header[WORKER_COUNT] = self.count

    # --- the life of it ---

    def run(self) -> int:
        """Serve until told to stop; -> the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for slot in (*range(self.count), _CONTROLLER):
            self.start(slot)
        while not self.stopping:
            self.wait(self._until_due())
            self._start_due()
        return self.stop()

    def stop(self) -> int:
        """Stop taking work, let what runs end, and take the children down."""
        shutdown = self.settings.gateway.shutdown
        self.zone.header[DRAINING] = 1
        _log.info("stopping: %d s of grace for what runs", shutdown.grace)
        self._wait_for(lambda: self.stopping > 1, shutdown.delay)
        for listener in (*self.https, *self.http):
            listener.close()
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
            for listener in (*self.https, *self.http):
                listener.close()
            controller.run(controller.Office(self.config, state_dir, self.zone, self.admin, self.certificates))
            return
        self.admin.close()
        for other in range(self.count):
            if other != slot:
                self.https[other].close()
                if self.http:
                    self.http[other].close()
        http = self.http[slot] if self.http else None
        place = worker.Place(slot, self.count, self.https[slot], http, self.zone, state_dir)
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
        self._reap()

    def _wait_for(self, is_over: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_over() and time.monotonic() < end:
            self.wait(min(0.1, end - time.monotonic()))

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            slot = self.children.pop(pid)
            if slot != _CONTROLLER:
                self.zone.reclaim(slot)
            if self.stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            _log.error("%s (pid %d) ended with %d and is replaced", name_of(slot), pid, code)
            now = time.monotonic()
            self.due[slot] = now + (_CRASH_PAUSE if now - self.started[slot] < _CRASH_SECONDS else 0.0)

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


def name_of(slot: int) -> str:
    return "the controller" if slot == _CONTROLLER else f"worker {slot}"


def worker_count(settings: Settings) -> int:
    """`workers: auto` is one for each core that this process may use."""
    wanted = settings.gateway.workers
    return min(WORKERS, len(os.sched_getaffinity(0)) if wanted == "auto" else wanted)


def bind_each(address: tuple[str, int], count: int) -> list[socket.socket]:
    """`count` sockets on one address. Raises OSError, also if another process listens there: SO_REUSEPORT alone would
    let two gateways share a port unawares, so the first bind is one that tolerates nobody."""
    probe = bind(address, is_shared=False)
    address = probe.getsockname()[:2]
    probe.close()
    return [bind(address) for _ in range(count)]


def bind(address: tuple[str, int], *, is_shared: bool = True) -> socket.socket:
    """A listening socket. Raises OSError that names the address.

    `is_shared` sockets are bound once for each worker (SO_REUSEPORT) and the kernel spreads connections over them by
    hash. The master keeps every one open, so that what waits in the queue of a worker that died is not lost: its
    successor accepts it.
    """
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener
