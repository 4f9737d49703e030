"""The state of everything as one document: what /status answers, the dashboard draws and `gateway status` prints.

Counts are since the gateway started; who wants a rate asks twice.
"""

import platform
import time
from collections.abc import Sequence

import msgspec

from gateway import compiled
from gateway.admin.exposition import own_version
from gateway.admin.view import AdminView, BucketsView, CertificateView, EndpointView, EngineView, WorkerView
from gateway.core.metrics import BUCKETS, Meter, PromptMeter, Totals


class InferenceStatus(msgspec.Struct):
    """Of an endpoint whose pool's policy reads prompts."""

    pending_tokens: int  # of prompts sent there and not begun to be answered
    running_streams: int  # past their first token
    prompt_tokens: int  # sent there in all
    cached_tokens: int  # of those, what it should have kept from earlier prompts
    prefill_seconds: float  # for each token of a prompt, as learned; 0: nothing learned
    token_seconds: float  # for each token of an answer, as seen; 0: nothing seen


class EndpointStatus(msgspec.Struct):
    url: str
    health: str
    in_flight: int
    latency: float  # average seconds to the first byte; 0: no sample
    weight: float
    inference: InferenceStatus | None = None  # None: nobody reads prompts
    engine: EngineView | None = None  # None: not asked, or silent
    traffic: str = ""  # what traffic says: "" is well, else why it gets less work than it might or none
    ejections: int = 0


class VersionStatus(msgspec.Struct):
    version: str  # "": requests refused before a version was chosen
    statuses: dict[str, int]
    duration: list[int]  # requests per bucket of Status.bounds, and one above all
    first_byte: list[int]
    bytes_in: int
    bytes_out: int
    retries: int
    endpoints: list[EndpointStatus]


class ModelStatus(msgspec.Struct):
    model: str  # "": requests that matched no model
    in_flight: int
    versions: list[VersionStatus]


class ErrorStatus(msgspec.Struct):
    model: str
    owner: str
    code: str
    count: int


class Status(msgspec.Struct):
    version: str
    python: str
    is_compiled: bool  # what a request runs through (docs/performance.md)
    now: float  # seconds since the epoch
    started: float
    generation: int
    obstacles: Sequence[str]  # none: ready
    connections: int
    bounds: Sequence[float]  # seconds
    workers: Sequence[WorkerView]
    models: list[ModelStatus]
    errors: list[ErrorStatus]
    certificates: Sequence[CertificateView]
    buckets: BucketsView | None
    lines_dropped: int
    problems: Sequence[str] = ()  # with the files as they are now, so that older ones are in use


def describe(totals: Totals, view: AdminView) -> Status:
    return Status(
        version=own_version(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        is_compiled=compiled.is_in_use(),
        now=time.time(),
        started=view.started,
        generation=view.generation,
        obstacles=view.obstacles(),
        connections=totals.connections,
        bounds=BUCKETS,
        workers=view.workers(),
        models=_models(totals, view.endpoints()),
        errors=[ErrorStatus(*labels, count) for labels, count in sorted(totals.errors.items())],
        certificates=view.certificates(),
        buckets=view.buckets(),
        lines_dropped=totals.lines_dropped,
        problems=view.problems,
    )


def _models(totals: Totals, endpoints: Sequence[EndpointView]) -> list[ModelStatus]:
    """Everything that is configured or was ever counted."""
    pools: dict[tuple[str, str], list[EndpointView]] = {}
    for endpoint in endpoints:
        pools.setdefault((endpoint.model, endpoint.version), []).append(endpoint)
    models: dict[str, ModelStatus] = {}
    for model, version in sorted({*pools, *totals.meters}):
        status = models.setdefault(model, ModelStatus(model, totals.in_flight.get(model, 0), []))
        status.versions.append(_version(version, totals, model, pools.get((model, version), [])))
    return list(models.values())


def _version(version: str, totals: Totals, model: str, endpoints: Sequence[EndpointView]) -> VersionStatus:
    meter = totals.meters.get((model, version)) or Meter()
    return VersionStatus(
        version=version,
        statuses={str(status): count for status, count in sorted(meter.statuses.items())},
        duration=meter.duration.counts,
        first_byte=meter.first_byte.counts,
        bytes_in=meter.bytes_in,
        bytes_out=meter.bytes_out,
        retries=meter.retries,
        endpoints=[_endpoint(each, totals.prompts.get(each.url)) for each in endpoints],
    )


def _endpoint(view: EndpointView, prompts: PromptMeter | None) -> EndpointStatus:
    inference = None
    if prompts is not None:
        inference = InferenceStatus(
            view.pending_tokens,
            view.running_streams,
            prompts.tokens,
            prompts.cached,
            prompts.prefill_seconds,
            prompts.token_seconds,
        )
    health = view.health.name.lower()
    return EndpointStatus(
        view.url,
        health,
        view.in_flight,
        view.latency,
        view.weight,
        inference,
        view.engine,
        view.traffic,
        view.ejections,
    )
