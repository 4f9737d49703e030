"""API keys: what one looks like, and the table that tells whose it is.

A key is `gw_<id>_<secret><check>`: ten characters that name it (not secret), 256 random bits in base62, and the CRC-32
of all that, also in base62, as GitHub's tokens have it: a scanner for leaked secrets can tell a key from other text,
and a slip of the hand is refused without looking anything up.

Only a MAC of a key is ever stored. Its key, the pepper, is not needed against guessing (256 bits cannot be guessed) but
makes the index below one that a caller cannot steer, and hashes worthless to whoever can write them but not read it. A
worker's memory holds keys as they come, and remembers some that are valid, for as long as its table is the present one.

Keys that were issued elsewhere can be imported. They have any form that is not ours, and no check.
"""

import secrets
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from hashlib import blake2b
from hmac import compare_digest
from typing import Literal, cast

import msgspec

from gateway.core.headers import field_text
from gateway.errors import StoreUnavailable
from gateway.model import Principal
from gateway.stores.recall import Recall

PREFIX = b"gw_"
ID_LENGTH = 10  # 59 bits
LENGTH = 63  # gw_ + id + _ + 43 of secret + 6 of check
FOREIGN_LENGTHS = range(20, 257)  # bytes of an imported key
_BODY = LENGTH - 6
_SECRET_LENGTH = 43  # 62^43 > 2^256
_INDEX = 16  # bytes of a digest that the table is indexed by; the rest is compared in constant time

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple((high + low).encode() for high in _ALPHABET for low in _ALPHABET)
_BASE = len(_PAIRS)


def mint(key_id: str | None = None, *, random: Callable[[int], bytes] = secrets.token_bytes) -> tuple[str, str]:
    """A new key for `key_id` (None: a new id too) -> (id, key). `random` gives n random bytes."""
    if key_id is None:
        key_id = _base62(int.from_bytes(random(16)) % 62**ID_LENGTH, ID_LENGTH)
    body = f"gw_{key_id}_{_base62(int.from_bytes(random(32)), _SECRET_LENGTH)}"
    return key_id, body + _check(body.encode()).decode()


def is_well_formed(presented: bytes) -> bool:
    """True if the check says that this was minted, by whomever."""
    return len(presented) == LENGTH and presented[_BODY:] == _check(presented[:_BODY])


def key_id(presented: bytes) -> str | None:
    """The id inside a key of our own form, safe to log; None for anything else."""
    if not (presented.startswith(PREFIX) and is_well_formed(presented)):
        return None
    name, separator, secret = presented[len(PREFIX) :].decode("ascii", "replace").partition("_")
    is_ours = separator and len(name) == ID_LENGTH and not set(name + secret) - set(_ALPHABET)
    return name if is_ours else None


def _check(body: bytes) -> bytes:
    crc = zlib.crc32(body)
    return _PAIRS[crc // (_BASE * _BASE)] + _PAIRS[crc // _BASE % _BASE] + _PAIRS[crc % _BASE]


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


class Pepper:
    """The key of the MAC over keys."""

    __slots__ = ("_mac", "key")

    def __init__(self, key: bytes) -> None:
        """`key` is 32 bytes; `of_text` makes them from what people write down."""
        self.key = key
        self._mac = blake2b(key=key, digest_size=32)

    @classmethod
    def of_text(cls, text: str) -> "Pepper":
        return cls(blake2b(text.encode(), digest_size=32, person=b"gateway-pepper").digest())

    def digest(self, presented: bytes) -> bytes:
        """The 32 bytes that are stored in a key's place (BLAKE2 keyed: RFC 7693, 2.9)."""
        mac = self._mac.copy()  # half the price of keying it each time
        mac.update(presented)
        return mac.digest()

    @property
    def check(self) -> str:
        """Tells two peppers apart and nothing else."""
        return self.digest(b"check").hex()[:16]

    def __repr__(self) -> str:
        return f"<Pepper {self.check}>"


class OwnLimit(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True, gc=False):
    """A limit of one key over all models, as `limits` of a model has them."""

    rate: str | None = None
    burst: int | None = None
    unit: Literal["requests", "tokens"] = "requests"
    in_flight: int | None = None


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One digest that is accepted. A key that is being rotated has two."""

    digest: bytes
    until: float  # seconds since the epoch; infinite for a key that does not expire
    id: str
    name: str
    grants: tuple[str, ...] | None
    claims: dict[str, str]  # owner and metadata, for plugins and headers
    limits: tuple[OwnLimit, ...] = ()
    methods: tuple[str, ...] = ()


class _Wire(msgspec.Struct, array_like=True):
    pepper: bytes
    parts: list[bytes]  # lists of rows, each so short that a worker may read one between two requests


_PART = 500  # rows: a millisecond

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Wire).decode
_decode_part = msgspec.msgpack.Decoder(list[Row]).decode


def part_of(rows: list[Row]) -> bytes:
    return _encode(rows)


def wire_of(pepper: Pepper, parts: list[bytes]) -> bytes:
    """Of a table whose rows are in `parts`, each of them in one."""
    return _encode(_Wire(pepper.key, parts))


def has_rows(wire: bytes | None) -> bool:
    """Whether any key is accepted by what `wire_of` made."""
    return wire is not None and wire != b"" and any(_decode_part(part) for part in _decode(wire).parts)


class KeyTable:
    """Every key that is accepted. Immutable; a change is a new table."""

    __slots__ = ("_entries", "_mac", "_pepper", "_rows", "_told")

    def __init__(self, pepper: Pepper, rows: Iterable[Row], told: Mapping[str, str] | None = None) -> None:
        """`told`: what the model server is told of a key, and in which header: `id`, `name`, `kind`, or a name among
        its claims."""
        self._pepper = pepper
        self._told = tuple((what, field.encode()) for what, field in (told or {}).items())
        self._mac = blake2b(key=pepper.key, digest_size=32)
        self._rows = {row.digest[:_INDEX]: row for row in rows}
        # Principals are made when first asked for, since most of 100,000 keys are silent; at most one for each row.
        self._entries: dict[bytes, tuple[bytes, Principal, float]] = {}

    def find(self, presented: bytes, now: float) -> Principal | None:
        """Whose key this is; None if nobody's or no longer valid. `now` is seconds since the epoch."""
        found = self.look_up(presented, now)
        return found[0] if found is not None else None

    def look_up(self, presented: bytes, now: float) -> tuple[Principal, float] | None:
        """The same, and until when.

        The index is a part of the MAC: without the pepper nobody can choose what it is compared with, so that the time
        of the look-up tells nothing about the keys that exist.
        """
        if presented[:3] == b"gw_":
            if len(presented) != LENGTH or presented[_BODY:] != _check(presented[:_BODY]):
                return None
        elif len(presented) not in FOREIGN_LENGTHS:
            return None
        mac = self._mac.copy()
        mac.update(presented)
        digest = mac.digest()
        index = digest[:_INDEX]
        entry = self._entries.get(index) or self._enter(index)
        if entry is None or not compare_digest(entry[0], digest) or now >= entry[2]:
            return None
        return entry[1], entry[2]

    def _enter(self, index: bytes) -> tuple[bytes, Principal, float] | None:
        row = self._rows.get(index)
        if row is None:
            return None
        facts = {**row.claims, "id": row.id, "name": row.name, "kind": "key"}
        told = tuple((field, value) for what, field in self._told if (value := field_text(facts.get(what))) is not None)
        principal = Principal(row.id, row.name, "key", row.grants, row.claims, told, row.limits, row.methods)
        entry = self._entries[index] = (row.digest, principal, row.until)
        return entry

    def to_wire(self) -> bytes:
        """For `from_wire` in another process; as secret as the key file. Equal tables make equal bytes."""
        rows = list(self._rows.values())
        return wire_of(self._pepper, [part_of(rows[at : at + _PART]) for at in range(0, len(rows), _PART)])

    @classmethod
    def from_wire(cls, wire: bytes, told: Mapping[str, str] | None = None) -> "KeyTable":
        """`told` as for the class. Raises ValueError (`msgspec.DecodeError`) for what `to_wire` did not write."""
        work = cls.reading(wire, told)
        while True:
            try:
                next(work)
            except StopIteration as end:
                return cast(KeyTable, end.value)

    @classmethod
    def reading(
        cls, wire: bytes, told: Mapping[str, str] | None = None, before: tuple["KeyTable", bytes] | None = None
    ) -> Generator[None, None, "KeyTable"]:
        """`from_wire` in small steps. `before` is a table and what it was read from: parts that are in both are not
        read again."""
        new = _decode(wire)
        yield
        old = _decode(before[1]) if before is not None else None
        if before is None or old is None or old.pepper != new.pepper:
            table, fresh, gone = cls(Pepper(new.pepper), (), told), new.parts, []
        else:
            table, known = cls(before[0]._pepper, (), told), frozenset(old.parts)
            yield
            fresh = [part for part in new.parts if part not in known]
            gone = list(known.difference(new.parts))
            yield
            table._rows = before[0]._rows.copy()
        rows = table._rows
        for part in gone:
            yield
            for row in _decode_part(part):
                del rows[row.digest[:_INDEX]]
        for part in fresh:
            yield
            rows.update((row.digest[:_INDEX], row) for row in _decode_part(part))
        return table

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<KeyTable of {len(self._rows)} keys, {len(self._entries)} in use>"


def _nothing_is_known(presented: bytes, now: float) -> tuple[Principal, float] | None:
    raise StoreUnavailable(headers=[(b"retry-after", b"5")])


class LiveKeys:
    """A worker's present table. Layers hold this, so that a change of keys rebuilds no chain."""

    __slots__ = ("find", "table")

    def __init__(self, table: KeyTable | None) -> None:
        self.replace(table)

    def replace(self, table: KeyTable | None) -> None:
        """None: the store has never given any keys, and nobody can say whose one is."""
        self.table = table
        self.find = Recall(table.look_up if table is not None else _nothing_is_known).find

    def __repr__(self) -> str:
        return f"<LiveKeys {self.table!r}>"


EMPTY = KeyTable(Pepper(bytes(32)), ())
