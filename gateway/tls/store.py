"""All certificates of the public entry point, chosen by SNI, and changed under a running server.

A handshake begins on one context, made before the workers fork and never replaced: its callback exchanges the context
for that of the host asked for. OpenSSL keeps using the session ticket key of the first context, so tickets, if they are
on, outlive reloads and are understood by every worker, and one of a host resumes for another: whoever asks clients for
certificates by host must leave them off. A connection keeps what it began with.

Where a host asks clients for certificates (`tls.client_ca`), the handshake begins on a context that does so, chosen by
a look at the ClientHello; the callback refuses whoever OpenSSL then finds to be asking for a host of another kind.
"""

import logging
import os
import platform
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gateway.config.settings import TLSSettings
from gateway.tls.alert import AlertingContext, can_begin_elsewhere
from gateway.tls.clients import ClientCAs
from gateway.tls.context import server_context
from gateway.tls.hello import read_hello
from gateway.tls.index import Group, Index
from gateway.tls.pair import BadPair, Pair, Problem, read_pair
from gateway.tls.validation import ANSWERS, PROTOCOL, answer_file, validation_context

logger = logging.getLogger(__name__)

SUFFIXES = (".crt", ".key", ".pass")
CONTEXTS = 1024  # built at most: 23 KiB and 1 ms each
PROOFS = 64  # pairs shown to OpenSSL in one reload, 1 ms each; of more, the rest is shown on first use
QUICK = 64  # new pairs whose keys are looked at in a quick reload, 60 µs each; of more, the rest is for the next one
UNSETTLED = 2.0  # seconds; FAT's timestamps, the coarsest, count by 2 s

_Times = tuple[int, int, int, int]
_Stamp = dict[str, _Times]  # by suffix


class _Known(NamedTuple):
    """What the last look at one NAME found; `pair` is the last good one."""

    stamp: _Stamp | None  # None: look again next time
    pair: Pair | None
    problem: Problem | None = None
    is_proved: bool = True  # its key has been looked at


_NEW = _Known(None, None)


class CertificateStore:
    """The pairs NAME.crt + NAME.key directly in `folder`; empty until the first `reload()`.

    `server_context()` is called once, before a fork; every process then reloads its own copy. `reload` may run in a
    thread beside the event loop: what a handshake reads is replaced at once, at its end.
    Raises ValueError for `tls.ciphers` that OpenSSL does not know.
    """

    def __init__(
        self,
        folder: Path,
        settings: TLSSettings | None = None,
        *,
        contexts: int = CONTEXTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._settings = settings or TLSSettings()
        self._limit = contexts
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._index = Index()
        self._contexts: dict[tuple[Group, str], ssl.SSLContext] = {}  # the least recently used first
        self.clients = ClientCAs(self._settings.client_ca)
        acme = self._settings.acme
        self._proved = frozenset(acme.domains if acme is not None and acme.challenge == "tls-alpn-01" else ())
        self._beginnings: dict[str, AlertingContext] = {}  # by entry of `tls.client_ca`
        self._reloading = threading.Lock()
        server_context(self._settings)  # or it raises, now rather than in a handshake
        if (self.clients or self._proved) and not can_begin_elsewhere():
            raise ValueError(
                f"tls.client_ca and tls-alpn-01 cannot be had with the ssl module of Python {platform.python_version()}"
            )

    # --- handshakes ---------------------------------------------------------------------------------------------------

    def server_context(self) -> ssl.SSLContext:
        """The context to listen with."""
        context = server_context(self._settings)
        context.sni_callback = self._exchange
        if self.clients or self._proved:
            context.choose = self._choose
        return context

    def _choose(self, data: bytes) -> AlertingContext | None:
        """Where the handshake begins that a ClientHello asks for; None: on the socket's own context."""
        is_validation = bool(self._proved) and PROTOCOL in data  # nearly always no, in a tenth of a microsecond
        if not self.clients and not is_validation:
            return None
        try:
            host, protocols = read_hello(data)
        except ValueError:  # OpenSSL says so to the client
            return None
        if is_validation and protocols == (PROTOCOL,) and host in self._proved:
            return validation_context(self._settings, answer_file(self.folder / ANSWERS, host))
        ca = self.clients.asked_at(host)
        if not ca:
            return None
        known = self._beginnings  # this dictionary: a reload, in its thread, puts another one in its place
        context = known.get(ca)
        if context is None:
            context = server_context(self._settings)
            context.client_ca = ca
            self.clients.demand(ca, context)
            context.sni_callback = self._exchange
            known[ca] = context
        return context

    def find(self, host: str | None) -> Group | None:
        """The pairs that answer a client which asks for `host` (None: for none); None if it is refused."""
        group = self._index.find(host) if host else None
        if group is None and not (host and self._settings.strict_sni):
            group = self._index.default
        return group or None

    def _exchange(self, tls: ssl.SSLObject | ssl.SSLSocket, host: str | None, began: ssl.SSLContext) -> int | None:
        group = self.find(host)
        if group is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        ca = self.clients.asked_at(host)
        if isinstance(began, AlertingContext) and began.client_ca != ca:
            return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE
        try:
            tls.context = self._context(group, ca)
        except OSError as error:  # also ssl.SSLError
            logger.error(  # noqa: TRY400 - where it was raised says nothing
                "certificate %s cannot be used: %s", group, error
            )
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        return None

    def _context(self, group: Group, ca: str) -> ssl.SSLContext:
        known = self._contexts
        context = known.pop((group, ca), None)
        if context is None:
            context = server_context(self._settings)
            for pair in group:
                pair.load_into(context)
            if ca:
                self.clients.demand(ca, context)  # a client is verified by what the exchanged context trusts
            if len(known) >= self._limit:
                del known[next(iter(known))]
        known[group, ca] = context
        return context

    # --- changes ------------------------------------------------------------------------------------------------------

    def reload(self, *, is_quick: bool = False) -> list[Problem]:
        """Take over what has changed in the folder; -> what is wrong there now.

        Only changed files are read (10,000 unchanged pairs cost 0.1 s of looking). Of a pair that has become bad the
        last good state is served on, so is everything if the folder is unreadable or has become empty.

        `is_quick`, for a start: whether keys and certificates of many new pairs match is left to the next reload. Until
        then OpenSSL refuses in the handshake one that does not.
        """
        with self._reloading:
            return sorted([*self._reload_clients(), *self._reload(is_quick)])

    def _reload_clients(self) -> list[Problem]:
        before = self.clients.generation
        problems = self.clients.reload(self._clock())
        if self.clients.generation != before:
            self._contexts, self._beginnings = {}, {}
        return problems

    def _reload(self, is_quick: bool) -> list[Problem]:
        try:
            found = _scan(self.folder)
        except OSError as error:
            return [Problem(str(self.folder), f"cannot be read ({error.strerror})")]
        known = self._look(found, is_quick)
        problems = [entry.problem for entry in known.values() if entry.problem]
        pairs = [entry.pair for entry in known.values() if entry.pair]
        if not pairs:
            served = "; those known before are served on" if self._known else ""
            return [*problems, Problem(str(self.folder), f"holds no usable certificate{served}")]
        now = self._clock()
        index = Index(pairs, default=self._settings.default_certificate, now=now)
        groups = index.groups()
        # Of the old contexts only those still in use, lest the keys of replaced certificates stay in memory.
        self._contexts = {known: context for known, context in self._contexts.copy().items() if known[0] in groups}
        self._known, self._index = known, index
        problems += [problem for pair in pairs for problem in pair.warnings(now)]
        return [*problems, *self._default_problems()]

    def _look(self, found: dict[str, _Stamp], is_quick: bool) -> dict[str, _Known]:
        proofs = _Proofs(self._settings)
        settled = (self._clock() - UNSETTLED) * 1e9
        known = {}
        many = len(found) - len(self._known) > QUICK
        for name, stamp in found.items():
            before = self._known.get(name, _NEW)
            if before.stamp == stamp:
                known[name] = before if is_quick or before.is_proved else _proved(before)
                continue
            # A file just written may be written again within the same tick of its clock (git's "racy" entries).
            is_settled = all(max(times[:2]) < settled for times in stamp.values())
            remembered = stamp if is_settled else None
            is_left = (
                is_quick and many and before is _NEW and name not in ("default", self._settings.default_certificate)
            )
            known[name] = self._read(name, stamp, before, None if is_left else proofs)._replace(stamp=remembered)
        return known

    def _read(self, name: str, stamp: _Stamp, before: _Known, proofs: "_Proofs | None") -> _Known:
        """`proofs`: None to leave them for later."""
        if not before.is_proved:
            before = _proved(before)
        last_good = before.pair
        if last_good is None and ".crt" not in stamp:
            return _Known(None, None, Problem(f"{name}.key", f"there is no {name}.crt", is_error=False))
        try:
            pair = read_pair(self.folder, name, is_quick=proofs is None)
            if last_good and pair.is_same_as(last_good):
                return _Known(None, last_good)
            if proofs is not None:
                proofs.take(pair)
        except BadPair as bad:
            return before._replace(problem=bad.problem)
        return _Known(None, pair, is_proved=proofs is not None)

    def _default_problems(self) -> list[Problem]:
        name = self._settings.default_certificate
        if not name or name in self._index.pairs:
            return []
        return [Problem(f"{name}.crt", f"tls.default_certificate is missing; {self._index.default} is the default")]

    # --- looking at it ------------------------------------------------------------------------------------------------

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """What is served, by name."""
        return tuple(self._index.pairs.values())

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        bad = sum(entry.problem is not None for entry in self._known.values())
        return f"<CertificateStore {self.folder} {self._index!r} contexts={len(self._contexts)} problems={bad}>"


class _Proofs:
    """OpenSSL's own opinion of a new pair, while there are few of them."""

    def __init__(self, settings: TLSSettings) -> None:
        self._settings = settings
        self._left = PROOFS
        self._context: ssl.SSLContext | None = None  # of this reload alone: it holds the last key it was shown

    def take(self, pair: Pair) -> None:
        """Raises BadPair."""
        if self._left == 0:
            return
        self._left -= 1
        self._context = self._context or server_context(self._settings)
        try:
            pair.load_into(self._context)
        except OSError as error:
            raise BadPair(f"{pair.name}.crt", f"OpenSSL refuses it ({error})") from None


def _proved(known: _Known) -> _Known:
    assert known.pair is not None
    try:
        known.pair.prove()
    except BadPair as bad:
        return known._replace(pair=None, problem=bad.problem, is_proved=True)
    return known._replace(is_proved=True)


def _scan(folder: Path) -> dict[str, _Stamp]:
    """NAME -> the state of its files; raises OSError if the folder cannot be listed."""
    found: dict[str, _Stamp] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name, suffix = os.path.splitext(entry.name)
            if suffix not in SUFFIXES or name.startswith("."):
                continue
            try:
                status = entry.stat()  # through symbolic links, as Kubernetes mounts secrets
            except OSError:
                continue  # a link to nowhere, or gone since: missing
            times = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            found.setdefault(name, {})[suffix] = times
    return {name: stamp for name, stamp in found.items() if stamp.keys() & {".crt", ".key"}}
