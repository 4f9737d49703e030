"""Renew: have the certificate of `tls.acme` issued, and issued again in time. The old one is served meanwhile.

Of many gateways with one folder of certificates, one asks at a time: the others find the new certificate there.
"""

import asyncio
import contextlib
import fcntl
import logging
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from gateway.config.settings import AcmeSettings
from gateway.core.renewal import pause_after, renew_at
from gateway.tls.authority import file_name
from gateway.tls.files import write_whole
from gateway.tls.pair import BadPair, Problem, read_pair

_log = logging.getLogger("gateway.control.renew")

FOLDER = ".acme"  # in the folder of certificates, which all gateways that serve a domain share
ANSWERS = Path(FOLDER) / "answers"
ACCOUNT = "acme-account.key"  # in state_dir
_LONGEST_WAIT = 3600.0  # seconds; a clock may be set, a file removed
_BUSY_WAIT = 30.0  # another gateway is at it

Obtain = Callable[[AcmeSettings, Path, Path], tuple[bytes, bytes]]


class Renewal:
    """Keeps one certificate, NAME.crt and NAME.key in `folder`, where NAME is `acme-` and the first domain."""

    def __init__(
        self, settings: AcmeSettings, folder: Path, state_dir: Path, *, rng: Random | None = None,
        obtain: Obtain | None = None, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`obtain` is `gateway.tls.acme.obtain`. Raises ImportError without the extra `acme`."""
        self.settings = settings
        self.folder = folder
        self.name = f"acme-{file_name(settings.domains[0])}"
        self.failures = 0
        self.problem: Problem | None = None  # of the last attempt
        self._account = state_dir / ACCOUNT
        self._rng = rng or Random()
        self._luck = self._rng.random()
        self._obtain = obtain or pkgutil.resolve_name("gateway.tls.acme:obtain")
        self._clock = clock

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(await self.step())

    async def step(self) -> float:
        """Renew if it is time; -> seconds to the next look."""
        wait = self.due_in()
        if wait > 0:
            return min(wait, _LONGEST_WAIT)
        with _alone(self.folder / FOLDER) as is_alone:
            if not is_alone:
                return _BUSY_WAIT
            if self.due_in() > 0:  # whoever was alone before has done it
                return 0.0
            try:
                key, chain = await _in_thread(lambda: self._obtain(self.settings, self._account, self._answers))
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
        try:
            pair = read_pair(self.folder, self.name)
        except BadPair:
            return 0.0
        if set(pair.hosts) != set(self.settings.domains):
            return 0.0
        return max(renew_at(pair.not_before, pair.not_after, self._luck) - self._clock(), 0.0)

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


async def _in_thread(work: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """As `asyncio.to_thread`, for work that the process's end does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[bytes, bytes]] = loop.create_future()

    def settle(result: tuple[bytes, bytes] | None, error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        elif result is not None:
            done.set_result(result)

    def run() -> None:
        result: tuple[bytes, bytes] | None
        failure: Exception | None
        try:
            result, failure = work(), None
        except Exception as error:  # a thread's border: told to whoever waits
            result, failure = None, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="acme", daemon=True).start()
    return await done
