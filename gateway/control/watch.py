"""Notices that a file changed: routes.yaml, the keys, certificates, key sets, plugins."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

_log = logging.getLogger("gateway.controller")

_POLL_SECONDS = 0.25  # certificates and keys are to be live within a second
_SETTLE_SECONDS = 0.1  # files are written in several steps; read when they have been still for so long
_SETTLE_TIMES = 20  # a file that never is, a log among the certificates, must not keep the others from being read

Stamp = tuple[tuple[str, int, int, int], ...]


def stamp(paths: Iterable[Path]) -> Stamp:
    """What distinguishes the present state of files, and of the files directly in folders, from an earlier one."""
    found = []
    for path in paths:
        for file in (path, *_inside(path)):
            try:
                status = file.stat()
            except OSError:
                continue
            found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _inside(path: Path) -> list[Path]:
    """The files of a folder; none of what is no folder, or is not ours to look into."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


async def watch(
    paths: Callable[[], Iterable[Path]],
    on_change: Callable[[], Awaitable[object]],
    at_start: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Call `on_change` whenever one of `paths()` changed and is still again, or will not be still; never returns.
    `at_start` is called first: nothing that changes after it has looked is missed.

    Polling, not inotify: it sees a ConfigMap's swapped symlink, a network folder and a file that was not there before,
    and a few hundred `stat` a second are nothing beside the workers.
    """
    seen = await asyncio.to_thread(stamp, paths())
    if at_start is not None:
        await _do(at_start)
    while True:
        await asyncio.sleep(_POLL_SECONDS)
        now = await asyncio.to_thread(stamp, paths())
        if now == seen:
            continue
        for _ in range(_SETTLE_TIMES):
            await asyncio.sleep(_SETTLE_SECONDS)
            before, now = now, await asyncio.to_thread(stamp, paths())
            if now == before:
                break
        seen = now
        _log.info("files changed: reloading")
        await _do(on_change)


async def _do(action: Callable[[], Awaitable[object]]) -> None:
    try:
        await action()
    except Exception:  # a task's border: the next change must still be noticed
        _log.exception("a change of files could not be taken over")
