"""The workers as the controller sees them: by their rows in the zone, and reached by signals."""

import asyncio
import contextlib
import os
import signal
import time

from gateway.server.zone import (
    ENDING,
    FIRST_WORKER,
    FLUSHED,
    LOADED,
    MASTER,
    PID,
    STALE,
    WANTED,
    WORKER_COUNT,
    Zone,
    rows_of,
)

_LOAD_SECONDS = 10.0  # a worker that has not taken over a generation by then is reported
_ROLL_SECONDS = 60.0  # and so much longer for each worker, if they are replaced one by one
_PARTING_SECONDS = 2.0  # an idle connection is kept for one of them, see `EdgeProtocol.shutdown`
_FLUSH_SECONDS = 0.25  # a scrape waits no longer for a worker that is busy
_STEP = 0.01


class Crew:
    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def __repr__(self) -> str:
        return f"<Crew pids {[row[PID] for row in self.all_rows()]}>"

    def slots(self) -> range:
        """The rows of the zone that our workers have, or may be given."""
        return rows_of(self.zone.header[FIRST_WORKER], self.zone.header[WORKER_COUNT])

    def all_rows(self) -> list[memoryview]:
        return [self.zone.workers[slot] for slot in self.slots()]

    def rows(self) -> list[memoryview]:
        """Of the workers that serve; one that starts reads what was published last, one that ends takes no new work."""
        return [row for row in self.all_rows() if row[PID] and not row[ENDING]]

    def tell(self, number: signal.Signals) -> None:
        for row in self.all_rows():
            if row[PID]:
                with contextlib.suppress(ProcessLookupError):  # one that died in this instant is the master's business
                    os.kill(row[PID], number)

    async def take_over(self, generation: int) -> list[str]:
        """Tell them of a generation, and wait until all have it; -> which have not."""
        self.tell(signal.SIGHUP)
        is_rolling = False
        end = time.monotonic() + _LOAD_SECONDS
        while time.monotonic() < end:
            if all(row[LOADED] >= generation for row in self.rows()):
                await self._part(_PARTING_SECONDS if is_rolling else 0.0)
                return []
            if not is_rolling and any(row[STALE] for row in self.rows()):
                is_rolling = True
                os.kill(self.zone.header[MASTER], signal.SIGRTMIN)
                end += _ROLL_SECONDS * self.zone.header[WORKER_COUNT]
            await asyncio.sleep(_STEP)
        late = [row for row in self.rows() if row[LOADED] < generation]
        return [f"worker {row[PID]} still serves generation {row[LOADED]}" for row in late]

    async def _part(self, seconds: float) -> None:
        """Wait until workers that end have told their idle clients so: who asks from then on meets the new code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(row[PID] and row[ENDING] for row in self.all_rows()):
            await asyncio.sleep(_STEP)

    async def flush(self) -> None:
        """Have every worker write its counts, and wait for it a moment."""
        rows = [row for row in self.all_rows() if row[PID]]
        before = [row[FLUSHED] for row in rows]
        self.tell(signal.SIGUSR1)
        end = time.monotonic() + _FLUSH_SECONDS
        while time.monotonic() < end and any(row[FLUSHED] == old for row, old in zip(rows, before, strict=True)):
            await asyncio.sleep(_STEP)

    def wanted(self) -> int:
        """Bits of the issuers (`wanted_bit`) of which a worker saw a token by a key that they did not have."""
        wanted = 0
        for row in self.rows():
            wanted |= row[WANTED]
        return wanted
