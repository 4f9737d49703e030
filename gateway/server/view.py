"""What the operator's door sees of the gateway: the controller's knowledge and the zone's cells."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gateway.admin.view import (
    GATEWAY,
    BucketsView,
    CertificateView,
    EndpointView,
    EngineView,
    IssuerView,
    KeyStoreView,
    WorkerView,
)
from gateway.core.endpoint import Health, identity
from gateway.core.metrics import Totals
from gateway.core.standing import look, say
from gateway.core.work import ENGINE_FRESH
from gateway.edge.meters import merge
from gateway.server.zone import CONNECTIONS, DRAINED, DRAINING, ENDING, LOADED, PID, STARTED, WORKER_COUNT
from gateway.stores.shared import SharedBuckets
from gateway.tls.store import SUFFIXES

if TYPE_CHECKING:
    from gateway.server.controller import Controller


class View:
    """Implements `admin.view.AdminView`."""

    def __init__(self, controller: "Controller") -> None:
        self.controller = controller
        self.zone = controller.zone
        self.shared = SharedBuckets(self.zone.buckets, self.zone.fd, self.zone.buckets_at)
        self.started = time.time()

    @property
    def generation(self) -> int:
        return self.controller.reloader.published.generation

    @property
    def problems(self) -> Sequence[str]:
        return self.controller.reloader.problems

    def obstacles(self) -> Sequence[str]:
        found = []
        if self.zone.header[DRAINING] or self.zone.header[DRAINED]:
            found.append("draining")
        if not any(row[PID] and row[LOADED] for row in self.zone.workers):  # a predecessor's count too
            found.append("no worker serves yet")
        # With ACME there is none before the CA has reached us, which it may not where nobody is sent who is not ready.
        if not len(self.controller.office.certificates) and self.controller.renewal is None:
            found.append("no certificate can be shown")
        return found

    async def totals(self) -> Totals:
        await self.controller.crew.flush()
        return await asyncio.to_thread(merge, self.controller.reloader.settings.gateway.state_dir / "metrics")

    def endpoints(self) -> Sequence[EndpointView]:
        alive = [worker for worker, row in enumerate(self.zone.workers) if row[PID]]  # a predecessor's too
        heard = dict.fromkeys([*alive, *self.controller.crew.slots(), *self.zone.before()])  # outlives who heard it
        standings, now = [self.zone.standing[worker] for worker in heard], time.monotonic()
        return [
            EndpointView(
                model=model,
                version=version,
                url=url,
                health=Health(self.zone.health[slot]),
                in_flight=sum(self.zone.in_flight[worker][slot] for worker in alive),
                latency=self._latency(slot, alive),
                weight=weight,
                pending_tokens=sum(self.zone.pending[worker][slot] for worker in alive),
                running_streams=sum(self.zone.running[worker][slot] for worker in alive),
                engine=self._engine(slot),
                traffic=say(standing := look(identity(url), slot, standings, now), now),
                ejections=standing.times_out,
            )
            for model, version, url, weight in self._members()
            if (slot := self.controller.reloader.published.slots.get(url)) is not None
        ]

    def workers(self) -> Sequence[WorkerView]:
        """Those that run, and a line for each that should and does not."""
        rows = self.controller.crew.all_rows()
        missing = self.zone.header[WORKER_COUNT] - len(self.controller.crew.rows())
        absent = [slot for slot, row in enumerate(rows) if not row[PID]][: max(0, missing)]
        return [
            WorkerView(
                slot=slot,
                pid=row[PID],
                generation=row[LOADED],
                starts=row[STARTED],
                connections=row[CONNECTIONS],
                is_ending=bool(row[PID] and row[ENDING]),
            )
            for slot, row in enumerate(rows)
            if row[PID] or slot in absent
        ]

    def issuers(self) -> Sequence[IssuerView]:
        states = self.controller.jwks.state() if self.controller.jwks else []
        return [IssuerView(issuer=issuer, failures=failures, age=age) for issuer, failures, age in states]

    def key_store(self) -> KeyStoreView | None:
        asking = self.controller.asking
        return KeyStoreView(failures=asking.failures, age=asking.age) if asking is not None else None

    def certificates(self) -> Sequence[CertificateView]:
        problems = {problem.file: problem.message for problem in self.controller.certificate_problems}
        renewal = self.controller.renewal
        if renewal is not None and renewal.problem is not None:
            problems[renewal.problem.file] = renewal.problem.message
        shown = [
            CertificateView(
                name=pair.name,
                hosts=pair.hosts,
                expires=pair.not_after,
                problem=next(filter(None, (problems.pop(pair.name + suffix, "") for suffix in SUFFIXES)), ""),
            )
            for pair in self.controller.office.certificates.pairs
        ]
        return shown + [CertificateView(name=file, hosts=(), problem=message) for file, message in problems.items()]

    def buckets(self) -> BucketsView | None:
        if not self.controller.reloader.settings.gateway.limits_store.startswith("shared:"):
            return None
        used = self.shared.used(time.monotonic_ns())
        return BucketsView(store="shared", used=used, capacity=self.shared.capacity)

    async def reload(self) -> tuple[bool, Sequence[str]]:
        problems = await self.controller.reload()
        return not problems, problems or self.controller.reloader.notes

    async def drain(self, target: str, deadline: float | None = None) -> int:
        if target == GATEWAY:
            self.zone.header[DRAINED] = 1
            return 1
        urls = self._urls(target)
        self.controller.drain(urls, deadline)
        return len(urls)

    async def undrain(self, target: str) -> int:
        if target == GATEWAY:
            self.zone.header[DRAINED] = 0
            return 1
        urls = self._urls(target)
        self.controller.undrain(urls)
        return len(urls)

    def _members(self) -> Iterator[tuple[str, str, str, float]]:
        for name, model in self.controller.reloader.settings.models.items():
            for version, arm in model.versions.items():
                for endpoint in arm.endpoints:
                    yield name, version, endpoint.url, endpoint.weight

    def _urls(self, target: str) -> set[str]:
        """The endpoints that a URL, `model` or `model@version` means."""
        return {url for model, version, url, _ in self._members() if target in (url, model, f"{model}@{version}")}

    def _engine(self, slot: int) -> EngineView | None:
        zone = self.zone
        if time.monotonic() - zone.engine_at[slot] > ENGINE_FRESH or not zone.engine_at[slot]:
            return None
        return EngineView(
            waiting=zone.engine_waiting[slot],
            running=zone.engine_running[slot],
            kv_usage=zone.engine_usage[slot],
            cache=zone.engine_cache[slot],
        )

    def _latency(self, slot: int, workers: Sequence[int]) -> float:
        samples = [cell for worker in workers if (cell := self.zone.latency[worker][slot]) > 0.0]
        return sum(samples) / len(samples) if samples else 0.0
