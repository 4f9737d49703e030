"""Reads the text of keys again and again, and each time only what has changed.

Lines that are entries by themselves, as all are that the command writes, are taken together in parts of some two
hundred. Where a part ends is said by the ids in it and not by its place: so a key that comes or goes changes its own
part, and all others are as they were, here and in the workers (`KeyTable.reading`).
"""

import os
from collections.abc import Iterator, Mapping
from itertools import chain

import msgspec

from gateway.stores.keyentry import Key, refuse_oddities
from gateway.stores.keyfile import divide, parse, pepper_of
from gateway.stores.keys import part_of, wire_of

_PLAIN = '- {"'  # what a line begins with that is an entry by itself
_ID = slice(10, 12)  # of such a line, if `id` is what it says first
_BREAKS = frozenset("0" + other for other in "0123456789ABCDEF")  # 1 of 240 ids begins like this
_LONGEST_PART = 1000  # lines, where ids say nothing

_decode = msgspec.json.Decoder(list[Key]).decode

_Part = tuple[bytes, tuple[str, ...]]  # its rows, and what no other key may have


class KeyReader:
    """What was read last is remembered: some 300 bytes for each key."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._parts: dict[tuple[int, ...], _Part] = {}  # by the hashes of their lines
        self._seen: tuple[str, int] | None = None
        self._wire = b""

    def take(self, text: str, name: str) -> bytes:
        """The table to publish (`KeyTable.to_wire`). `name` is what errors call the text. Raises KeyFileError."""
        # Python keys its hash of a text anew in each process: nobody makes one that looks like another.
        seen = name, hash(text)
        if seen != self._seen:
            self._wire = self._by_parts(text, name) or parse(text, name, self._environ).table().to_wire()
            self._seen = seen
        return self._wire

    def _by_parts(self, text: str, name: str) -> bytes:
        """b"" for what must be read as a whole: other notations, and whatever is wrong. Raises KeyFileError for the
        lines around the list."""
        head, lines, _ = divide(text)
        while lines and not lines[-1].strip():
            lines.pop()
        if not all(line.startswith(_PLAIN) for line in lines):
            return b""
        pepper = pepper_of(head, name, self._environ)
        hashes = [hash(line) for line in lines]
        parts: dict[tuple[int, ...], _Part] = {}
        for start, end in _cut(lines):
            key = tuple(hashes[start:end])
            try:
                parts[key] = self._parts.get(key) or _read(lines[start:end])
            except ValueError:
                return b""
        uniques = [unique for _, unique in parts.values()]
        if len(set(chain.from_iterable(uniques))) != sum(map(len, uniques)):
            return b""
        self._parts = parts
        return wire_of(pepper, [rows for rows, _ in parts.values()])

    def __repr__(self) -> str:
        return f"<KeyReader of {sum(map(len, self._parts))} lines in {len(self._parts)} parts>"


def _cut(lines: list[str]) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends."""
    start = 0
    for at in [at for at, line in enumerate(lines) if line[_ID] in _BREAKS] + [len(lines)]:
        while at > start:
            end = min(at, start + _LONGEST_PART)
            yield start, end
            start = end


def _read(lines: list[str]) -> _Part:
    """Raises ValueError; what is wrong, and in which line, another reader says."""
    keys = _decode("[" + ",".join([line[2:] for line in lines]) + "]")
    if len(keys) != len(lines):  # two lines that make one entry together
        raise ValueError
    for key in keys:
        refuse_oddities(key)
    return part_of([row for key in keys for row in key.rows()]), tuple(chain.from_iterable(k.uniques() for k in keys))
