"""The controller process: watches files, probes health, fetches issuers' keys, makes generations, serves the admin
port. It may be slow, it may refuse, and it never touches a request; without it traffic goes on with the last snapshot.
"""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvloop

from gateway import plugin
from gateway.admin.app import make_admin
from gateway.admin.guard import read_token
from gateway.config.settings import EndpointSettings, HealthSettings, Issuer, Settings, UpstreamTLS
from gateway.control import publish
from gateway.control.engines import Engines, Source
from gateway.control.files import Watched, proofs
from gateway.control.jwks import Jwks
from gateway.control.keystore import Asking
from gateway.control.probe import Prober, Target
from gateway.control.publish import Published
from gateway.control.reload import Reloader
from gateway.control.renew import Renewal
from gateway.control.watch import Watcher
from gateway.garbage import settle, uncollected
from gateway.preflight import VALIDATORS
from gateway.server.columns import Columns
from gateway.server.crew import Crew
from gateway.server.door import Door
from gateway.server.lookups import Loop
from gateway.server.view import View
from gateway.server.zone import CONTROLLER, GENERATION, Zone, wanted_bit
from gateway.tls.client import UpstreamContexts
from gateway.tls.pair import Problem as CertificateProblem
from gateway.tls.store import CertificateStore

_log = logging.getLogger("gateway.controller")

_KEEP_SECONDS = 1.0
_LOOK_SECONDS = 3600.0  # certificates expire by the day


@dataclass(frozen=True)
class Office:
    """Where the controller works."""

    config: Path
    state_dir: Path
    zone: Zone
    admin: socket.socket
    certificates: CertificateStore


class Controller:
    """The inside of the controller process."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.zone = office.zone
        self.crew = Crew(office.zone)
        published = publish.read(office.state_dir)
        self.reloader = Reloader(office.config, published, self._announce, VALIDATORS, plugin.code)
        self.files = Watched(office.config)
        self.watcher = Watcher(lambda: self.files.of(self.reloader.settings), self.reload)
        self.columns = Columns(self.zone)
        self.prober = Prober(self.columns.tell)
        self.engines = Engines(self.columns.tell_engine)
        self.contexts = UpstreamContexts()  # for probes and engines
        self.grpc_contexts = UpstreamContexts()  # for probes that speak HTTP/2
        self.issuers: list[Issuer] = []
        self.jwks: Jwks | None = None
        self.fetching: asyncio.Task[object] | None = None
        self.asking: Asking | None = None  # `auth.key_store`
        self.asked: tuple[object, ...] = ()  # which, and by what code
        self.asking_task: asyncio.Task[object] | None = None
        self.renewal: Renewal | None = None
        self.certificate_problems: list[CertificateProblem] = []
        self.insecure: list[str] = []  # versions whose endpoints need not prove themselves
        self.tasks: set[asyncio.Task[object]] = set()
        self.loop = asyncio.get_running_loop()

    async def run(self) -> None:
        office, loop = self.office, self.loop
        is_first = not self.zone.header[CONTROLLER]  # else another one has died, or handed over
        self.zone.header[CONTROLLER] = os.getpid()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._do(self.reload()))
        loop.add_signal_handler(signal.SIGUSR1, self._on_wanted)
        gateway = self.reloader.settings.gateway
        admin = make_admin(View(self), address=gateway.admin[0], token=read_token(gateway.admin_token_file))
        server = Door(admin)
        loop.add_signal_handler(signal.SIGTERM, server.stop)
        self._apply(self.reloader.published, self.reloader.settings)
        settle()
        self.zone.header[GENERATION] = self.reloader.published.generation
        for end in {*self.columns.drained.values()} - {math.inf}:
            self._do(self._end_sessions(end))
        self._renew()
        self._do(self._look_again())
        self._do(self._keep())
        self._do(self._watch(is_first=is_first))
        await server.serve(sockets=[office.admin])
        for task in list(self.tasks):
            task.cancel()

    async def _watch(self, *, is_first: bool) -> None:
        """Notice what changes, and what has changed since it was last read."""
        await self.reload(is_forced=not is_first)
        await self.watcher.run()

    async def reload(self, *, is_forced: bool = True) -> list[str]:
        """Read everything anew; -> what is wrong, empty on success. Certificates are the workers' own to read, and
        change whatever may be wrong with the rest."""
        await self.watcher.mark()
        await self._look_at_certificates()
        with contextlib.suppress(plugin.PluginError):  # whoever names a module there is told more
            plugin.make_importable(self.office.config.absolute().parent)  # the folder may be new
        generation = self.reloader.published.generation
        problems = await self.reloader.reload(is_forced=is_forced)
        if self.reloader.published.generation == generation:
            self.crew.tell(signal.SIGHUP)
        return problems + [f"certificate {problem}" for problem in self.certificate_problems if problem.is_error]

    async def _look_at_certificates(self) -> None:
        before = self.certificate_problems
        self.certificate_problems = await asyncio.to_thread(self.office.certificates.reload)
        for problem in self.certificate_problems:
            if problem not in before:
                _log.warning("certificate %s", problem)

    async def _look_again(self) -> None:
        """What no change of a file tells: that something is about to expire, or has."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look_at_certificates()

    async def _keep(self) -> None:
        """See to it that there is something that a worker can start from."""
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            await self.reloader.keep()

    def _renew(self) -> None:
        """Like the other keys of `tls`, `acme` takes effect at a start."""
        settings = self.reloader.settings
        if settings.tls.acme is not None:
            self.renewal = Renewal(settings.tls.acme, self.office.certificates.folder, self.office.state_dir)
            self._do(self.renewal.run())

    def _do(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        """Run beside everything else; its failure is logged and ends only itself."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[object]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a task of the controller failed", exc_info=task.exception())

    # --- generations ---

    async def _announce(self, published: Published, settings: Settings) -> list[str]:
        """Of a new generation; -> which workers have not taken it over."""
        self._apply(published, settings)
        self.zone.header[GENERATION] = published.generation
        return await self.crew.take_over(published.generation)

    def _apply(self, published: Published, settings: Settings) -> None:
        """Take over a generation: what is to be probed, whose keys are to be kept fresh."""
        self.columns.assign(published.slots)
        self.prober.update(self._targets(settings))
        self.engines.update(self._sources(settings))
        self.contexts.retain(set(proofs(settings)))
        self.grpc_contexts.retain(set(proofs(settings)))
        self._warn_of_insecure(settings)
        if settings.auth.jwt != self.issuers:
            self.issuers = list(settings.auth.jwt)
            if self.fetching is not None:
                self.fetching.cancel()
            self.jwks = Jwks(
                self.issuers, self.reloader.replace_jwks, keys=self.jwks.keys if self.jwks else published.jwks
            )
            self.fetching = self._do(self.jwks.run())
        self._ask_for_keys(published, settings)

    def _ask_for_keys(self, published: Published, settings: Settings) -> None:
        """Keep asking the store of keys, another one if the configuration or its code is."""
        store = settings.auth.key_store
        wanted = (store, tuple(published.code.items())) if store is not None else ()
        if wanted == self.asked:
            return
        self.asked, self.asking = wanted, None
        if self.asking_task is not None:
            self.asking_task.cancel()
        if store is not None:
            self.asking = Asking(store.use, plugin.load_store(store), store.every, self.reloader.replace_keys)
            self.asking_task = self._do(self.asking.run())

    def _warn_of_insecure(self, settings: Settings) -> None:
        """Again with every generation that has other ones."""
        found = [
            f"{name}@{label}"
            for name, model in settings.models.items()
            for label, version in model.versions.items()
            if (version.upstream_tls or model.upstream_tls).insecure
        ]
        if found and found != self.insecure:
            _log.warning("upstream_tls.insecure: whoever answers for endpoints of %s is believed", ", ".join(found))
        self.insecure = found

    def _targets(self, settings: Settings) -> Iterator[Target]:
        drained = self.columns.drained
        for model in settings.models.values():
            for version in model.versions.values():
                health, tls = version.health or model.health, version.upstream_tls or model.upstream_tls
                for endpoint in version.endpoints:
                    yield self._target(endpoint, health, tls, drain=endpoint.drain or endpoint.url in drained)

    def _sources(self, settings: Settings) -> Iterator[Source]:
        for model in settings.models.values():
            for version in model.versions.values():
                metrics = (version.balance or model.balance).engine_metrics
                if metrics is None:
                    continue
                tls = version.upstream_tls or model.upstream_tls
                for endpoint in version.endpoints:
                    context = self.contexts.of(tls) if endpoint.address.scheme == "https" else None
                    yield Source(endpoint.url, metrics.path, metrics.port, context, tls.server_name)

    def _target(
        self, endpoint: EndpointSettings, health: HealthSettings | None, tls: UpstreamTLS, *, drain: bool
    ) -> Target:
        context = None
        if health and endpoint.address.scheme == "https":
            is_grpc = health.type == "grpc"
            context = (self.grpc_contexts if is_grpc else self.contexts).of(tls)
            if is_grpc:
                context.set_alpn_protocols(["h2"])
        return Target.of(endpoint.url, health, drain=drain, tls=context, server_name=tls.server_name)

    def drain(self, urls: set[str], deadline: float | None) -> None:
        """By command: send no new work to these endpoints, and after `deadline` seconds no session's either."""
        end = time.monotonic() + deadline if deadline is not None else math.inf
        self.columns.drain(urls, end)
        self.prober.update(self._targets(self.reloader.settings))
        if deadline is not None:
            self._do(self._end_sessions(end))

    def undrain(self, urls: set[str]) -> None:
        """By command: send new work there again."""
        self.columns.undrain(urls)
        self.prober.update(self._targets(self.reloader.settings))

    async def _end_sessions(self, end: float) -> None:
        """At the deadline of a drain."""
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self.columns.end_sessions()

    def _on_wanted(self) -> None:
        """A worker saw a token of a key that its issuer did not have when last asked."""
        wanted = self.crew.wanted()
        for index, issuer in enumerate(self.issuers):
            if wanted & wanted_bit(index) and self.jwks is not None:
                self._do(self.jwks.refresh(issuer.issuer))


def run(office: Office) -> None:
    """Be the controller until told to stop. Called in the child, right after the fork; signals are blocked until the
    loop can take them."""

    async def main() -> None:
        with uncollected():
            controller = Controller(office)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        await controller.run()

    uvloop.run(main(), loop_factory=Loop)
