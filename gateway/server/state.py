"""The master's part of `state_dir`: whose it is, the secret of sessions, the file that says who takes signals.

What is missing there is written anew while the gateway runs: a cleaner of temporary files, or a volume that somebody
replaced, must not keep a worker from taking a dead one's place. The controller does so for what it has published.
"""

import contextlib
import fcntl
import logging
import os
from pathlib import Path

from gateway.server.listeners import Handover

_log = logging.getLogger("gateway.master")

SESSION_SECRETS = "session.secret"
_PID_FILE = "gateway.pid"
_CLAIM = "lock"


class State:
    """`state_dir`, for as long as this master runs."""

    def __init__(self, folder: Path, handover: Handover | None) -> None:
        """Claims the folder, or takes the claim over. Raises OSError if it cannot be read or written."""
        self.folder = folder
        self.pid_file = folder / _PID_FILE
        self.secret = (folder / SESSION_SECRETS).read_bytes()  # one for all workers, those that start tomorrow too
        self.claim = _claimed(folder, handover)

    def release(self) -> None:
        """In a child: the claim ends with the master, whatever its children have yet to finish."""
        os.close(self.claim)

    def sign(self) -> None:
        """For those who send signals: the file names the master that serves. What cannot be written is logged."""
        scratch = self.pid_file.with_suffix(".new")
        try:
            scratch.write_text(f"{os.getpid()}\n")
            scratch.rename(self.pid_file)
        except OSError as error:
            _log.warning("%s is not written: %s", self.pid_file, error.strerror)

    def keep(self) -> None:
        """Write what has been removed; what cannot be is tried again the next time."""
        secret = self.folder / SESSION_SECRETS
        if secret.exists() and self.pid_file.exists():
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            ensure_secret(secret, self.secret)
            if not self.pid_file.exists():
                self.sign()

    def leave(self) -> None:
        """Take the name off, unless it is a successor's by now."""
        with contextlib.suppress(OSError):
            if self.pid_file.read_text().strip() == str(os.getpid()):
                self.pid_file.unlink()


def ensure_secret(path: Path, secret: bytes) -> None:
    """Write what signs session cookies, unless there is something. Several gateways that share clients share it. On a
    full disk nothing is left: with an empty one no gateway would start again. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        with open(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _claimed(folder: Path, handover: Handover | None) -> int:
    """The descriptor that holds the claim. Of two gateways in one folder each starts its workers with what the other
    has published last: it is said, and no more, since one that ends may have a minute's streams to finish, and nothing
    to start. A lock of the open file, which a successor inherits with the descriptor, and which is gone with its
    holders; where a file system has none, nothing is claimed."""
    if handover is not None and handover.claim >= 0:
        if handover.state_dir == str(folder):
            os.set_inheritable(handover.claim, False)
            return handover.claim
        os.close(handover.claim)
    descriptor = os.open(folder / _CLAIM, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning(
            "%s is another gateway's, which runs; give each a gateway.state_dir of its own: a worker that takes a dead "
            "one's place may start with the other's models", folder,
        )  # fmt: skip
    except OSError as error:
        _log.info("%s cannot be claimed: %s", folder, error.strerror)
    return descriptor
