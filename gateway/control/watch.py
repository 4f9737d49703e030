"""Notices that a file changed: routes.yaml, the keys, certificates, key sets, plugins."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

_log = logging.getLogger("gateway.controller")

_POLL_SECONDS = 0.1  # certificates and keys are to be live within a second
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


class Watcher:
    """Calls `on_change` whenever one of `paths()` has changed and is still again, or will not be still.

    Polling, not inotify: it sees a ConfigMap's swapped symlink, a network folder and a file that was not there before,
    and a few hundred `stat` a second are nothing beside the workers.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]], on_change: Callable[[], Awaitable[object]]) -> None:
        self.paths = paths
        self.on_change = on_change
        self.seen: Stamp = ()

    async def mark(self) -> None:
        """All is about to be read: only what changes from now on is news."""
        self.seen = await self._look()

    async def run(self) -> None:
        """Never returns. Whoever has not marked anything hears of everything once."""
        while True:
            began = time.monotonic()
            now = await self._look()
            pause = max(_POLL_SECONDS, time.monotonic() - began)  # 10,000 certificates take a quarter of a second
            if now != self.seen:
                now = await self._settled(now)
            if now != self.seen:  # still: somebody else may have had it read meanwhile
                self.seen = now
                _log.info("files changed: reloading")
                await self._tell()
            await asyncio.sleep(pause)

    async def _settled(self, now: Stamp) -> Stamp:
        for _ in range(_SETTLE_TIMES):
            await asyncio.sleep(_SETTLE_SECONDS)
            before, now = now, await self._look()
            if now == before:
                break
        return now

    async def _look(self) -> Stamp:
        return await asyncio.to_thread(stamp, list(self.paths()))

    async def _tell(self) -> None:
        try:
            await self.on_change()
        except Exception:  # a task's border: the next change must still be noticed
            _log.exception("a change of files could not be taken over")

    def __repr__(self) -> str:
        return f"<Watcher of {len(self.seen)} files>"
