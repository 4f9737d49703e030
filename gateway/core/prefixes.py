"""Which endpoint has probably kept which beginnings of prompts: one inverted index over the endpoints of a worker.

It is a guess: an endpoint is taken to keep the blocks of the prompts that it was sent last, and to have dropped what it
was sent longest ago, as the engines do (vLLM's and SGLang's prefix caches are LRU, leaves first). How much that is, an
engine says that is asked for its metrics; else `CACHE` is taken.
A worker guesses from what it forwarded itself, and from what the others tell it (`ledger.py`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from gateway.core.endpoint import Endpoint
from gateway.core.prompt import BLOCK_TOKENS

# What is remembered of an endpoint is what its cache has room for, and no more: were more remembered, the fastest of a
# mixed fleet would be sent more conversations than they can keep, and all of them back there, while others have room.
CACHE: Final = 400_000  # tokens of a cache whose size is not told; what an 80 GB accelerator has beside an 8B model
TOTAL: Final = 2**19  # blocks of all endpoints of a worker: 110 MB at 210 bytes a block


class Shelf:
    """The blocks of one endpoint, those touched longest ago first."""

    __slots__ = ("bit", "blocks")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.blocks: OrderedDict[int, None] = OrderedDict()


class Prefixes:
    """`match` walks a chain once, whatever the number of endpoints: beside each block stands who has it, as the bits of
    one integer."""

    __slots__ = ("_capacity", "_owners", "_shelves", "_table", "_total")

    def __init__(self, capacity: int = CACHE, total: int = TOTAL) -> None:
        self._capacity = max(capacity // BLOCK_TOKENS, 1)
        self._total = total
        self._table: dict[int, int] = {}  # block -> bits of the shelves that have it
        self._shelves: dict[Endpoint, Shelf] = {}
        self._owners: list[Endpoint | None] = []  # by bit

    def match(self, chain: Sequence[int]) -> dict[Endpoint, int]:
        """How many blocks from the first on each endpoint has; those that have none are left out."""
        found: dict[Endpoint, int] = {}
        having = -1
        depth = 0
        table = self._table
        for block in chain:
            now = table.get(block, 0) & having
            if now != having:
                if depth:
                    self._note(having & ~now, depth, found)
                if not now:
                    return found
                having = now
            depth += 1
        if depth:
            self._note(having, depth, found)
        return found

    def _note(self, bits: int, depth: int, found: dict[Endpoint, int]) -> None:
        owners = self._owners
        while bits:
            low = bits & -bits
            owner = owners[low.bit_length() - 1]
            assert owner is not None
            found[owner] = depth
            bits ^= low

    def count(self, endpoint: Endpoint, chain: Sequence[int]) -> int:
        """How many blocks from the first on this endpoint has."""
        shelf = self._shelves.get(endpoint)
        if shelf is None:
            return 0
        blocks = shelf.blocks
        depth = 0
        for block in chain:
            if block not in blocks:
                break
            depth += 1
        return depth

    def add(self, endpoint: Endpoint, chain: Sequence[int]) -> None:
        """The endpoint is sent this prompt: it will have all of its blocks, the first ones kept longest."""
        shelf = self._shelves.get(endpoint) or self._open(endpoint)
        blocks, table, bit = shelf.blocks, self._table, shelf.bit
        for block in reversed(chain):
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = None
                table[block] = table.get(block, 0) | bit
        for _ in range(len(blocks) - self._bound(endpoint)):
            self._drop(blocks.popitem(last=False)[0], bit)

    def _bound(self, endpoint: Endpoint) -> int:
        """Blocks that are remembered of it."""
        engine = endpoint.work.engine
        told = engine.cache // BLOCK_TOKENS if engine is not None else 0
        return min(told or self._capacity, self._total // len(self._shelves))

    def forget(self, endpoint: Endpoint) -> None:
        """The endpoint has restarted, or is gone: it has nothing."""
        shelf = self._shelves.pop(endpoint, None)
        if shelf is not None:
            for block in shelf.blocks:
                self._drop(block, shelf.bit)
            self._owners[shelf.bit.bit_length() - 1] = None

    def _open(self, endpoint: Endpoint) -> Shelf:
        try:
            at = self._owners.index(None)
        except ValueError:
            at = len(self._owners)
            self._owners.append(None)
        self._owners[at] = endpoint
        shelf = self._shelves[endpoint] = Shelf(1 << at)
        return shelf

    def _drop(self, block: int, bit: int) -> None:
        left = self._table[block] & ~bit
        if left:
            self._table[block] = left
        else:
            del self._table[block]

    def __repr__(self) -> str:
        return f"<Prefixes {len(self._table)} blocks at {len(self._shelves)} endpoints>"


def prefixes_of(endpoints: Sequence[Endpoint]) -> Prefixes:
    """The index of these endpoints: the one that some of them are in already, so that a reload forgets nothing."""
    known = next((e.work.prefixes for e in endpoints if e.work.prefixes is not None), None) or Prefixes()
    for endpoint in endpoints:
        other, endpoint.work.prefixes = endpoint.work.prefixes, known
        if other is not None and other is not known:
            other.forget(endpoint)
    return known


def forget(endpoint: Endpoint) -> None:
    """See `Prefixes.forget`."""
    if endpoint.work.prefixes is not None:
        endpoint.work.prefixes.forget(endpoint)
