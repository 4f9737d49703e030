"""The access log: one JSON line per finished request.

A line is whole or absent, and nobody but us can end one: it is pure printable ASCII, so that neither CR and LF nor
Unicode's line separators, terminal escapes or direction marks in a client's words can forge or hide another.

Lines gather in memory and go out in batches through a thread, because neither a slow disk (its flag O_NONBLOCK means
nothing) nor a blocked pipe (its flag would be shared with every process that has the same one) may hold up the loop.
What waits is bounded; beyond that lines are dropped, and counted. A file that was renamed or deleted (rotation) is
noticed by the next batch, which opens a new one of the old name.
"""

import asyncio
import logging
import os
import queue
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from gateway.core.metrics import Totals
from gateway.edge.line import ATOMIC_BYTES, Line, render
from gateway.model import Exchange

_log = logging.getLogger("gateway.journal")

BATCH_LINES: Final = 512  # about 256 KiB; waking the writer costs as much as making ten lines
BATCH_SECONDS: Final = 0.1
WAITING_BYTES: Final = 4 * 2**20  # some 8,000 lines: what a disk may be late before lines are dropped
# What is kept of others' words, in bytes or characters: with each of them escaped to two, a line is under ATOMIC_BYTES.
_PATH: Final = 900
_HOST: Final = 255
_AGENT: Final = 200
_ID: Final = 128
_NAME: Final = 64


_MILLIS: Final = tuple(f"{milli:03d}Z" for milli in range(1000))
_QUESTION: Final = ord("?")  # a number: see `server/target.py`


class Journal:
    """Make it after the fork, close it at the worker's exit."""

    def __init__(self, path: str, *, wall: Callable[[], float] = time.time) -> None:
        """`path` is a file that is appended to, or "-" for standard output. What cannot be opened now may be later, and
        till then lines are lost: a worker in the place of one that died must not fail for its log."""
        self._wall = wall
        self._instant = -1  # milliseconds of `_stamp`
        self._second = -1
        self._prefix = ""
        self._stamp = ""
        self._lines: list[Line] = []
        self._timer: asyncio.TimerHandle | None = None
        self._handed = 0  # bytes given to the writer
        self._refused = 0  # lines dropped because too many wait
        self._reported = 0
        self._writer = _Writer(path)

    def record(self, scope: dict[str, Any], exchange: Exchange, total: float) -> None:
        """Log a finished exchange that took `total` seconds."""
        fields = exchange.fields
        host, agent = fields.get(b"host"), fields.get(b"user-agent")
        path: bytes = scope["raw_path"]
        if _QUESTION in path:  # not of the target as it came: that of a request that was refused
            path = path.partition(b"?")[0]
        route, pool, endpoint, error = exchange.route, exchange.pool, exchange.endpoint, exchange.error
        principal = exchange.principal
        first_byte = exchange.first_byte
        extras = exchange.extras
        line = Line(
            self._now(),
            exchange.request_id,
            exchange.client_ip,
            principal.id[:_ID],
            principal.name[:_NAME],
            scope["method"],
            path[:_PATH].decode("latin-1"),
            host[:_HOST].decode("latin-1") if host else "",
            route.name if route is not None else None,
            pool.version if pool is not None else None,
            endpoint.url if endpoint is not None else None,
            exchange.attempts,
            exchange.status,
            exchange.bytes_in,
            exchange.bytes_out,
            (first_byte - exchange.started) * 1e6 // 1 / 1e3 if first_byte else None,  # whole microseconds
            total * 1e6 // 1 / 1e3,
            error.owner if error is not None else None,
            error.code if error is not None else None,
            extras.queued * 1e6 // 1 / 1e3 if extras is not None and extras.queued else None,
            extras.fallback_from or None if extras is not None else None,
            agent[:_AGENT].decode("latin-1") if agent else "",
        )
        lines = self._lines
        lines.append(line)
        if len(lines) == 1:
            self._timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self.flush)
        elif len(lines) >= BATCH_LINES:
            self.flush()

    def flush(self) -> None:
        """Hand what has gathered to the writer, or drop it if too much is waiting there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        batch = render(self._lines)
        self._lines = []
        if self._handed - self._writer.written + len(batch) > WAITING_BYTES:
            self._refused += batch.count(b"\n")
            return
        self._handed += len(batch)
        self._writer.put(batch)

    def close(self, timeout: float = 2.0) -> None:
        """Flush, and wait `timeout` seconds for it to be written."""
        self.flush()
        self._writer.close(timeout)

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._refused + self._writer.lost

    def report(self, totals: Totals) -> None:
        """For `Recorder.before_flush`."""
        dropped = self.dropped
        totals.lines_dropped += dropped - self._reported
        self._reported = dropped

    def _now(self) -> str:
        wall = self._wall()
        instant = int(wall * 1000)
        if instant != self._instant:
            self._instant = instant
            second = instant // 1000
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._stamp = self._prefix + _MILLIS[instant % 1000]
        return self._stamp

    def __repr__(self) -> str:
        waiting = self._handed - self._writer.written
        return f"<Journal {self._writer.path} gathered={len(self._lines)} waiting={waiting} dropped={self.dropped}>"


def open_log(path: str) -> int:
    """-> its descriptor. Without waiting: a named pipe that nobody reads is ENXIO. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)


_END: Final = None
_LF: Final = 0x0A


class _Writer:
    """The thread that writes batches, and the descriptor that only it touches. Counters have one writer each."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.written = 0  # bytes done with, written or lost
        self.lost = 0  # lines that could not be written
        self._batches: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._runner: threading.Thread | None = None
        self._is_torn = False  # the last write ended inside a line
        self._is_stuck = False  # the file is gone and no new one can be opened
        self._fd = -1
        self._is_file = True
        self._identity = (-1, -1)
        self._try_open("the access log cannot be opened: %s")

    def put(self, batch: bytes) -> None:
        if self._runner is None:  # not in the constructor: threads do not survive a fork
            runner = threading.Thread(target=self._run, name="journal", daemon=True)
            try:
                runner.start()
            except RuntimeError:  # no thread is to be had; there may be one for the next batch
                self.lost += batch.count(b"\n")
                self.written += len(batch)
                return
            self._runner = runner
        self._batches.put(batch)

    def close(self, timeout: float) -> None:
        if self._runner is not None:
            self._batches.put(_END)
            self._runner.join(timeout)
            if self._runner.is_alive():
                return
        if self.path != "-" and self._fd >= 0:
            os.close(self._fd)

    def _open(self) -> None:
        if self.path == "-":
            self._fd = 1
        else:
            fd = open_log(self.path)
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = fd
        opened = os.fstat(self._fd)
        self._is_file = stat.S_ISREG(opened.st_mode)
        self._identity = (opened.st_dev, opened.st_ino)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not _END:
            if self._is_file and self.path != "-":
                self._follow()
            for piece in _pieces(batch, len(batch) if self._is_file else ATOMIC_BYTES):
                self._write(piece)
            self.written += len(batch)

    def _follow(self) -> None:
        """Go on in a new file if ours is no longer what `path` names: 2 µs a batch, and nobody has to tell us."""
        try:
            named = os.stat(self.path)
            if (named.st_dev, named.st_ino) == self._identity:
                return
        except OSError:
            pass
        self._try_open("the access log goes on in its old file: %s")

    def _try_open(self, failure: str) -> None:
        try:
            self._open()
            self._is_stuck = False
        except OSError as error:
            if not self._is_stuck:
                _log.warning(failure, error)
            self._is_stuck = True

    def _write(self, piece: bytes) -> None:
        """All of the piece, whole lines; what the system refuses is lost and counted."""
        rest = piece
        if self._is_torn:  # end that line first: a part of one is bad enough
            rest = b"\n" + piece
        while rest:
            try:
                count = os.write(self._fd, rest)
            except BlockingIOError:  # somebody we share standard output with made it so
                _wait_writable(self._fd)
            except OSError:
                self.lost += rest[-len(piece) :].count(b"\n")
                return
            else:
                self._is_torn = rest[count - 1] != _LF
                rest = rest[count:]


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(1000)


def _pieces(batch: bytes, bound: int) -> Iterator[bytes]:
    """The batch in pieces of whole lines: as many as fit into `bound` bytes, at least one."""
    start = 0
    while start < len(batch):
        end = batch.rfind(b"\n", start, start + bound) + 1 or batch.index(b"\n", start) + 1
        yield batch[start:end]
        start = end
