"""Where a worker's counts are kept so that others can read them: one small file per worker, replaced whole.

Files, not shared memory: labels are few but not fixed, and nobody needs them more often than Prometheus scrapes. A
worker that dies takes with it what it counted since its last flush, never what was already seen: its successor starts
from the file, so no counter goes down.
"""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.core import metrics
from gateway.core.metrics import Totals

_log = logging.getLogger("gateway.metrics")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Totals).decode

FLUSH_SECONDS = 5.0  # what a dying worker may take with it


class Recorder:
    """The counts of the worker in `slot`, and their file in `folder`. One owner: no lock."""

    def __init__(self, slot: int, folder: Path) -> None:
        """A folder that cannot be written is logged: a worker in the place of one that died must not fail for it."""
        with contextlib.suppress(OSError):  # told by the flush
            _make(folder)
        self.path = folder / f"worker-{slot}"
        self.totals = _read(self.path) or Totals()
        self.totals.forget_gauges()
        self._hooks: list[Callable[[Totals], None]] = []
        self.flush()

    def before_flush(self, hook: Callable[[Totals], None]) -> None:
        """`hook` sets, just before the totals are written, what is not counted event by event."""
        self._hooks.append(hook)

    def flush(self) -> None:
        """Write the totals; a reader sees the old file or the new one, never a part. A full disk loses nothing but
        freshness: it is logged, and the next flush tries again."""
        for hook in self._hooks:
            hook(self.totals)
        try:
            self._write()
        except OSError as error:
            _log.warning("metrics are not written: %s", error)

    def close(self) -> None:
        """At the worker's exit: nothing is open or in flight any more."""
        self.flush()
        self.totals.forget_gauges()
        self._hooks.clear()
        self.flush()

    def _write(self) -> None:
        scratch = self.path.with_name(f".{self.path.name}")
        try:
            scratch.write_bytes(_encode(self.totals))
        except FileNotFoundError:  # the folder was removed
            _make(scratch.parent)
            scratch.write_bytes(_encode(self.totals))
        os.replace(scratch, self.path)

    def __repr__(self) -> str:
        return f"<Recorder {self.path} {self.totals!r}>"


def merge(folder: Path) -> Totals:
    """The sum of what all workers, living and gone, have written; empty if there is no folder yet."""
    parts = (_read(path) for path in sorted(folder.glob("worker-*")))
    return metrics.merge(part for part in parts if part is not None)


def clear(folder: Path) -> None:
    """Before the first worker of a new gateway starts: counters start from zero with the gateway, not with a worker."""
    for path in folder.glob("worker-*"):
        path.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """The folder, and that of state around it, which is nobody else's to read. Raises OSError."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)


def _read(path: Path) -> Totals | None:
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:  # another version's, or not ours
        _log.warning("metrics of %s are left out: %s", path, error)
        return None
