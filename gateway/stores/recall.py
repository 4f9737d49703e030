"""Who was found lately, in front of a look-up that takes its time."""

from collections.abc import Callable
from typing import Final

from gateway.model import Principal

_REMEMBERED: Final = 16_384  # keys in use that are known without working out their MAC; all forgotten when it is full

LookUp = Callable[[bytes, float], tuple[Principal, float] | None]


class Recall:
    """By the keys themselves. The dict compares what has the same hash, all 64 secret bits of it, so that its time
    tells nothing about keys that exist."""

    def __init__(self, look_up: LookUp) -> None:
        """`look_up` says whose a key is, and until when."""
        self._look_up = look_up
        self._known: dict[bytes, tuple[Principal, float]] = {}

    def find(self, presented: bytes, now: float) -> Principal | None:
        """Whose key this is; None if nobody's or no longer valid. `now` is seconds since the epoch."""
        known = self._known.get(presented)
        if known is not None and now < known[1]:
            return known[0]
        found = self._look_up(presented, now)
        if found is None:
            return None
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[presented] = found
        return found[0]
