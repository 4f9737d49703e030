"""The gateway's own log, on standard error: whoever reads it may stop, and nothing here waits for that.

A full pipe (a collector that hangs, a terminal after Ctrl-S) would hold up the loop of a worker at its next warning,
and the master at its next word, so that not even SIGTERM ended it. What finds no room is lost, and the next that does
says how much.
"""

import logging
import os
import select
from typing import Final

_FD: Final = 2
_PIECE: Final = select.PIPE_BUF  # bytes that go into whatever has room at all (pipe(7))
_PATIENCE: Final = 100  # milliseconds; none while lines are being lost


class StandardError(logging.Handler):
    """Made before the processes are forked; each of them counts its own losses."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0  # since something was written
        self._poll = select.poll()
        self._poll.register(_FD, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        lost = f"(nobody read this log: {self.lost} messages are lost)\n" if self.lost else ""
        data = f"{lost}{self.format(record)}\n".encode(errors="backslashreplace")
        try:
            for start in range(0, len(data), _PIECE):
                if not self._poll.poll(0 if self.lost else _PATIENCE):
                    raise BlockingIOError
                os.write(_FD, data[start : start + _PIECE])
        except OSError:  # nobody reads any more, or has made it so that it says so
            self.lost += 1
        else:
            self.lost = 0
