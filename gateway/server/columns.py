"""What the controller writes of endpoints into the zone. Every endpoint has a column there, by its URL.

What a column says is the endpoint's, not the process's that wrote it: it outlives the controller and a handover, and
ends when the column becomes another endpoint's.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from math import inf

from gateway.core.endpoint import Health
from gateway.core.engines import Reading
from gateway.server.zone import CONTROLLERS_BELL, Zone


class Columns:
    """The zone's columns of the endpoints in `slots`. One writer: the controller."""

    def __init__(self, zone: Zone, clock: Callable[[], float] = time.monotonic) -> None:
        self.zone = zone
        self.clock = clock
        self.slots: Mapping[str, int] = {}
        self.ring = zone.doorbell(CONTROLLERS_BELL)

    def assign(self, slots: Mapping[str, int]) -> None:
        """From now on these endpoints have these columns. What a column says of an earlier owner is wiped."""
        before, self.slots = self.slots, slots
        for url, slot in slots.items():
            if before.get(url) == slot:
                continue
            owner = _digest(url)
            if self.zone.owners[slot] != owner:
                self.zone.drains[slot] = 0.0
                self.zone.engine_at[slot] = 0.0
                self._write(slot, Health.CHECKING)
                self.zone.owners[slot] = owner  # last: whoever dies in between has it wiped again

    def tell(self, url: str, health: Health, reason: str = "") -> None:
        """For `Prober`: an endpoint's health changed. That a controller knows nothing yet does not undo what another
        found out before it."""
        slot = self.slots.get(url)
        if slot is None or (health is Health.CHECKING and self.zone.health[slot] != Health.DRAINING):
            return
        is_over = health is Health.DRAINING and 0.0 < self.zone.drains[slot] <= self.clock()
        self._write(slot, Health.DOWN if is_over else health)

    def tell_engine(self, url: str, reading: Reading) -> None:
        """For `Engines`: what an endpoint's engine says of itself. The time is written last: whoever reads in between
        sees what is a second old beside what is new, and both are true enough."""
        slot = self.slots.get(url)
        if slot is not None:
            zone = self.zone
            zone.engine_waiting[slot] = reading.waiting
            zone.engine_running[slot] = reading.running
            zone.engine_usage[slot] = reading.kv_usage
            zone.engine_cache[slot] = reading.cache
            zone.engine_at[slot] = self.clock()

    # --- drains by command ---

    def drain(self, urls: Iterable[str], end: float = inf) -> None:
        """Sessions bound to them may stay until `end` of the monotonic clock."""
        for url in urls:
            self.zone.drains[self.slots[url]] = end

    def undrain(self, urls: Iterable[str]) -> None:
        for url in urls:
            self.zone.drains[self.slots[url]] = 0.0

    @property
    def drained(self) -> dict[str, float]:
        """Who is drained, and until when sessions may stay."""
        return {url: end for url, slot in self.slots.items() if (end := self.zone.drains[slot])}

    def end_sessions(self) -> None:
        """Where a drain's deadline is over, no session is kept: those endpoints count as down."""
        now = self.clock()
        for url, end in self.drained.items():
            if end <= now:
                self._write(self.slots[url], Health.DOWN)

    def _write(self, slot: int, health: Health) -> None:
        if health is Health.UP and self.zone.health[slot] != Health.UP:
            self.zone.since[slot] = self.clock()
        self.zone.health[slot] = health
        self.ring()

    def __repr__(self) -> str:
        return f"<Columns of {len(self.slots)} endpoints, {len(self.drained)} drained>"


def _digest(url: str) -> int:
    """Never 0, which is nobody's."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "little", signed=True) or 1
