"""Basic authentication (RFC 7617) against an htpasswd file.

Passwords are hashed to be slow, some 50 to 300 ms each: that is done in threads of low priority, beside the event loop,
and only for so many at a time. A password that was right is remembered, by a hash that is keyed with dice of this
process, until the file changes; one that was wrong, for a little while.
"""

import asyncio
import binascii
import os
import secrets
import threading
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b

from gateway.core.headers import field_text
from gateway.errors import AuthenticationBusy, Unauthenticated
from gateway.model import Principal
from gateway.stores.htpasswd import LONGEST_PASSWORD, decoys, is_password

PREFIX = b"Basic "
_THREADS = 2
_MOST_WAITING = 32  # passwords that are being looked at; one more is 503: at 100 ms each the last waits 2 s
_MOST_OF_ONE = 4  # from one address, so that nobody takes the places of all others
_WRONG_REMEMBERED = 1000
_WRONG_SECONDS = 10.0
_NICE = 10


class Users:
    """The users of one worker; `adopt` gives it the file's."""

    def __init__(
        self,
        hashes: Mapping[str, str] | None = None,
        *,
        told: Mapping[str, str] | None = None,
        remembered: int = 10_000,
    ) -> None:
        """`told`: what the model server is told, and in which header: `id`, `name`, `kind`. `remembered` bounds the
        right passwords kept; beyond it the one not seen for longest is looked at again."""
        self.told = dict(told or {})
        self._remembered = remembered
        self._key = secrets.token_bytes(32)
        self._hashes: Mapping[str, str] = {}
        self._decoys = decoys({})
        self._right: OrderedDict[bytes, Principal] = OrderedDict()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._waiting: dict[str, int] = {}  # of these, by address
        self._is_password = is_password
        self._pool: ThreadPoolExecutor | None = None  # made when first needed, hence after the fork
        self.adopt(hashes or {})

    def adopt(self, hashes: Mapping[str, str]) -> None:
        """Use these users from now on: whoever is no longer there, or has another password, is forgotten."""
        if hashes != self._hashes:
            self._hashes = dict(hashes)
            self._decoys = decoys(self._hashes)
            self._right.clear()
            self._wrong.clear()

    def recall(self, presented: bytes, now: float) -> Principal | None:
        """Who this is, if that is known already. `presented` is `Basic` and what follows it; `now` is in seconds.
        Raises Unauthenticated for what was wrong a moment ago."""
        digest = self._digest(presented)
        known = self._right.get(digest)
        if known is not None:
            self._right.move_to_end(digest)
            return known
        if now < self._wrong.get(digest, now):
            raise _refusal("wrong again")
        return None

    async def ask(self, presented: bytes, now: float, address: str) -> Principal:
        """Look at the password. Raises Unauthenticated; AuthenticationBusy if too many are being looked at."""
        name, password = _parse(presented)
        hashes = self._hashes
        digest = self._digest(presented)
        running = self._running.get(digest)
        if running is None:
            if len(self._running) >= _MOST_WAITING or self._waiting.get(address, 0) >= _MOST_OF_ONE:
                raise AuthenticationBusy(headers=[(b"retry-after", b"1")])
            running = self._running[digest] = self._look(hashes.get(name) or self._decoy(name), password)
            self._waiting[address] = self._waiting.get(address, 0) + 1
            running.add_done_callback(lambda _: self._done(digest, address))
        is_right = await asyncio.shield(running) and name in hashes  # who waits may leave
        if hashes is not self._hashes:  # the file changed meanwhile
            raise _refusal("of a user who has just changed")
        if not is_right:
            self._wrong[digest] = now + _WRONG_SECONDS
            if len(self._wrong) > _WRONG_REMEMBERED:
                self._wrong.popitem(last=False)
            raise _refusal("wrong")
        principal = self._right[digest] = self._principal(name)
        if len(self._right) > self._remembered:
            self._right.popitem(last=False)
        return principal

    def _principal(self, name: str) -> Principal:
        facts = {"id": f"htpasswd|{name}", "name": name, "kind": "basic"}
        told = ((field.encode(), field_text(facts.get(what))) for what, field in self.told.items())
        headers = tuple((field, value) for field, value in told if value is not None)
        return Principal(facts["id"], name, "basic", None, {}, headers)

    def _done(self, digest: bytes, address: str) -> None:
        self._running.pop(digest, None)
        self._waiting[address] -= 1
        if not self._waiting[address]:
            del self._waiting[address]

    def _look(self, hashed: str, password: bytes) -> asyncio.Future[bool]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, "passwords", _be_nice)
        return asyncio.get_running_loop().run_in_executor(self._pool, self._is_password, hashed, password)

    def _decoy(self, name: str) -> str:
        """The same for the same name each time, as it would be if the user existed."""
        digest = self._digest(name.encode())
        return self._decoys[int.from_bytes(digest[:8], "big") % len(self._decoys)]

    def _digest(self, text: bytes) -> bytes:
        return blake2b(text, key=self._key, digest_size=32).digest()

    def __repr__(self) -> str:
        return f"<Users {len(self._hashes)} in all, {len(self._right)} remembered, {len(self._running)} looked at>"


def _parse(presented: bytes) -> tuple[str, bytes]:
    """RFC 7617, 2: user and password. Raises Unauthenticated."""
    try:
        name, colon, password = b64decode(presented[len(PREFIX) :], validate=True).partition(b":")
        text = name.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _refusal("not as RFC 7617 has it") from error
    if not colon or len(password) > LONGEST_PASSWORD:
        raise _refusal("without a colon, or longer than anybody's")
    return text, password


def _refusal(reason: str) -> Unauthenticated:
    error = Unauthenticated()
    error.add_note(f"a password {reason}")
    return error


def _be_nice() -> None:
    """Linux has a priority for each thread: requests go before passwords."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
