"""The controller's loop, which looks a name up once at a time however many ask for it.

A lookup holds a thread for as long as the resolver says nothing, and a check that gives it up does not end it:
checks of a few names that nobody answers for took all threads, and good endpoints were told as down.
"""

import asyncio
import contextlib
import os
import resource
from collections.abc import Iterable, MutableMapping
from math import inf
from pathlib import Path
from typing import Any

import uvloop

_THREADS = 64  # libuv gives half of them to lookups; of its own four, two silent names took all
_LEAST = 4
_GROUPS = (Path("/sys/fs/cgroup/pids.max"), Path("/sys/fs/cgroup/pids/pids.max"))  # version 2, and 1


def widen(processes: int, environ: MutableMapping[str, str] = os.environ, groups: Iterable[Path] = _GROUPS) -> None:
    """Have each of so many processes that are forked from now on look up more names at one time.

    libuv starts all of the threads with the first lookup, and aborts if one of them is refused: they are a quarter of
    what a process's share of the tasks is that we may have, since a successor's are there too in a handover."""
    room, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    rooms = [room] if room != resource.RLIM_INFINITY else []
    for group in groups:
        with contextlib.suppress(OSError, ValueError):  # "max", or no such group
            rooms.append(int(group.read_text()))
    share = min(rooms, default=inf) / processes
    environ.setdefault("UV_THREADPOOL_SIZE", str(max(_LEAST, int(min(_THREADS, share // 4)))))


class Loop(uvloop.Loop):
    def __init__(self) -> None:
        super().__init__()
        self.lookups: dict[Any, asyncio.Task[Any]] = {}  # under way

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        key = (host, port, *sorted(options.items()))
        lookup = self.lookups.get(key)
        if lookup is None:
            lookup = self.lookups[key] = self.create_task(super().getaddrinfo(host, port, **options))
            lookup.add_done_callback(lambda _: self.lookups.pop(key, None))
        return await asyncio.shield(lookup)
