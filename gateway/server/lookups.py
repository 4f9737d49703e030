"""The controller's loop, which looks a name up once at a time however many ask for it.

A lookup holds a thread for as long as the resolver says nothing, and a check that gives it up does not end it:
checks of a few names that nobody answers for took all threads, and good endpoints were told as down.
"""

import asyncio
import os
from collections.abc import MutableMapping
from typing import Any

import uvloop

_THREADS = "64"  # libuv gives half of them to lookups; of its own four, two silent names took all


def widen(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have every process that is forked from now on look up more names at one time."""
    environ.setdefault("UV_THREADPOOL_SIZE", _THREADS)


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
