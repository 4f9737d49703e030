"""Where API keys are, and how they are kept fresh: in a file, or in a store that somebody wrote a class for.

A store gives the text of a key file; everything about that text (the pepper, what an entry may say, every mistake by
its line) is the same wherever it comes from. A store that is down costs nothing but news: its last keys stay in use.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.stores.keyfile import KeyFileError
from gateway.stores.keyreader import KeyReader

_log = logging.getLogger("gateway.control")


class KeyStore(Protocol):
    """What `auth.key_store` names. One is made for each controller, by its options; it is asked in a thread, and not
    again before it has answered."""

    def read(self) -> str | None:
        """The text of a key file, as docs/authentication.md has it; None: it is as it was when last read. Whatever it
        raises means that the keys cannot be had now."""


class Asking:
    """Asks a store every `period` seconds and hands its keys to `replace` (as `KeyTable.to_wire`) when they changed."""

    def __init__(self, name: str, store: KeyStore, period: float, replace: Callable[[bytes], Awaitable[None]]) -> None:
        self.name = name
        self.failures = 0  # in a row
        self.had_at: float | None = None  # by `time.monotonic`, when it last answered
        self._store = store
        self._period = period
        self._replace = replace
        self._reader = KeyReader()
        self._why = ""  # it fails; "": it does not
        self._problem: KeyFileError | None = None  # of the text that the store gave last

    async def run(self) -> None:
        """Never returns."""
        while True:
            await self.ask()
            await asyncio.sleep(self._period)

    async def ask(self) -> None:
        try:
            keys = await asyncio.to_thread(self._read)
        except KeyFileError as error:
            self._fail(str(error))
        except Exception as error:  # foreign code, at a task's border
            self._fail(f"{type(error).__name__}: {error}")
        else:
            if self.failures:
                _log.info("%s: keys can be had again", self.name)
            self.failures, self.had_at, self._why = 0, time.monotonic(), ""
            if keys is not None:
                await self._replace(keys)

    def _read(self) -> bytes | None:
        text = self._store.read()
        if text is None:
            if self._problem is not None:
                raise self._problem
            return None
        try:
            keys = self._reader.take(text, self.name)
        except KeyFileError as error:
            self._problem = error
            raise
        self._problem = None
        return keys

    def _fail(self, why: str) -> None:
        self.failures += 1
        if why != self._why:
            self._why = why
            _log.error("%s: no keys can be had; those known before stay in use: %s", self.name, why)

    @property
    def age(self) -> float | None:
        """Seconds since the store last answered; None: never."""
        return None if self.had_at is None else time.monotonic() - self.had_at

    def __repr__(self) -> str:
        return f"<Asking {self.name} failures={self.failures} {self._reader!r}>"
