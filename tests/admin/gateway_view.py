"""A gateway small enough for a test: real recorders and files behind the view of it that the controller gives."""

import time
from collections.abc import Sequence
from pathlib import Path

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
from gateway.core.endpoint import Health
from gateway.core.metrics import Totals
from gateway.core.tally import count_verdict, record
from gateway.edge.meters import Recorder, merge
from gateway.errors import NoEndpoint, TooManyRequests
from gateway.model import Exchange


class Gateway:
    """Two workers, one model in two versions; what is told to it is remembered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recorders = [Recorder(slot, folder) for slot in range(2)]
        self.generation = 7
        self.started = time.time() - 3600.0
        self.drained: list[str] = []
        self.deadlines: list[float | None] = []
        self.problems: list[str] = []
        self.pids = [101, 102]
        self.endpoint_views = [
            EndpointView(model="iris", version="v1", url="http://127.0.0.1:9001", health=Health.UP, in_flight=3,
                         latency=0.0125),
            EndpointView(model="iris", version="v1", url="http://127.0.0.1:9002", health=Health.DOWN, weight=2),
            EndpointView(model="iris", version="v2", url="http://127.0.0.1:9003", health=Health.CHECKING),
        ]  # fmt: skip
        self.certificate_views = [
            CertificateView(name="default", hosts=["gw.example.com"], expires=time.time() + 90.5 * 86400)
        ]
        self.bucket_view: BucketsView | None = BucketsView(store="shared", used=12, capacity=65536)

    def serve(self, worker: int, model: str, version: str, status: int, seconds: float = 0.02) -> None:
        """Have a worker count one exchange."""
        totals = self.recorders[worker].totals
        exchange = Exchange("id", 0.0, "192.0.2.1")
        exchange.status, exchange.attempts = status, 1
        exchange.bytes_in, exchange.bytes_out, exchange.first_byte = 10, 100, seconds / 2
        record(totals.meter(model, version), exchange, seconds)
        if status == 503:
            totals.count_error(model, NoEndpoint())
        elif status == 429:
            totals.count_error(model, TooManyRequests())
        count_verdict(totals, model, "limited" if status == 429 else "admitted")

    def read_prompts(self) -> None:
        """One endpoint more, whose pool's policy reads prompts: both workers know it, one has learned its speed."""
        view = EndpointView(model="iris", version="v1", url="http://127.0.0.1:9005", health=Health.UP,
                            pending_tokens=700, running_streams=5,
                            engine=EngineView(waiting=3, running=9, kv_usage=0.5, cache=400_000))  # fmt: skip
        self.endpoint_views.append(view)
        for recorder, (tokens, cached, prefill, token) in zip(
            self.recorders, ((600, 250, 2e-4, 0.03), (400, 0, 0.0, 0.01)), strict=True
        ):
            meter = recorder.totals.prompt_meter(view.url)
            meter.tokens, meter.cached = tokens, cached
            meter.learned(prefill, token)

    # --- AdminView ---

    def obstacles(self) -> Sequence[str]:
        return ["draining"] if GATEWAY in self.drained else [] if any(self.pids) else ["no worker runs"]

    async def totals(self) -> Totals:
        for recorder in self.recorders:
            recorder.flush()
        return merge(self.folder)

    def endpoints(self) -> Sequence[EndpointView]:
        return self.endpoint_views

    def workers(self) -> Sequence[WorkerView]:
        return [WorkerView(slot=slot, pid=pid, generation=7, connections=4) for slot, pid in enumerate(self.pids)]

    def certificates(self) -> Sequence[CertificateView]:
        return self.certificate_views

    def issuers(self) -> Sequence[IssuerView]:
        return [
            IssuerView(issuer="https://up.example/", failures=0, age=12.5),
            IssuerView(issuer="https://down.example/", failures=3, age=None),
        ]

    def key_store(self) -> KeyStoreView | None:
        return KeyStoreView(failures=2, age=7.0)

    def buckets(self) -> BucketsView | None:
        return self.bucket_view

    async def reload(self) -> tuple[bool, Sequence[str]]:
        if not self.problems:
            self.generation += 1
        return not self.problems, self.problems

    async def drain(self, target: str, deadline: float | None = None) -> int:
        count = self._count(target)
        self.drained += [target] * bool(count)
        self.deadlines += [deadline] * bool(count)
        return count

    async def undrain(self, target: str) -> int:
        if target in self.drained:
            self.drained.remove(target)
        return self._count(target)

    def _count(self, target: str) -> int:
        names = [(view.url, view.model, f"{view.model}@{view.version}") for view in self.endpoint_views]
        return 1 if target == GATEWAY else sum(target in name for name in names)
