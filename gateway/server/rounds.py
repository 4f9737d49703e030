"""What a worker does by itself, again and again: deadlines, memory and load, counts to write, engines to hear of."""

import logging
import math
from time import monotonic
from typing import TYPE_CHECKING

from gateway.config.settings import Settings
from gateway.control import publish
from gateway.core.endpoint import Endpoint
from gateway.core.work import EngineLoad
from gateway.edge.meters import FLUSH_SECONDS
from gateway.server import memory
from gateway.server.relief import GiveBack, relieve
from gateway.server.watchdog import Watchdog

if TYPE_CHECKING:
    from gateway.server.worker import Worker

_log = logging.getLogger("gateway.worker")

_SWEEP_SECONDS = 0.1  # how late a deadline may be met
_RELIEVE_EVERY = 2  # sweeps between two looks at unfinished requests,
_WEIGH_EVERY = 5  # and at memory
_TRIM_SECONDS = 5.0
_HEAR_SECONDS = 0.25


class Rounds:
    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.runtime = worker.runtime
        watchdog = worker.settings.gateway.watchdog
        self.watchdog = Watchdog(watchdog.stall, watchdog.kill)
        self.give_back = GiveBack()
        self.due = math.inf  # when the next sweep should be
        self.is_reading = False  # the last sweep left deadlines to this one
        self.look = 0  # sweeps
        self.heard: list[Endpoint] = []  # whose engines tell their load, by these settings:
        self.heard_of: Settings | None = None

    def __repr__(self) -> str:
        return f"<Rounds {self.look} sweeps, {len(self.heard)} engines heard>"

    def begin(self) -> None:
        self._sweep()
        self.watchdog.start()
        self._trim()
        self._flush()
        self._hear_engines()

    def _sweep(self) -> None:
        self.worker.loop.call_later(_SWEEP_SECONDS, self._sweep)  # first: one bad turn must not be the last
        now = monotonic()
        late, self.due = now - self.due, now + _SWEEP_SECONDS
        self.look += 1
        blamed = self.watchdog.tick(now)
        if blamed is not None:
            self.runtime.recorder.totals.count_stall(blamed)
        self._weigh(now, late)
        # Timers come before sockets: after a standstill (a frozen container, a stopped process) what seems overdue may
        # have come long since, and is read before the next sweep.
        self.is_reading = late > _SWEEP_SECONDS and not self.is_reading
        if not self.is_reading:
            self.runtime.deadlines.sweep(now)
        self.give_back.see(len(self.worker.server.server_state.connections))
        if self.look % _RELIEVE_EVERY == 0:
            self._relieve(now)

    def _weigh(self, now: float, late: float) -> None:
        """Whether this worker has too much to do."""
        overload = self.runtime.overload
        was = bool(overload.share)
        overload.see_lag(now, late)
        if self.look % _WEIGH_EVERY == 0:
            overload.see_memory(memory.used(self.worker.settings.gateway.overload.memory))
        self.worker.server.reception.room.is_shut = overload.is_shut
        if bool(overload.share) != was:
            _log.warning("overload %s: %r", "is over" if was else "begins", overload)

    def _relieve(self, now: float) -> None:
        """Of memory that header sections under way hold."""
        bound = self.worker.settings.gateway.limits.unfinished_bytes
        cut = relieve(self.worker.server.server_state.connections, bound, now)
        if cut:
            refused = self.runtime.recorder.totals.connections_refused
            refused["unfinished"] = refused.get("unfinished", 0) + cut

    def _trim(self) -> None:
        self.worker.loop.call_later(_TRIM_SECONDS, self._trim)
        self.runtime.trim(monotonic())
        self.give_back.look(len(self.worker.server.server_state.connections))

    def _flush(self) -> None:
        self.worker.loop.call_later(FLUSH_SECONDS, self._flush)
        self.worker.flush()

    def _hear_engines(self) -> None:
        """What the controller was last told by the engines."""
        self.worker.loop.call_later(_HEAR_SECONDS, self._hear_engines)
        zone, settings = self.worker.place.zone, self.worker.settings
        if self.heard_of is not settings:
            self.heard_of, endpoints = settings, self.runtime.endpoints
            self.heard = [endpoints[url] for url in publish.engines_of(settings) if url in endpoints]
        for endpoint in self.heard:
            slot = endpoint.slot
            if zone.engine_at[slot]:
                endpoint.work.engine = EngineLoad(
                    zone.engine_at[slot],
                    zone.engine_waiting[slot],
                    zone.engine_running[slot],
                    zone.engine_usage[slot],
                    zone.engine_cache[slot],
                )
