"""What Prometheus reads, read back by its own parsers."""

import asyncio
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.admin.exposition import render
from gateway.admin.view import EndpointView
from gateway.core.endpoint import Health
from tests.admin.gateway_view import Gateway

OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(gateway: Gateway, accept: str = "") -> Samples:
    text, content_type = render(asyncio.run(gateway.totals()), gateway, accept)
    parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    samples: Samples = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"twice: {key}"
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


@pytest.fixture
def busy(gateway: Gateway) -> Gateway:
    for worker, status, seconds in [(0, 200, 0.004), (1, 200, 0.3), (1, 429, 0.005), (0, 503, 1000.0)]:
        gateway.serve(worker, "iris", "v1", status, seconds)
    gateway.serve(0, "", "", 404)
    gateway.recorders[0].totals.in_flight = {"iris": 2}
    gateway.recorders[1].totals.in_flight = {"iris": 3, "llama": 1}
    gateway.recorders[0].totals.connections = 8
    gateway.recorders[1].totals.connections = 9
    gateway.recorders[1].totals.lines_dropped = 4
    gateway.problems = ["routes.yaml:3: modles: unknown key", "keys.yaml: is empty"]
    return gateway


@pytest.mark.parametrize("accept", ["", OPENMETRICS], ids=["text", "openmetrics"])
@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("gateway_requests_total", {"model": "iris", "version": "v1", "status": "200"}, 2),
        ("gateway_requests_total", {"model": "iris", "version": "v1", "status": "503"}, 1),
        ("gateway_requests_total", {"model": "", "version": "", "status": "404"}, 1),
        ("gateway_issuer_key_failures", {"issuer": "https://up.example/"}, 0),
        ("gateway_issuer_key_failures", {"issuer": "https://down.example/"}, 3),
        ("gateway_issuer_keys_age_seconds", {"issuer": "https://up.example/"}, 12.5),
        ("gateway_issuer_keys_age_seconds", {"issuer": "https://down.example/"}, None),
        ("gateway_key_store_failures", {}, 2),
        ("gateway_key_store_age_seconds", {}, 7.0),
        ("gateway_request_duration_seconds_bucket", {"model": "iris", "version": "v1", "le": "0.005"}, 2),
        ("gateway_request_duration_seconds_bucket", {"model": "iris", "version": "v1", "le": "0.25"}, 2),
        ("gateway_request_duration_seconds_bucket", {"model": "iris", "version": "v1", "le": "0.5"}, 3),
        ("gateway_request_duration_seconds_bucket", {"model": "iris", "version": "v1", "le": "300.0"}, 3),
        ("gateway_request_duration_seconds_bucket", {"model": "iris", "version": "v1", "le": "+Inf"}, 4),
        ("gateway_request_duration_seconds_count", {"model": "iris", "version": "v1"}, 4),
        ("gateway_request_duration_seconds_sum", {"model": "iris", "version": "v1"}, 1000.309),
        ("gateway_first_byte_seconds_count", {"model": "iris", "version": "v1"}, 4),
        ("gateway_request_bytes_total", {"model": "iris", "version": "v1"}, 40),
        ("gateway_response_bytes_total", {"model": "iris", "version": "v1"}, 400),
        ("gateway_upstream_attempts_total", {"model": "iris", "version": "v1"}, 4),
        ("gateway_upstream_retries_total", {"model": "iris", "version": "v1"}, 0),
        ("gateway_errors_total", {"model": "iris", "owner": "upstream", "code": "no_endpoint_available"}, 1),
        ("gateway_errors_total", {"model": "iris", "owner": "client", "code": "rate_limit_exceeded"}, 1),
        ("gateway_limit_verdicts_total", {"model": "iris", "verdict": "limited"}, 1),
        ("gateway_limit_verdicts_total", {"model": "iris", "verdict": "admitted"}, 3),
        ("gateway_requests_in_flight", {"model": "iris"}, 5),
        ("gateway_requests_in_flight", {"model": "llama"}, 1),
        ("gateway_connections_open", {}, 17),
        ("gateway_log_lines_dropped_total", {}, 4),
        ("gateway_workers", {}, 2),
        ("gateway_worker_starts_total", {}, 2),
        ("gateway_ready", {}, 1),
        ("gateway_config_generation", {}, 7),
        ("gateway_config_problems", {}, 2),
        ("gateway_buckets_used", {"store": "shared"}, 12),
        ("gateway_certificate_days_left", {"certificate": "default"}, 90.5),
    ],
)
def test_every_count_is_exposed_as_the_sum_of_the_workers(
    busy: Gateway, accept: str, name: str, labels: dict[str, str], expected: float
) -> None:
    assert value(scrape(busy, accept), name, **labels) == pytest.approx(expected, abs=1e-3)


def test_an_endpoint_is_in_exactly_one_state(busy: Gateway) -> None:
    samples = scrape(busy)
    target = {"model": "iris", "version": "v1", "endpoint": "http://127.0.0.1:9002"}
    states = {
        state.name: value(samples, "gateway_endpoint_health", gateway_endpoint_health=state.name.lower(), **target)
        for state in Health
    }
    assert states == {"CHECKING": 0, "UP": 0, "PROBATION": 0, "DOWN": 1, "DRAINING": 0}


def test_an_endpoint_without_a_sample_has_no_latency(busy: Gateway) -> None:
    samples = scrape(busy)
    first = {"model": "iris", "version": "v1", "endpoint": "http://127.0.0.1:9001"}
    second = {**first, "endpoint": "http://127.0.0.1:9002"}
    assert value(samples, "gateway_endpoint_latency_seconds", **first) == 0.0125
    assert value(samples, "gateway_endpoint_latency_seconds", **second) is None
    assert value(samples, "gateway_endpoint_in_flight", **first) == 3


def test_what_is_known_of_prompts_and_engines_is_exposed_by_address(busy: Gateway) -> None:
    busy.read_prompts()
    busy.read_prompts()  # in two pools
    samples = scrape(busy)
    endpoint = {"endpoint": "http://127.0.0.1:9005"}
    found = {
        name: value(samples, f"gateway_endpoint_{name}", **endpoint)
        for name in ("pending_tokens", "running_streams", "prompt_tokens_total", "cached_tokens_total")
    }
    assert list(found.values()) == [700, 5, 1000, 250]
    assert value(samples, "gateway_endpoint_prefill_seconds", **endpoint) == pytest.approx(2e-4)
    assert value(samples, "gateway_endpoint_token_seconds", **endpoint) == pytest.approx(0.02)
    assert value(samples, "gateway_engine_requests", state="waiting", **endpoint) == 3
    assert value(samples, "gateway_engine_kv_usage", **endpoint) == 0.5
    assert value(samples, "gateway_engine_kv_tokens", **endpoint) == 400_000
    assert value(samples, "gateway_engine_kv_usage", endpoint="http://127.0.0.1:9001") is None


def test_an_address_that_a_pool_lists_twice_is_exposed_once(busy: Gateway) -> None:
    busy.endpoint_views += [EndpointView(model="iris", version="v1", url="http://127.0.0.1:9001", health=Health.UP)]
    scrape(busy)  # asserts that no series comes twice


def test_a_gateway_that_drains_is_not_ready(busy: Gateway) -> None:
    asyncio.run(busy.drain("gateway"))
    assert value(scrape(busy), "gateway_ready") == 0


def test_names_with_quotes_and_line_ends_are_escaped(gateway: Gateway) -> None:
    name = 'a"b\\c\nd'
    gateway.serve(0, name, "v1", 200)
    assert value(scrape(gateway), "gateway_requests_total", model=name, version="v1", status="200") == 1


def test_the_series_of_one_model_version_are_about_fifty_whatever_the_number_of_workers(gateway: Gateway) -> None:
    before = len(scrape(gateway))
    for worker in (0, 1):
        for status in (200, 404, 429, 499, 502, 503, 504):
            gateway.serve(worker, "llama", "fp8", status)
    per_pair = [key for key in scrape(gateway) if ("model", "llama") in key[1] and ("version", "fp8") in key[1]]
    assert before < len(per_pair) <= 60


def test_a_store_without_a_view_of_its_buckets_exposes_none(gateway: Gateway) -> None:
    gateway.bucket_view = None
    assert not [name for name, _ in scrape(gateway) if name == "gateway_buckets_used"]


def test_a_scrape_of_many_models_is_quick_enough_to_be_asked_for_often(gateway: Gateway) -> None:
    for number in range(100):
        gateway.serve(0, f"model-{number}", "v1", 200)
    totals = asyncio.run(gateway.totals())
    began = time.process_time()
    text, _ = render(totals, gateway)
    assert text.count(b"gateway_requests_total{") == 100
    assert time.process_time() - began < 1.0
