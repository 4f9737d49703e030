"""The processes that a master has forked, each in its slot, and when one that ended is started again."""

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from gateway.server.zone import Zone

_log = logging.getLogger("gateway.master")

CONTROLLER = -1  # its slot; a worker's is its row of the zone
_CRASH_SECONDS = 1.0  # a child that lived shorter is started again only after a pause
_CRASH_PAUSE = 0.5
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Children:
    """`be(slot)` is what a child does, in the child. Only a process without threads may have one of these: it forks."""

    def __init__(self, zone: Zone, be: Callable[[int], None]) -> None:
        self.zone = zone
        self.be = be
        self.slots: dict[int, int] = {}  # by pid
        self.started: dict[int, float] = {}  # slot -> when
        self.due: dict[int, float] = {}  # slot -> when it may be started again

    def start(self, slot: int) -> None:
        """Fork the child of `slot`; if the system has no room for it, try again soon."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.due.pop(slot, None)
        self.started[slot] = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:
            _log.error("%s cannot be started: %s", name_of(slot), error.strerror)
            self.due[slot] = time.monotonic() + _CRASH_PAUSE
            return
        if pid == 0:
            self._run(slot, parent)
        self.slots[pid] = slot

    def _run(self, slot: int, parent: int) -> NoReturn:
        code = 1
        try:
            _leave_terminal()
            end_with_parent(parent, signal.SIGTERM)
            self.be(slot)
            code = 0
        except BaseException:  # a process's border: nothing of the master's must run in the child
            _log.exception("%s failed", name_of(slot))
        finally:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(code)

    def take_leave(self, pid: int) -> int | None:
        """This process has been reaped: what it held is free; -> its slot, None if it was not one of ours."""
        slot = self.slots.pop(pid, None)
        if slot is not None and slot != CONTROLLER:
            self.zone.reclaim(slot)
        return slot

    def replace(self, slot: int) -> None:
        """Start its child again: at once, or after a pause if it had just been started."""
        now = time.monotonic()
        self.due[slot] = now + (_CRASH_PAUSE if now - self.started[slot] < _CRASH_SECONDS else 0.0)

    def start_due(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, when in self.due.items() if when <= now]:
            self.start(slot)

    def until_due(self) -> float:
        """Seconds; a minute if there is nothing to start."""
        now = time.monotonic()
        return min((when - now for when in self.due.values()), default=60.0)

    @property
    def workers(self) -> list[int]:
        """Their pids."""
        return [pid for pid, slot in self.slots.items() if slot != CONTROLLER]

    @property
    def controllers(self) -> list[int]:
        """Its pid, if it runs."""
        return [pid for pid, slot in self.slots.items() if slot == CONTROLLER]

    def __repr__(self) -> str:
        return f"<Children {self.slots} due={self.due}>"


def tell(pids: list[int], number: int) -> None:
    """Signal children that have not been reaped: no pid of theirs can be another's."""
    for pid in pids:
        os.kill(pid, number)


def name_of(slot: int) -> str:
    return "the controller" if slot == CONTROLLER else f"worker {slot}"


def _leave_terminal() -> None:
    """Ctrl-C reaches the whole process group; only the master acts on it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def end_with_parent(parent: int, number: int) -> None:
    """Have the kernel send a signal to this process when its parent dies; exit at once if it has died already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
