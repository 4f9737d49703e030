"""The counts as Prometheus reads them: text 0.0.4, or OpenMetrics if the scraper prefers that.

Durations are seconds and sizes are bytes (Prometheus' naming rules). What a label can hold is bounded by the
configuration: see `core/metrics.py`.
"""

import platform
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from gateway.admin.view import AdminView, EndpointView
from gateway.core.endpoint import Health
from gateway.core.metrics import BUCKETS, Histogram, Totals

_BOUNDS = (*(str(bound) for bound in BUCKETS), "+Inf")
_TARGET = ("model", "version")
_ENDPOINT = ("model", "version", "endpoint")


def own_version() -> str:
    """Of this package; empty where it runs from a source tree that is not installed."""
    try:
        return version("model-gateway")
    except PackageNotFoundError:
        return ""


_VERSION = own_version()


def render(totals: Totals, view: AdminView, accept: str = "") -> tuple[bytes, str]:
    """The exposition and its content type, as an Accept field asks for it."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(totals, view))
    return encode(registry), content_type


class _Once(Collector):
    """The families of one scrape."""

    def __init__(self, totals: Totals, view: AdminView) -> None:
        self.totals = totals
        self.view = view

    def collect(self) -> Iterator[Metric]:
        yield from _requests(self.totals)
        yield from _events(self.totals)
        yield from _handshakes(self.totals)
        endpoints = self.view.endpoints()
        yield from _endpoints(endpoints)
        yield from _inference(self.totals, endpoints)
        yield from _engines(endpoints)
        yield from _gateway(self.totals, self.view)


def _requests(totals: Totals) -> Iterator[Metric]:
    """What is counted for each model and version."""
    requests = CounterMetricFamily("gateway_requests", "Requests that ended.", labels=(*_TARGET, "status"))
    duration = HistogramMetricFamily(
        "gateway_request_duration_seconds", "From a request's head to the last byte of its answer.", labels=_TARGET
    )
    first_byte = HistogramMetricFamily(
        "gateway_first_byte_seconds", "From a request's head to the first byte of its answer.", labels=_TARGET
    )
    counters = {
        "bytes_in": CounterMetricFamily("gateway_request_bytes", "Bytes of requests' bodies.", labels=_TARGET),
        "bytes_out": CounterMetricFamily("gateway_response_bytes", "Bytes of answers' bodies.", labels=_TARGET),
        "attempts": CounterMetricFamily("gateway_upstream_attempts", "Attempts at endpoints.", labels=_TARGET),
        "retries": CounterMetricFamily("gateway_upstream_retries", "Attempts after the first.", labels=_TARGET),
        "fallbacks": CounterMetricFamily(
            "gateway_fallbacks", "Requests that were meant for another model or version.", labels=_TARGET
        ),
        "hedges": CounterMetricFamily("gateway_hedges", "Attempts beside a slow one.", labels=_TARGET),
        "hedges_won": CounterMetricFamily("gateway_hedges_won", "Of them, those that answered.", labels=_TARGET),
        "queued": CounterMetricFamily("gateway_queued", "Requests that waited for room.", labels=_TARGET),
        "queued_seconds": CounterMetricFamily("gateway_queued_seconds", "How long they waited.", labels=_TARGET),
        "retries_denied": CounterMetricFamily(
            "gateway_upstream_retries_denied", "Attempts that a retry budget did not pay for.", labels=_TARGET
        ),
    }
    for target, meter in sorted(totals.meters.items()):
        for status, count in sorted(meter.statuses.items()):
            requests.add_metric((*target, str(status)), count)
        duration.add_metric(target, _cumulative(meter.duration), meter.duration.sum)
        first_byte.add_metric(target, _cumulative(meter.first_byte), meter.first_byte.sum)
        for name, family in counters.items():
            family.add_metric(target, getattr(meter, name))
    yield requests
    yield duration
    yield first_byte
    yield from counters.values()


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus' buckets hold everything at or under their bound."""
    total = 0
    rows: list[tuple[str, float]] = []
    for bound, count in zip(_BOUNDS, histogram.counts, strict=True):
        total += count
        rows.append((bound, total))
    return rows


def _events(totals: Totals) -> Iterator[Metric]:
    errors = CounterMetricFamily(
        "gateway_errors", "Requests that failed, by whose fault and how.", labels=("model", "owner", "code")
    )
    for error, count in sorted(totals.errors.items()):
        errors.add_metric(error, count)
    verdicts = CounterMetricFamily("gateway_limit_verdicts", "What limits said.", labels=("model", "verdict"))
    for verdict, count in sorted(totals.verdicts.items()):
        verdicts.add_metric(verdict, count)
    in_flight = GaugeMetricFamily("gateway_requests_in_flight", "Requests not yet ended.", labels=("model",))
    for model, count in sorted(totals.in_flight.items()):
        in_flight.add_metric((model,), count)
    waiting = GaugeMetricFamily("gateway_queue_length", "Requests that wait for room.", labels=_TARGET)
    for target, count in sorted(totals.waiting.items()):
        waiting.add_metric(target, count)
    dropped = CounterMetricFamily("gateway_log_lines_dropped", "Access log lines that could not be written.")
    dropped.add_metric((), totals.lines_dropped)
    yield from (errors, verdicts, in_flight, waiting, dropped)


def _handshakes(totals: Totals) -> Iterator[Metric]:
    done = CounterMetricFamily("gateway_tls_handshakes", "TLS handshakes of clients.", labels=("version", "cipher"))
    for kind, count in sorted(totals.handshakes.items()):
        done.add_metric(kind, count)
    failed = CounterMetricFamily("gateway_tls_handshake_failures", "Those that failed, and why.", labels=("reason",))
    for reason, count in sorted(totals.handshake_failures.items()):
        failed.add_metric((reason,), count)
    refused = CounterMetricFamily(
        "gateway_connections_refused", "Connections closed before their handshake.", labels=("reason",)
    )
    for reason, count in sorted(totals.connections_refused.items()):
        refused.add_metric((reason,), count)
    pauses = CounterMetricFamily("gateway_accept_pauses", "Times when no connection could be accepted for a while.")
    pauses.add_metric((), totals.accept_pauses)
    stalls = CounterMetricFamily(
        "gateway_loop_stalls",
        "Times when a worker's loop stood still, and the plugin that held it up.",
        labels=("plugin",),
    )
    for plugin, count in sorted(totals.stalls.items()):
        stalls.add_metric((plugin,), count)
    yield from (done, failed, refused, pauses, stalls)


def _endpoints(endpoints: Iterable[EndpointView]) -> Iterator[Metric]:
    health = StateSetMetricFamily("gateway_endpoint_health", "The state an endpoint is in.", labels=_ENDPOINT)
    in_flight = GaugeMetricFamily("gateway_endpoint_in_flight", "Requests that an endpoint holds.", labels=_ENDPOINT)
    latency = GaugeMetricFamily(
        "gateway_endpoint_latency_seconds", "Average time to an endpoint's first byte.", labels=_ENDPOINT
    )
    ejections = CounterMetricFamily(
        "gateway_endpoint_ejections", "Times that an endpoint was left out because requests failed.", labels=_ENDPOINT
    )
    left_out = GaugeMetricFamily(
        "gateway_endpoint_left_out", "1 while traffic keeps new work away from an endpoint.", labels=_ENDPOINT
    )
    # By labels, so that an address that a pool lists twice is no duplicate series: a scrape with one fails whole.
    for labels, endpoint in {(e.model, e.version, e.url): e for e in endpoints}.items():
        health.add_metric(labels, {state.name.lower(): state is endpoint.health for state in Health})
        in_flight.add_metric(labels, endpoint.in_flight)
        ejections.add_metric(labels, endpoint.ejections)
        left_out.add_metric(labels, endpoint.traffic.startswith(("out", "busy")))
        if endpoint.latency:
            latency.add_metric(labels, endpoint.latency)
    yield from (health, in_flight, ejections, left_out, latency)


def _inference(totals: Totals, endpoints: Iterable[EndpointView]) -> Iterator[Metric]:
    """Of endpoints whose pool's policy reads prompts. By address: who serves several models has one engine."""
    pending = GaugeMetricFamily(
        "gateway_endpoint_pending_tokens", "Tokens of prompts sent and not begun to be answered.", labels=("endpoint",)
    )
    running = GaugeMetricFamily(
        "gateway_endpoint_running_streams", "Answers past their first token.", labels=("endpoint",)
    )
    tokens = CounterMetricFamily("gateway_endpoint_prompt_tokens", "Tokens of prompts sent.", labels=("endpoint",))
    cached = CounterMetricFamily(
        "gateway_endpoint_cached_tokens", "Those of a beginning that the endpoint had.", labels=("endpoint",)
    )
    prefill = GaugeMetricFamily(
        "gateway_endpoint_prefill_seconds", "For each token of a prompt, as learned.", labels=("endpoint",)
    )
    token = GaugeMetricFamily(
        "gateway_endpoint_token_seconds", "For each token of an answer, as seen.", labels=("endpoint",)
    )
    for url, endpoint in {e.url: e for e in endpoints if e.url in totals.prompts}.items():
        pending.add_metric((url,), endpoint.pending_tokens)
        running.add_metric((url,), endpoint.running_streams)
        meter = totals.prompts[url]
        tokens.add_metric((url,), meter.tokens)
        cached.add_metric((url,), meter.cached)
        if meter.prefill_seconds:
            prefill.add_metric((url,), meter.prefill_seconds)
        if meter.token_seconds:
            token.add_metric((url,), meter.token_seconds)
    yield from (pending, running, tokens, cached, prefill, token)


def _engines(endpoints: Iterable[EndpointView]) -> Iterator[Metric]:
    """Of endpoints whose engine is asked, as long as it answers."""
    requests = GaugeMetricFamily(
        "gateway_engine_requests", "As an endpoint's engine says.", labels=("endpoint", "state")
    )
    usage = GaugeMetricFamily("gateway_engine_kv_usage", "The share of its cache in use.", labels=("endpoint",))
    cache = GaugeMetricFamily("gateway_engine_kv_tokens", "Tokens that its cache holds.", labels=("endpoint",))
    for url, engine in {e.url: e.engine for e in endpoints if e.engine is not None}.items():
        requests.add_metric((url, "waiting"), engine.waiting)
        requests.add_metric((url, "running"), engine.running)
        usage.add_metric((url,), engine.kv_usage)
        if engine.cache:
            cache.add_metric((url,), engine.cache)
    yield from (requests, usage, cache)


def _issuers(view: AdminView) -> Iterator[Metric]:
    """An issuer that is down costs nothing at first: its keys stay in use. These tell."""
    failures = GaugeMetricFamily(
        "gateway_issuer_key_failures", "Failed attempts to get an issuer's keys, in a row.", labels=("issuer",)
    )
    age = GaugeMetricFamily(
        "gateway_issuer_keys_age_seconds", "Since an issuer's keys were last had.", labels=("issuer",)
    )
    for issuer in view.issuers():
        failures.add_metric((issuer.issuer,), issuer.failures)
        if issuer.age is not None:
            age.add_metric((issuer.issuer,), issuer.age)
    yield from (failures, age)


def _key_store(view: AdminView) -> Iterator[Metric]:
    """Likewise of the store of keys, where they are not in a file."""
    store = view.key_store()
    if store is not None:
        yield GaugeMetricFamily("gateway_key_store_failures", "Failed reads of the keys, in a row.", store.failures)
        if store.age is not None:
            yield GaugeMetricFamily("gateway_key_store_age_seconds", "Since the keys were last read.", store.age)


def _gateway(totals: Totals, view: AdminView) -> Iterator[Metric]:
    workers = [worker for worker in view.workers() if worker.pid]
    buckets = view.buckets()
    yield GaugeMetricFamily("gateway_connections_open", "Connections of clients.", totals.connections)
    yield GaugeMetricFamily("gateway_workers", "Worker processes that run.", len(workers))
    starts = sum(worker.starts for worker in view.workers())
    yield CounterMetricFamily("gateway_worker_starts", "Worker processes started.", starts)
    yield GaugeMetricFamily("gateway_ready", "1 if traffic should be sent here.", int(not view.obstacles()))
    yield GaugeMetricFamily("gateway_config_generation", "Of the newest snapshot.", view.generation)
    problems = "Mistakes in the files as they are now; above 0, older ones are in use."
    yield GaugeMetricFamily("gateway_config_problems", problems, len(view.problems))
    yield GaugeMetricFamily("gateway_start_time_seconds", "When the gateway started (Unix time).", view.started)
    certificates = GaugeMetricFamily(
        "gateway_certificate_days_left", "Until a certificate expires.", labels=("certificate",)
    )
    for certificate in (each for each in view.certificates() if each.expires):
        certificates.add_metric((certificate.name,), (certificate.expires - time.time()) / 86400)
    yield certificates
    yield from _issuers(view)
    yield from _key_store(view)
    if buckets is not None:
        used = GaugeMetricFamily("gateway_buckets_used", "Token buckets in use.", labels=("store",))
        used.add_metric((buckets.store,), buckets.used)
        yield used
    build = GaugeMetricFamily("gateway_build_info", "What runs.", labels=("version", "python"))
    build.add_metric((_VERSION, platform.python_version()), 1)
    yield build
