"""Files that hold keys and the like: written whole or not at all, and lent to OpenSSL without touching a disk."""

import contextlib
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace `path` by `data` at once: a reader, or a crash, meets the old content or the new, never a part.

    `mode` None: a new file is ours alone, an old one stays readable to the group that it was opened to, never to all.
    Raises OSError; nothing is left behind then, nor by Ctrl-C.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the first byte
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if mode is None:
                _keep_owner(handle, path)
            else:
                os.fchmod(handle, mode)
            os.fsync(handle)
        os.replace(temporary, path)
    finally:  # Ctrl-C, too
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _sync_folder(path.parent)


def _keep_owner(handle: int, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        old = path.stat()
        with contextlib.suppress(PermissionError):
            os.fchown(handle, old.st_uid, old.st_gid)
        if os.fstat(handle).st_gid == old.st_gid:
            os.fchmod(handle, 0o600 | (old.st_mode & 0o060))


def _sync_folder(folder: Path) -> None:
    """A rename is safe from a crash only when its folder is on disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in `folder`, over all processes; the kernel lets go if the holder dies. No lock file remains."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def as_path(data: bytes) -> Iterator[str]:
    """A path under which `data` can be opened, for OpenSSL's calls that take files only.

    On Linux it is memory, so that no key is written to a temporary folder and what is loaded is what was checked.
    """
    if sys.platform == "linux":
        descriptor = os.memfd_create("gateway-tls", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
    else:
        with tempfile.NamedTemporaryFile(prefix="gateway-tls-") as file:
            file.write(data)
            file.flush()
            yield file.name
