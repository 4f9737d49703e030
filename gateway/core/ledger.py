"""How the workers of one machine tell each other which endpoint was sent which prompt, so that all of them guess alike
what it keeps.

Each worker writes into a ring of its own, in memory that all share, and reads those of the others: a word that says how
many words were ever written, then the words themselves, over and over. A record is a word of slot and length, and the
chain of a prompt. Who reads too late misses some; what is told is a guess in any case. A chain means the same to all
workers of one master, which have one key of hashes.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Final

from gateway.core.endpoint import Endpoint

RING: Final = 2**15  # words; chains of two million tokens
_LONGEST: Final = RING // 8  # words of one record


class Ledger:
    """One worker's."""

    __slots__ = ("_endpoint_at", "_others", "_own", "_seen")

    def __init__(
        self, own: memoryview, others: Sequence[memoryview], endpoint_at: Callable[[int], Endpoint | None]
    ) -> None:
        """Rings of 1 + RING signed words. `endpoint_at` knows the endpoints by their slots."""
        self._own = own
        self._others = tuple(others)
        self._seen = [ring[0] for ring in others]
        self._endpoint_at = endpoint_at

    def tell(self, slot: int, chain: Sequence[int]) -> None:
        """This prompt is sent to the endpoint of `slot`."""
        record = array("q", (0, *chain[: _LONGEST - 1]))
        size = len(record)
        record[0] = slot << 32 | size
        own = self._own
        head: int = own[0]
        at = head % RING
        until_end = RING - at
        if size <= until_end:
            own[1 + at : 1 + at + size] = memoryview(record)
        else:
            own[1 + at :] = memoryview(record)[:until_end]
            own[1 : 1 + size - until_end] = memoryview(record)[until_end:]
        own[0] = head + size  # last: what is not written is not announced

    def listen(self) -> None:
        """Put what the others have told since the last time into the indexes of their endpoints."""
        for index, ring in enumerate(self._others):
            head: int = ring[0]
            if head != self._seen[index]:
                seen, self._seen[index] = self._seen[index], head
                self._read(_copy(ring, seen, head))

    def _read(self, words: Sequence[int]) -> None:
        at = 0
        while at < len(words):
            slot, size = words[at] >> 32, words[at] & 0xFFFFFFFF
            endpoint = self._endpoint_at(slot)
            if endpoint is not None and endpoint.work.prefixes is not None:
                endpoint.work.prefixes.add(endpoint, words[at + 1 : at + size])
            at += size

    def __repr__(self) -> str:
        return f"<Ledger {self._own[0]} words written, {self._seen} read>"


def _copy(ring: memoryview, since: int, until: int) -> list[int]:
    """The words from `since` to `until`; none if some of them are written over already."""
    if not 0 < until - since <= RING:
        return []
    start, end = since % RING, until % RING
    words = (
        ring[1 + start : 1 + end].tolist() if start < end else ring[1 + start :].tolist() + ring[1 : 1 + end].tolist()
    )
    return words if ring[0] - since <= RING else []
