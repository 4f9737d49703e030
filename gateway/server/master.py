"""The master: binds the sockets, maps the zone, forks one controller and N workers, and replaces those that die.

Small, synchronous and without threads, so that a fork is safe at any time. Signals arrive through `sigtimedwait`, never
in the middle of something.

    SIGTERM, SIGINT   stop gracefully; a second one: at once
    SIGHUP            reload
    SIGUSR1           have the workers write their counts
    SIGRTMIN          from the controller: replace the workers whose plugins have changed
    SIGUSR2           start a successor (of a new version, perhaps) that takes the sockets and the zone over
    SIGQUIT           from that successor, once it serves: finish what runs, and go
"""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.config.settings import Settings
from gateway.config.values import as_authority
from gateway.core.session import secrets_in
from gateway.server import controller, worker
from gateway.server.children import CONTROLLER, Children, name_of, tell
from gateway.server.listeners import VARIABLE, Handover, Listeners
from gateway.server.notify import notify
from gateway.server.roll import PAUSE, Roll
from gateway.server.state import State
from gateway.server.zone import (
    BEFORE_COUNT,
    BEFORE_FIRST,
    DRAINING,
    FIRST_WORKER,
    MASTER,
    PID,
    WORKER_COUNT,
    WORKERS,
    Zone,
    rows_of,
)
from gateway.tls.store import CertificateStore

_log = logging.getLogger("gateway.master")

_SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGRTMIN,
)  # fmt: skip
_READY_SECONDS = 60.0  # a successor whose workers do not serve by then leaves its predecessor alone


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
        count = worker_count(settings)
        first = handover.first_slot if handover else 0
        self.slots = range(first, first + count)  # the rows of the zone that our workers start in
        header = zone.header
        self.before = rows_of(header[FIRST_WORKER], header[WORKER_COUNT]) if handover else range(0)
        self.listeners = Listeners.open(settings.gateway, count, handover)
        self.state = State(settings.gateway.state_dir, handover)
        self.children = Children(zone, self._be)
        self.listener_of = {slot: index for index, slot in enumerate(self.slots)}
        self.roll = Roll(self.children, zone, rows_of(first, count), self.listener_of)
        self.successor: subprocess.Popen[bytes] | None = None
        self.is_up = False  # every worker has served
        self.has_failed = False  # a child ended before that
        self.is_relieved = False  # a successor serves
        self.stopping = 0  # how many times we were told to stop
        self.is_closed = False  # nothing is accepted any more
        self._sign_zone()
        zone.header[DRAINING] = 0

    # --- the life of it ---

    def run(self) -> int:
        """Serve until told to stop; -> the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for slot in (*self.slots, CONTROLLER):
            self.children.start(slot)
        if not self._come_up():
            return self._give_up()
        while not self.stopping:
            self.wait(min(self.children.until_due(), PAUSE if self.roll.is_under_way else math.inf))
            self.state.keep()
            self.children.start_due()
            self.roll.step()
        return self.stop()

    def _come_up(self) -> bool:
        """Wait until every worker serves, and let a predecessor go; False if that will not be.

        A child that ends before has something wrong that trying again would not mend, and a predecessor serves on."""
        rows = [self.zone.workers[slot] for slot in self.slots]
        limit = _READY_SECONDS if self.handover else math.inf
        self._wait_for(lambda: self.has_failed or self.stopping > 0 or all(row[PID] for row in rows), limit)
        if self.stopping:
            return True
        if self.has_failed or not all(row[PID] for row in rows):
            return False
        self.is_up = True
        predecessor = self.handover.predecessor if self.handover else 0
        if predecessor and os.getppid() == predecessor:
            _log.info("taking over from master %d", predecessor)
            os.kill(predecessor, signal.SIGQUIT)
        self.state.sign()
        public = as_authority(*self.settings.gateway.https)
        _log.info("serving %d models on https://%s with %d workers", len(self.settings.models), public, len(self.slots))
        notify("READY=1", f"MAINPID={os.getpid()}")
        return True

    def _give_up(self) -> int:
        _log.error("the gateway cannot start%s", "" if self.has_failed else f" within {_READY_SECONDS:.0f} s")
        self.is_closed = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            tell(list(self.children.slots), number)
            self._wait_for(lambda: not self.children.slots, 3)
        return 1

    def stop(self) -> int:
        """Stop taking work, let what runs end, and take the children down."""
        shutdown, children = self.settings.gateway.shutdown, self.children
        _log.info("stopping: %d s of grace for what runs", shutdown.grace)
        if not self.is_relieved:
            self._say_goodbye()
            self._wait_for(lambda: self.stopping > 1, shutdown.delay)
        self.is_closed = True
        children.due.clear()
        self.listeners.close_public()
        tell(children.workers, signal.SIGTERM)
        self._wait_for(lambda: self.stopping > 1 or not children.workers, shutdown.grace + 5)
        is_cut = bool(children.workers) and self.stopping < 2
        tell(children.workers, signal.SIGKILL)
        tell(children.controllers, signal.SIGTERM)
        self._wait_for(lambda: not children.slots, 5)
        tell(children.controllers, signal.SIGKILL)
        self._wait_for(lambda: not children.slots, 1)
        self.state.leave()
        return int(is_cut)

    def _say_goodbye(self) -> None:
        """Tell everybody who might still count on us."""
        self.zone.header[DRAINING] = 1  # whoever asks /readyz
        notify("STOPPING=1")
        if self.successor is not None:  # it was to go on in our place, and nobody would know of it
            os.kill(self.successor.pid, signal.SIGTERM)

    def _be(self, slot: int) -> None:
        """In the child of `slot`: all it does."""
        state_dir, listeners = self.settings.gateway.state_dir, self.listeners
        self.state.release()
        if slot == CONTROLLER:
            listeners.close_public()
            controller.run(controller.Office(self.config, state_dir, self.zone, listeners.admin, self.certificates))
            return
        index = self.listener_of[slot]
        listeners.keep_only(index)
        http = listeners.http[index] if listeners.http else None
        slots = rows_of(self.slots.start, len(self.slots))
        secrets = secrets_in(self.state.secret)
        place = worker.Place(slot, slots, listeners.https[index], http, self.zone, state_dir, secrets)
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
            tell(self.children.controllers, signal.SIGHUP)
        elif info.si_signo == signal.SIGUSR1:
            tell(self.children.workers, signal.SIGUSR1)
        elif info.si_signo == signal.SIGRTMIN:
            self.roll.begin()
        elif info.si_signo == signal.SIGUSR2:
            self._hand_over()
        elif info.si_signo == signal.SIGQUIT and self.successor is not None:
            self.is_relieved = True
            self.stopping += 1
        self._reap()

    def _wait_for(self, is_over: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not is_over() and time.monotonic() < end:
            self.wait(min(0.1, end - time.monotonic()))
            self.children.start_due()

    def _reap(self) -> None:
        while self.children.slots or self.successor is not None:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if self.successor is not None and pid == self.successor.pid:
                self._on_successor_lost(code)
                continue
            slot = self.children.take_leave(pid)
            if slot is not None:  # else an orphan, as they are left to the first process of a container
                self._on_child_lost(slot, pid, code)

    def _on_child_lost(self, slot: int, pid: int, code: int) -> None:
        if self.is_closed or (slot == CONTROLLER and self.successor is not None):
            return  # it was told to end
        if self.roll.forgets(pid) or self.roll.has_lost(slot):
            return
        if self.is_up or self.stopping or code < 0:  # killed by somebody, it did not fail by itself
            _log.error("%s (pid %d) ended with %d and is replaced", name_of(slot), pid, code)
            self.children.replace(slot)
        else:
            _log.error("%s (pid %d) ended with %d before it could serve", name_of(slot), pid, code)
            self.has_failed = True

    # --- handing over ---

    def _hand_over(self) -> None:
        """Start a successor from what is installed now, as we were started. Our controller ends, so that health and
        generations have one writer; it comes back if the successor fails."""
        obstacle = self._why_no_successor()
        if obstacle:
            _log.error("no successor is started: %s", obstacle)
            return
        listeners = self.listeners
        handover = Handover(
            https=[listener.fileno() for listener in listeners.https],
            http=[listener.fileno() for listener in listeners.http],
            admin=listeners.admin.fileno(),
            zone=self.zone.fd,
            first_slot=0 if self.slots.start else WORKERS // 2,
            predecessor=os.getpid(),
            state_dir=str(self.settings.gateway.state_dir),
            claim=self.state.claim,
        )
        try:
            self.successor = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, *sys.orig_argv[1:]],
                pass_fds=handover.descriptors,
                env={**os.environ, VARIABLE: handover.to_text()},
                preexec_fn=_unblock,  # noqa: PLW1509 - there are no threads here
            )
        except OSError as error:
            _log.error("no successor is started: %s", error)
            return
        _log.info("starting a successor: pid %d", self.successor.pid)
        tell(self.children.controllers, signal.SIGTERM)

    def _why_no_successor(self) -> str:
        """What is in the way of one; "" for nothing."""
        if self.stopping:
            return "this gateway stops"
        if self.successor is not None:
            return f"pid {self.successor.pid} is one already"
        if self.handover is not None and os.getppid() == self.handover.predecessor:
            return f"master {self.handover.predecessor} has not ended yet"  # it has the rows that a successor needs
        if os.getpid() == 1:
            return "a container ends with its first process; start another container instead"
        return ""

    def _on_successor_lost(self, code: int) -> None:
        """It could not start, or died while we still serve: we go on as before."""
        self.successor = None
        if self.stopping:
            return
        _log.error("the successor ended with %d; this gateway goes on", code)
        self._sign_zone()
        if not self.children.controllers:
            self.children.start(CONTROLLER)

    def _sign_zone(self) -> None:
        header = self.zone.header
        header[MASTER], header[WORKER_COUNT], header[FIRST_WORKER] = os.getpid(), len(self.slots), self.slots.start
        header[BEFORE_FIRST], header[BEFORE_COUNT] = self.before.start, len(self.before)

    def __repr__(self) -> str:
        return f"<Master {self.children!r} successor={self.successor} stopping={self.stopping}>"


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def worker_count(settings: Settings) -> int:
    """`workers: auto` is one for each core that this process may use. Half of the zone's rows at most, since a
    successor has the other half; and less one, in which workers can be replaced."""
    wanted = settings.gateway.workers
    return min(WORKERS // 2 - 1, len(os.sched_getaffinity(0)) if wanted == "auto" else wanted)
