"""Notices, from a thread of its own, that a worker's loop stands still, and says where it stands.

The loop serves all requests of the worker: what blocks in it, `time.sleep` or a long computation in a plugin, holds up
every one of them. Nobody in the loop can tell while that lasts. A thread can: it wakes a few times a second, and when
the loop has not ticked for `stall` seconds it logs the loop's stack, once for each time. Ended is such a worker only if
the operator says so (`kill`): its other requests, which might still be served, end with it.

What holds Python's own lock for as long (an extension in C that does not release it) holds up the thread, too.
"""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from types import FrameType

from gateway import plugin

_log = logging.getLogger("gateway.worker")

_LOOK = 0.25  # seconds
_FRAMES = 12  # of the stack, the innermost


class Watchdog:
    """One for each worker; made in the thread that runs the loop."""

    def __init__(self, stall: float, kill: float | None) -> None:
        """Seconds without a tick until it is said, 0: never; and until the worker is ended, None: never."""
        self.stall = stall
        self.kill = kill
        self.watched = threading.get_ident()
        self.ticked = time.monotonic()
        self.blamed: str | None = None  # set by the thread while the loop stands still, taken back by the loop

    def start(self) -> None:
        if self.stall:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def tick(self, now: float) -> str | None:
        """Called by the loop; -> whom it was held up by since the last tick ("": nobody who is known), if it was."""
        blamed = self.blamed
        if blamed is not None:
            self.blamed = None
            _log.warning("the loop turns again, after %.1f s", now - self.ticked)
        self.ticked = now
        return blamed

    def look(self, now: float) -> None:
        silent = now - self.ticked
        if self.kill is not None and silent >= self.kill:
            _log.critical("the loop has stood still for %.1f s; the worker is ended", silent)
            os.kill(os.getpid(), signal.SIGKILL)
        if silent >= self.stall and self.blamed is None:
            frame = sys._current_frames().get(self.watched)
            self.blamed = blamed_for(frame)
            stack = "".join(traceback.format_list(traceback.extract_stack(frame)[-_FRAMES:]))
            held_up = f", held up by {self.blamed}" if self.blamed else ""
            _log.error("the loop has stood still for %.1f s%s; it stands in\n%s", silent, held_up, stack.rstrip())

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(_LOOK)
            now = time.monotonic()
            if now - before < 2 * _LOOK:  # else the whole process stood still, stopped or without a core: look again
                self.look(now)

    def __repr__(self) -> str:
        return f"<Watchdog stall={self.stall} kill={self.kill} blamed={self.blamed!r}>"


def blamed_for(frame: FrameType | None) -> str:
    """The plugin whose code runs, or has called what runs, as `module.Class`. A plugin further out, which only waits
    for the gateway's own code or another plugin, is not it; "" if it is none."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if plugin.is_module(module):
            return f"{module}.{frame.f_code.co_qualname.partition('.')[0]}"
        if module.startswith("gateway."):
            return ""
        frame = frame.f_back
    return ""
