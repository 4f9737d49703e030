"""Renew: have the certificate of `tls.acme` issued, and issued again in time. The old one is served meanwhile.

Of many gateways with one folder of certificates, one asks at a time: the others find the new certificate there.
"""

import asyncio
import contextlib
import fcntl
import functools
import logging
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import TypeVar

from gateway.config.settings import AcmeSettings
from gateway.core.renewal import ASK_AGAIN, Suggestion, pause_after, renew_at
from gateway.tls.authority import file_name
from gateway.tls.files import write_whole
from gateway.tls.pair import BadPair, Pair, Problem, read_pair
from gateway.tls.validation import ANSWERS, FOLDER

_log = logging.getLogger("gateway.control.renew")

ACCOUNT = "acme-account.key"  # in state_dir
_LONGEST_WAIT = 3600.0  # seconds; a clock may be set, a file removed
_BUSY_WAIT = 30.0  # another gateway is at it

T = TypeVar("T")
Obtain = Callable[[AcmeSettings, Path, Path, bytes], tuple[bytes, bytes]]
Suggest = Callable[[AcmeSettings, bytes], Suggestion]


class Renewal:
    """Keeps one certificate, NAME.crt and NAME.key in `folder`, where NAME is `acme-` and the first domain."""

    def __init__(
        self, settings: AcmeSettings, folder: Path, state_dir: Path, *, rng: Random | None = None,
        obtain: Obtain | None = None, suggest: Suggest | None = None, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`obtain` and `suggest` are those of `gateway.tls.acme`. Raises ImportError without the extra `acme`."""
        self.settings = settings
        self.folder = folder
        self.name = f"acme-{file_name(settings.domains[0])}"
        self.failures = 0
        self.problem: Problem | None = None  # of the last attempt
        self._account = state_dir / ACCOUNT
        self._rng = rng or Random()
        self._luck = self._rng.random()
        self._obtain = obtain or pkgutil.resolve_name("gateway.tls.acme:obtain")
        self._suggest = suggest or pkgutil.resolve_name("gateway.tls.acme:suggested")
        self._suggestion: tuple[bytes, Suggestion | None] = b"", None  # what the CA said of a certificate
        self._ask_at = 0.0
        self._clock = clock

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(await self.step())

    async def step(self) -> float:
        """Renew if it is time; -> seconds to the next look."""
        await self._ask_when()
        wait = self.due_in()
        if wait > 0:
            return min(wait, _LONGEST_WAIT)
        with _alone(self.folder / FOLDER) as is_alone:
            if not is_alone:
                return _BUSY_WAIT
            if self.due_in() > 0:  # whoever was alone before has done it
                return 0.0
            try:
                before = self._pair()
                old = b"" if before is None else before.leaf + before.above
                key, chain = await _in_thread(lambda: self._obtain(self.settings, self._account, self._answers, old))
                # The key first: while the two do not match, the pair before them is served.
                write_whole(self.folder / f"{self.name}.key", key, 0o600)
                write_whole(self.folder / f"{self.name}.crt", chain, 0o644)
            except Exception as error:  # a task's border: whatever was wrong, the old certificate is served on
                return self._on_failure(error)
        self.failures, self.problem = 0, None
        _log.info("certificate %s issued for %s", self.name, ", ".join(self.settings.domains))
        return _LONGEST_WAIT  # whatever it is like: a CA is not asked again at once

    def due_in(self) -> float:
        """Seconds until the certificate is to be renewed; 0.0 if there is none for all domains."""
        pair = self._pair()
        if pair is None or set(pair.hosts) != set(self.settings.domains):
            return 0.0
        leaf, suggestion = self._suggestion
        at = renew_at(pair.not_before, pair.not_after, self._luck, suggestion if leaf == pair.leaf else None)
        return max(at - self._clock(), 0.0)

    def _pair(self) -> Pair | None:
        try:
            return read_pair(self.folder, self.name)
        except BadPair:
            return None

    async def _ask_when(self) -> None:
        """What the CA suggests (RFC 9773), as often as it wishes to be asked; without an answer, what it said last."""
        pair = self._pair()
        if pair is None or (self._suggestion[0] == pair.leaf and self._clock() < self._ask_at):
            return
        try:
            found: Suggestion | None = await _in_thread(lambda: self._suggest(self.settings, pair.leaf + pair.above))
        except Exception as error:  # a task's border: it is a suggestion
            _log.info("certificate %s: the CA did not say when to renew it: %s", self.name, error)
            found = self._suggestion[1] if self._suggestion[0] == pair.leaf else None
        if found is not None and found != self._suggestion[1] and found.start:
            why = f" ({found.explanation})" if found.explanation else ""
            _log.info("certificate %s: its CA suggests to renew it at %s%s", self.name, _at(found.start), why)
        self._suggestion = pair.leaf, found
        self._ask_at = self._clock() + (found.ask_again if found is not None else ASK_AGAIN)

    @property
    def _answers(self) -> Path:
        return self.folder / ANSWERS

    def _on_failure(self, error: Exception) -> float:
        self.failures += 1
        pause = pause_after(self.failures, self._rng)
        self.problem = Problem(f"{self.name}.crt", f"not issued: {error}")
        _log.warning("certificate %s is not issued: %s; again in %.0f s", self.name, error, pause)
        return pause

    def __repr__(self) -> str:
        return f"<Renewal {self.name} failures={self.failures}>"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """True for one process at a time, over all machines that share the folder; the kernel lets go if it dies."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _at(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


async def _in_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, for work that the process's end does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(tell: Callable[[], None]) -> None:
        if not done.done():
            tell()

    def run() -> None:
        try:
            tell = functools.partial(done.set_result, work())
        except Exception as error:  # a thread's border: told to whoever waits
            tell = functools.partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, tell)

    threading.Thread(target=run, name="acme", daemon=True).start()
    return await done
