"""Notices that a file changed: routes.yaml, the keys, certificates, key sets, plugins."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

_log = logging.getLogger("gateway.controller")

_POLL_SECONDS = 0.25  # certificates and keys are to be live within a second
_SETTLE_SECONDS = 0.1  # files are written in several steps; read when they have been still for so long

Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(paths: Iterable[Path]) -> Stamp:
    """What distinguishes the present state of files, and of the files directly in folders, from an earlier one."""
    found = []
    for path in paths:
        for file in [path, *sorted(path.iterdir())] if path.is_dir() else [path]:
            try:
                status = file.stat()
            except OSError:
                continue
            found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


async def watch(paths: Callable[[], Iterable[Path]], on_change: Callable[[], Awaitable[object]]) -> None:
    """Call `on_change` whenever one of `paths()` changed and is still again; never returns.

    Polling, not inotify: it sees a ConfigMap's swapped symlink, a network folder and a file that was not there before,
    and a few hundred `stat` a second are nothing beside the workers.
    """
    seen = await asyncio.to_thread(stamp, paths())
    while True:
        await asyncio.sleep(_POLL_SECONDS)
        now = await asyncio.to_thread(stamp, paths())
        if now == seen:
            continue
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            again = await asyncio.to_thread(stamp, paths())
            if again == now:
                break
            now = again
        seen = now
        _log.info("files changed: reloading")
        await on_change()
