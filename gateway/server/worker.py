"""A worker: the data plane and nothing else. asyncio on uvloop, uvicorn's server, our protocol.

It is told things by signals: SIGHUP, a new generation is published; SIGUSR1, write your counts; SIGTERM, finish what
runs and end. It answers in its row of the zone.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop

from gateway import plugin
from gateway.app import callers_of, compile_snapshot, granted_headers, make_app
from gateway.config.settings import Settings
from gateway.control import publish
from gateway.control.publish import Published
from gateway.core.client import Trust
from gateway.core.ledger import Ledger
from gateway.core.overload import Overload
from gateway.core.session import Sessions
from gateway.core.snapshot import Snapshot
from gateway.edge.authenticate import Refreshes
from gateway.edge.failures import Failures
from gateway.edge.journal import Journal
from gateway.edge.meters import Recorder
from gateway.edge.tokens import Tokens
from gateway.edge.users import Users
from gateway.garbage import settle, uncollected
from gateway.runtime import Runtime
from gateway.server.accept import Reception
from gateway.server.adoption import Breath, compile_gradually, let_go, read_keys, read_settings
from gateway.server.protocol import EdgeConfig
from gateway.server.redirect import redirect_to
from gateway.server.room import Room
from gateway.server.rounds import Rounds
from gateway.server.stoppable import EdgeServer, edge_config
from gateway.server.stores import leases_of, store_of
from gateway.server.zone import (
    CONNECTIONS,
    CONTROLLER,
    ENDING,
    FLUSHED,
    LOADED,
    PID,
    STALE,
    STARTED,
    WANTED,
    WORKER_COUNT,
    Zone,
    wanted_bit,
)
from gateway.stores.keys import KeyTable
from gateway.tls.store import CertificateStore
from gateway.tls.validation import ANSWERS

_log = logging.getLogger("gateway.worker")

_ASK_SECONDS = 0.02


@dataclass(frozen=True)
class Place:
    """Where a worker works: its slot among `slots`, the sockets that are its own, the zone, the state's folder."""

    slot: int
    slots: range  # that workers of this master may have
    https: socket.socket
    http: socket.socket | None
    zone: Zone
    state_dir: Path
    secrets: Sequence[bytes]  # of sessions


class Worker:
    """The inside of a worker process, after the fork."""

    def __init__(self, place: Place, certificates: CertificateStore, tls: Any) -> None:
        self.place = place
        self.certificates = certificates
        self.tls = tls
        self.row = place.zone.workers[place.slot]
        self.published = publish.read(place.state_dir)
        self.settings = self.published.read_settings()
        plugin.make_importable(Path(self.published.folder))  # it may be younger than the master
        plugin.import_changed()
        self.loop = asyncio.get_running_loop()
        self.runtime = self._runtime()
        self.runtime.recorder.before_flush(self.runtime.tally)
        rings = place.zone.rings
        others = [rings[slot] for slot in place.slots if slot != place.slot]
        self.runtime.ledger = Ledger(rings[place.slot], others, self.runtime.by_slot.get)
        self._prepare(self.settings)
        snapshot = compile_snapshot(self.settings, self.published.generation, self.published.slots, self.runtime)
        wire = self.published.keys
        keys = KeyTable.from_wire(wire, self.settings.auth.identity_headers) if wire else self.runtime.keys.table
        self._take(self.published, snapshot, keys if wire is not None else None)
        if self.tls is not None:
            self.tls.tally = self.runtime.recorder.totals
        self.server = EdgeServer(
            self._config(self.tls),
            self._reception(),
            handshake_timeout=self.settings.tls.handshake_timeout,
            grace=self.settings.gateway.shutdown.grace,
        )
        self.rounds = Rounds(self)
        self.is_swapping = False
        self.is_behind = False  # something was published since a swap last looked

    async def run(self) -> None:
        place, loop = self.place, self.loop
        await asyncio.to_thread(self.certificates.reload, is_quick=True)  # soon again, in `_swap`
        loop.set_exception_handler(_tell)
        loop.add_signal_handler(signal.SIGHUP, self._on_published)
        loop.add_signal_handler(signal.SIGUSR1, self.flush)
        loop.add_signal_handler(signal.SIGTERM, self._end)
        self.row[STARTED] += 1
        self.row[STALE] = self.row[ENDING] = 0
        self._listen_plainly()
        self.rounds.begin()
        self.row[LOADED] = self.published.generation
        self.row[PID] = os.getpid()
        self._on_published()
        settle()
        try:
            await self.server.serve(sockets=[place.https])
        finally:
            self.runtime.close()

    def _runtime(self) -> Runtime:
        place, gateway = self.place, self.settings.gateway
        log = gateway.access_log.path
        return Runtime(
            row=place.zone.row(place.slot, place.slots),
            recorder=Recorder(place.slot, place.state_dir / "metrics"),
            journal=Journal(log) if log else None,
            sessions=Sessions(place.secrets),
            buckets=store_of(gateway.limits_store, place.zone),
            leases=leases_of(place.zone, place.slot),
            clients=self.certificates.clients,
            refresh=Refreshes(self._ask_for_keys),
            clock=monotonic,
            overload=Overload(gateway.overload.lag, monotonic()),
            workers=place.zone.header[WORKER_COUNT],
        )

    def _prepare(self, settings: Settings) -> None:
        """What chains are compiled with."""
        runtime = self.runtime
        told = settings.auth.identity_headers
        is_told_anew = told != self.settings.auth.identity_headers
        if runtime.tokens is None or settings.auth.jwt != self.settings.auth.jwt:
            runtime.tokens = Tokens(settings.auth.jwt) if settings.auth.jwt else None
        if settings.auth.htpasswd is None:
            runtime.users = None
        elif runtime.users is None or is_told_anew:
            runtime.users = Users(told=told)
        if runtime.failures is None or settings.auth.failures != self.settings.auth.failures:
            failures = settings.auth.failures
            runtime.failures = Failures(failures, runtime.buckets) if failures.rate is not None else None
        if settings.auth.mtls != self.settings.auth.mtls or not runtime.callers.rules:
            runtime.callers = callers_of(settings)
        runtime.granted_headers = granted_headers(settings)
        runtime.introspect(settings.auth.introspection)

    async def _keys(self, published: Published, settings: Settings, breath: Breath) -> KeyTable | None:
        """The table that is in use, if it is that of `published` too."""
        told, table, wire = settings.auth.identity_headers, self.runtime.keys.table, self.published.keys
        if told != self.settings.auth.identity_headers:
            return await read_keys(published.keys, told, None, breath)
        if published.keys == wire:
            return table
        return await read_keys(published.keys, told, (table, wire) if table is not None and wire else None, breath)

    def _take(self, published: Published, snapshot: Snapshot, keys: KeyTable | None) -> None:
        """Make `published` what new requests begin with."""
        runtime = self.runtime
        runtime.snapshot = snapshot
        if runtime.tokens is not None:  # the same object: a request that waits for its issuer's new key holds it
            runtime.tokens.adopt(published.jwks)
            runtime.tokens.revoke(published.revoked)
        runtime.keys.replace(keys)
        if runtime.users is not None:
            runtime.users.adopt(published.users)
        runtime.retain(set(published.slots))
        runtime.retain_models({name: route.pools for name, route in snapshot.routes.items()})

    # --- what it is told ---

    def _on_published(self) -> None:
        self.is_behind = True
        if not self.is_swapping:
            self.is_swapping = True
            task = self.loop.create_task(self._swap())
            self.server.server_state.tasks.add(task)
            task.add_done_callback(self.server.server_state.tasks.discard)

    async def _swap(self) -> None:
        """Take over the newest generation, and certificates; the old ones serve on if that fails."""
        try:
            while self.is_behind:
                self.is_behind = False
                await asyncio.to_thread(self.certificates.reload)
                published = publish.read(self.place.state_dir)
                if published.generation > self.published.generation and not self._is_stale(published):
                    breath = Breath()
                    settings = await read_settings(published, self.published, self.settings, breath)
                    plugin.make_importable(Path(published.folder))  # it may be new
                    keys = await self._keys(published, settings, breath)
                    self._prepare(settings)
                    snapshot = await compile_gradually(published, settings, self.settings, self.runtime, breath)
                    old = list(self.runtime.snapshot.routes.values())
                    self._take(published, snapshot, keys)
                    self.published, self.settings = published, settings
                    self.row[LOADED] = published.generation
                    await let_go(old, breath)
        except Exception:  # a task's border: the controller sees that LOADED stays behind, and reports it
            _log.exception("worker %d stays with generation %d", self.place.slot, self.published.generation)
        finally:
            self.is_swapping = False

    def _is_stale(self, published: Published) -> bool:
        """Code that was imported here has changed. A process cannot be sure to forget the old, so another one is to
        serve what is new: see `roll.py`."""
        mine, new = plugin.code(), published.code
        self.row[STALE] = any(new.get(name, digest) != digest for name, digest in mine.items())
        return bool(self.row[STALE])

    def _end(self) -> None:
        self.row[ENDING] = 1
        self.server.stop()

    def flush(self) -> None:
        """Write the counts where the controller finds them."""
        latencies = self.place.zone.latency[self.place.slot]
        for endpoint in self.runtime.endpoints.values():
            latencies[endpoint.slot] = endpoint.latency
        self.row[CONNECTIONS] = len(self.server.server_state.connections)
        self.runtime.recorder.totals.connections = self.row[CONNECTIONS]
        self.runtime.recorder.flush()
        self.row[FLUSHED] += 1

    async def _ask_for_keys(self, issuer: str) -> bool:
        """Have the controller fetch an issuer's keys; True once a generation with other ones is in use here."""
        names = [entry.issuer for entry in self.settings.auth.jwt]
        before = self.published.jwks.get(issuer)
        bit = wanted_bit(names.index(issuer))
        self.row[WANTED] |= bit
        try:
            os.kill(self.place.zone.header[CONTROLLER], signal.SIGUSR1)
            while self.published.jwks.get(issuer) == before:  # another issuer's news is none
                await asyncio.sleep(_ASK_SECONDS)
        finally:
            self.row[WANTED] &= ~bit
        return True

    # --- its sockets ---

    def _config(self, tls: Any, app: Any = None) -> EdgeConfig:
        gateway = self.settings.gateway
        app = app or make_app(self.runtime, gateway.trusted_proxies, self.settings.tls.hsts)
        return edge_config(app, gateway.limits, self.runtime.deadlines, tls)

    def _reception(self) -> Reception:
        place, gateway = self.place, self.settings.gateway
        rows = [place.zone.workers[slot] for slot in place.slots]
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return Reception(
            Room(gateway.limits, self.row, rows, self.runtime.leases, descriptors),
            self.runtime.recorder.totals,
            Trust(gateway.trusted_proxies),
            gateway.proxy_protocol,
            self.settings.tls.handshake_timeout,
        )

    def _listen_plainly(self) -> None:
        """The listener that redirects to https."""
        if self.place.http is None:
            return
        config = self._config(None, redirect_to(self.settings.gateway.https[1], self.certificates.folder / ANSWERS))
        config.load()
        self.server.listen(self.place.http, config, {})


def run(place: Place, certificates: CertificateStore, tls: Any) -> None:
    """Be a worker until told to stop. Called in the child, right after the fork; signals are blocked until the loop
    can take them."""

    async def main() -> None:
        with uncollected():
            worker = Worker(place, certificates, tls)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        await worker.run()

    uvloop.run(main())


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What went wrong in the loop itself. Not that uvloop goes on with the handshake of a connection that was given up
    meanwhile, since a client left or a hedge was won: that is an error with a traceback for each of them."""
    error = context.get("exception")
    if not (isinstance(error, RuntimeError) and str(error).endswith("the handler is closed")):
        loop.default_exception_handler(context)
