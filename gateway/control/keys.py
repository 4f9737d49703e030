"""What is done to API keys: made, imported, rotated, revoked. Always the whole file, under a lock, or nothing."""

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from gateway.stores.keyentry import Key, Previous
from gateway.stores.keyfile import PEPPER_VARIABLE, KeyFile, KeyFileError, parse, read
from gateway.stores.keys import FOREIGN_LENGTHS, PREFIX, KeyTable, OwnLimit, Pepper, key_id, mint
from gateway.tls.files import write_whole

LOCK_SECONDS = 10.0  # another command holds the lock for milliseconds


class KeyEditError(Exception):
    """What was asked cannot be done to these keys; the text says why."""


def load_keys(path: Path, environ: Mapping[str, str] = os.environ) -> KeyTable:
    """The table to publish. Raises KeyFileError, or OSError if the file cannot be read (FileNotFoundError: none)."""
    return read(path, environ).table()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new key is to be."""

    name: str
    models: Sequence[str]
    owner: str = ""
    lifetime: float | None = None  # seconds
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[OwnLimit] = ()
    methods: Sequence[str] = ()


class KeyRing:
    """The keys of one file, while a command has them. Every change is a method; `keys` is what will be written."""

    def __init__(self, file: KeyFile, now: datetime) -> None:
        self.file = file
        self.keys = list(file.keys)
        self.now = now.replace(microsecond=0)
        self._names = {key.name: key.id for key in self.keys if key.revoked is None}
        self._taken = {unique: key.id for key in self.keys for unique in (key.id, key.hash)}

    def create(self, wish: Wish) -> tuple[Key, str]:
        """A new key -> (its entry, itself). Raises KeyEditError."""
        identity, secret = mint()
        return self._enter(identity, secret, wish), secret

    def adopt(self, wish: Wish, secret: str) -> Key:
        """Accept a key that was issued elsewhere. One of our own form keeps its id. Raises KeyEditError."""
        presented = secret.encode()
        identity = key_id(presented)
        if identity is None:
            _refuse_foreign(presented)
            identity = mint()[0]
        return self._enter(identity, secret, wish)

    def rotate(self, who: str, grace: float) -> tuple[Key, str]:
        """A new secret for the same key; what it was is accepted for `grace` seconds more, and nothing that it was
        before for longer. Raises KeyEditError."""
        at = self._find(who)
        old = self.keys[at]
        if old.state(self.now.timestamp()) == "expired":
            raise KeyEditError(f"{old.id} has expired; create a new key")
        _, secret = mint(old.id)
        end = self.now + timedelta(seconds=grace)
        earlier = (Previous(each.hash, min(each.until, end)) for each in old.previous if each.until > self.now)
        still = (Previous(old.hash, end), *earlier) if grace > 0 else ()
        key = msgspec.structs.replace(old, hash=self._hash(secret), previous=still)
        self.keys[at] = key
        return key, secret

    def revoke(self, who: str) -> Key:
        """Accepted no more; the entry stays, so that a log's id can be told. Raises KeyEditError."""
        at = self._find(who)
        key = msgspec.structs.replace(self.keys[at], revoked=self.now, previous=())
        self.keys[at] = key
        self._names.pop(key.name, None)
        return key

    def _find(self, who: str) -> int:
        key = find(self.keys, who)
        if key.revoked is not None:
            raise KeyEditError(f"{who} is revoked already")
        return self.keys.index(key)

    def _enter(self, identity: str, secret: str, wish: Wish) -> Key:
        digest, name = self._hash(secret), wish.name
        if name in self._names:
            raise KeyEditError(f"{self._names[name]} has the name {name!r} already")
        if other := self._taken.get(identity) or self._taken.get(digest):
            raise KeyEditError(f"{other} is this key already")
        key = Key(
            id=identity,
            name=name,
            hash=digest,
            models=tuple(wish.models),
            created=self.now,
            owner=wish.owner,
            expires=None if wish.lifetime is None else self.now + timedelta(seconds=wish.lifetime),
            metadata=dict(wish.metadata),
            limits=tuple(wish.limits),
            methods=tuple(wish.methods),
        )
        self.keys.append(key)
        self._names[name] = self._taken[identity] = self._taken[digest] = identity
        return key

    def _hash(self, secret: str) -> str:
        return self.file.pepper.digest(secret.encode()).hex()


def find(keys: Sequence[Key], who: str) -> Key:
    """By id, or by name: of a key that is not revoked, if there is one. Raises KeyEditError."""
    named = [key for key in keys if key.name == who]
    found = [key for key in keys if key.id == who] or [key for key in named if key.revoked is None] or named
    if not found:
        raise KeyEditError(f"no key has the id or name {who!r}")
    if len(found) > 1:
        raise KeyEditError(f"{len(found)} keys have the name {who!r}; say which by its id")
    return found[0]


def _refuse_foreign(presented: bytes) -> None:
    if presented.startswith(PREFIX):
        raise KeyEditError("a key that begins with gw_ must be whole: its check does not fit")
    if len(presented) not in FOREIGN_LENGTHS:
        low, high = FOREIGN_LENGTHS[0], FOREIGN_LENGTHS[-1]
        raise KeyEditError(f"a key has {low} to {high} characters; shorter ones can be guessed")
    if not all(0x21 <= byte <= 0x7E for byte in presented):
        raise KeyEditError("a key has printable ASCII characters only, and no spaces")
    if presented.count(b".") == 2:
        raise KeyEditError("a key with two dots looks like a JWT and is verified as one")


@contextmanager
def editing(
    path: Path, environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.time
) -> Iterator[KeyRing]:
    """The file's keys to change; written when the block ends well, and only if they changed.

    A file that does not exist begins empty, with a new pepper unless the environment has one. Raises KeyFileError,
    KeyEditError, OSError; TimeoutError if others hold the lock for longer than LOCK_SECONDS.
    """
    path = Path(os.path.realpath(path))
    with _locked(path.with_name(path.name + ".lock")):
        try:
            file = read(path, environ)
        except FileNotFoundError:
            file = _begin(environ)
        ring = KeyRing(file, datetime.fromtimestamp(clock(), UTC))
        yield ring
        if ring.keys != list(file.keys):
            write_whole(path, _verified(KeyFile(file.pepper, file.pepper_text, ring.keys), path, environ).encode())


def _begin(environ: Mapping[str, str]) -> KeyFile:
    text = environ.get(PEPPER_VARIABLE)
    if text:
        return KeyFile(Pepper.of_text(text), None)
    written = secrets.token_urlsafe(32)
    return KeyFile(Pepper.of_text(written), written)


def _verified(file: KeyFile, path: Path, environ: Mapping[str, str]) -> str:
    """The text to write, having read it back: nothing is ever written that would not load."""
    text = file.render()
    try:
        parse(text, path.name, environ)
    except KeyFileError as error:
        raise KeyEditError(f"the key cannot be kept: it {_said(error)}") from error
    return text


def _said(error: KeyFileError) -> str:
    message = str(error).splitlines()[-1].partition(": ")[2]
    return message if message.startswith("has ") else f"is wrong: {message}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One command at a time. The kernel releases the lock of a holder that dies; the empty file stays behind."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _take(fd):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} is locked by another command")
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
