"""What operators see: the access log, metrics, status, health, and whose fault an error was."""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.harness import Gateway, material, served, temporary_folder, until
from tests.e2e.harness_upstream import (
    Connection,
    RawUpstream,
    answering,
    refused_port,
    resetting_after_request,
    saying_once,
    streaming,
)
from tests.e2e.harness_wire import connect

FIELDS = [
    "time", "request_id", "client", "principal", "principal_name", "method", "path", "host", "model", "version",
    "endpoint", "attempts", "status", "bytes_in", "bytes_out", "first_byte_ms", "total_ms", "error_owner", "error_code",
    "queued_ms", "fallback_from", "user_agent",
]  # fmt: skip


def held(connection: Connection) -> None:
    """A stream that ends when its client leaves."""
    connection.read_request()
    connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    connection.hang()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with (
        RawUpstream(answering(b"hello")) as good,
        RawUpstream(streaming([b"1", b"2", b"3"], every=0.02)) as stream,
        RawUpstream(resetting_after_request) as breaking,
        RawUpstream(saying_once(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")) as short,
        RawUpstream(held) as holding,
        refused_port() as gone,
    ):
        models = {
            "good": served([good.url]),
            "stream": served([stream.url]),
            "breaking": served([breaking.url]),
            "short": served([short.url]),
            "held": served([holding.url]),
            "gone": served([f"http://127.0.0.1:{gone}", good.url], balance={"policy": "round_robin"}),
            "scarce": served([good.url], limits=[{"rate": "1/hour", "per": "key"}]),
        }
        with Gateway(models, {"gateway": {"workers": 2}}) as gateway:
            yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def line_of(gateway: Gateway, answer: httpx2.Response) -> dict[str, Any]:
    """The access log's line of an answer."""
    request_id = answer.headers["x-request-id"]

    def found() -> dict[str, Any]:
        return next((line for line in gateway.access_log() if line["request_id"] == request_id), {})

    return until(found, "the log line")


# --- the access log ---


def test_a_line_says_who_asked_what_of_whom_and_how_it_went(gateway: Gateway, client: httpx2.Client) -> None:
    before = datetime.now(UTC)
    answer = client.post("/models/good/a/b?secret=1", content=b"12345", headers={"user-agent": "tests/1"})
    line = line_of(gateway, answer)
    assert list(line) == FIELDS
    at = datetime.fromisoformat(line["time"])
    assert before.replace(microsecond=0) <= at <= datetime.now(UTC)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    expected = {
        "client": "127.0.0.1",
        "principal_name": "alice",
        "method": "POST",
        "path": "/models/good/a/b",
        "host": f"localhost:{gateway.port}",
        "model": "good",
        "version": "v1",
        "attempts": 1,
        "status": 200,
        "bytes_in": 5,
        "bytes_out": 5,
        "error_owner": None,
        "error_code": None,
        "user_agent": "tests/1",
    }
    assert {name: line[name] for name in expected} == expected
    assert line["endpoint"].startswith("http://127.0.0.1:")
    assert 0 < line["first_byte_ms"] <= line["total_ms"] < 10_000
    assert gateway.key not in gateway.output
    assert "secret" not in gateway.output


def test_a_stream_is_logged_when_it_has_ended_with_all_its_bytes(gateway: Gateway, client: httpx2.Client) -> None:
    with client.stream("GET", "/models/stream/x") as answer:
        received = len(answer.read())
    line = line_of(gateway, answer)
    assert line["bytes_out"] == received
    assert line["total_ms"] - line["first_byte_ms"] >= 40


def test_a_clients_words_cannot_forge_a_line(gateway: Gateway, client: httpx2.Client) -> None:
    evil = 'x"}\\ \u2028 \u202e'.encode()
    before = len(gateway.access_log())
    answer = client.get("/models/good/%22", headers={"user-agent": evil})
    line = line_of(gateway, answer)
    assert line["user_agent"].encode("latin-1") == evil
    assert len(gateway.access_log()) == before + 1
    assert gateway.out.read_bytes().isascii()


@pytest.mark.parametrize(
    ("target", "headers", "status", "owner", "code"),
    [
        ("/models/good/x", {"authorization": "Bearer gw_x"}, 401, "client", "invalid_credentials"),
        ("/models/nobody/x", {}, 404, "client", "model_not_found"),
        ("/nothing", {}, 404, "client", "not_found"),
        ("/models/%00", {}, 400, "client", "bad_request"),
        ("/models/breaking/x", {}, 502, "upstream", "upstream_closed"),
    ],
)
def test_an_error_is_logged_and_counted_with_whose_fault_it_was(
    gateway: Gateway, client: httpx2.Client, target: str, headers: dict[str, str], status: int, owner: str, code: str
) -> None:
    answer = client.get(target, headers=headers)
    error = answer.json()["error"]
    line = line_of(gateway, answer)
    assert (answer.status_code, error["code"], error["request_id"]) == (status, code, line["request_id"])
    assert (line["status"], line["error_owner"], line["error_code"]) == (status, owner, code)
    counted = [e for e in gateway.status()["errors"] if (e["owner"], e["code"]) == (owner, code)]
    assert sum(e["count"] for e in counted) >= 1


def test_an_answer_that_broke_off_keeps_its_status_and_names_the_upstream(
    gateway: Gateway, client: httpx2.Client
) -> None:
    with pytest.raises(httpx2.RemoteProtocolError), client.stream("GET", "/models/short/x") as answer:
        answer.read()
    line = line_of(gateway, answer)
    assert (line["status"], line["error_owner"], line["error_code"]) == (200, "upstream", "upstream_truncated")
    assert line["bytes_out"] == 5


def test_a_line_counts_attempts(gateway: Gateway, client: httpx2.Client) -> None:
    lines = [line_of(gateway, client.get("/models/gone/x")) for _ in range(4)]
    assert max(line["attempts"] for line in lines) == 2
    assert {line["error_code"] for line in lines} == {None}


# --- metrics ---


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(gateway: Gateway) -> Samples:
    families = text_string_to_metric_families(gateway.metrics())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    wanted = set(labels.items())
    return sum(value for (metric, has), value in found.items() if metric == name and wanted <= has)


def test_metrics_count_exactly_over_all_workers(gateway: Gateway) -> None:
    def counts() -> list[float]:
        now = samples(gateway)
        return [
            value(now, "gateway_requests_total", model="good", version="v1", status="200"),
            value(now, "gateway_request_duration_seconds_count", model="good"),
            value(now, "gateway_request_duration_seconds_bucket", model="good", le="+Inf"),
            value(now, "gateway_response_bytes_total", model="good") / 5,
            value(now, "gateway_request_bytes_total", model="good") / 3,
            value(now, "gateway_upstream_attempts_total", model="good"),
        ]

    before = counts()
    for _ in range(20):  # each by a connection of its own, so that every worker has some
        with gateway.client() as client:
            assert client.post("/models/good/x", content=b"abc").status_code == 200
    after = counts()
    assert [b - a for a, b in zip(before, after, strict=True)] == [20] * 6


def test_metrics_tell_of_refusals_limits_retries_and_endpoints(gateway: Gateway, client: httpx2.Client) -> None:
    assert [client.get("/models/scarce/x").status_code for _ in range(2)] == [200, 429]
    for _ in range(2):
        client.get("/models/gone/x")
    client.get("/nothing")
    now = samples(gateway)
    assert value(now, "gateway_limit_verdicts_total", model="scarce", verdict="limited") == 1
    assert value(now, "gateway_limit_verdicts_total", model="scarce", verdict="admitted") == 1
    assert value(now, "gateway_requests_total", model="scarce", status="429") == 1
    assert value(now, "gateway_errors_total", model="scarce", owner="client", code="rate_limit_exceeded") == 1
    assert value(now, "gateway_upstream_retries_total", model="gone") >= 1
    assert value(now, "gateway_requests_total", model="", status="404") >= 1
    assert value(now, "gateway_endpoint_health", model="good", gateway_endpoint_health="up") == 1
    assert value(now, "gateway_workers") == 2
    assert value(now, "gateway_ready") == 1
    assert value(now, "gateway_certificate_days_left") > 1


def test_what_runs_is_told_while_it_runs(gateway: Gateway, client: httpx2.Client) -> None:
    def running(name: str) -> float:
        return value(samples(gateway), name, model="held")

    with client.stream("GET", "/models/held/x"):
        assert (running("gateway_endpoint_in_flight"), running("gateway_requests_in_flight")) == (1, 1)
    until(lambda: running("gateway_endpoint_in_flight") == running("gateway_requests_in_flight") == 0, "the end")


def test_metrics_are_offered_as_openmetrics_too(gateway: Gateway) -> None:
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = httpx2.get(f"{gateway.admin_url}/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


# --- health and status ---


def test_health_and_readiness_are_answered(gateway: Gateway) -> None:
    for path, text in (("healthz", "ok\n"), ("readyz", "ready\n")):
        answer = httpx2.get(f"{gateway.admin_url}/{path}")
        assert (answer.status_code, answer.text) == (200, text)


def test_a_gateway_without_a_usable_certificate_is_not_ready_until_there_is_one() -> None:
    folder, source = temporary_folder("gateway-"), material()[0]
    (folder / "certs").mkdir()
    for suffix in ("crt", "key"):  # without a pair one for development would be made
        (folder / "certs" / f"broken.{suffix}").write_text("none")
    shutil.copy(source / "keys.yaml", folder / "keys.yaml")
    with Gateway({"m": served(["http://127.0.0.1:9"])}, folder=folder, wait=False) as gateway:

        def ready() -> tuple[int, str]:
            try:
                answer = httpx2.get(f"{gateway.admin_url}/readyz")
            except httpx2.ConnectError:
                return 0, ""
            return answer.status_code, answer.text

        until(lambda: ready() == (503, "no certificate can be shown\n"), "only the certificate to be missing")
        shutil.copytree(source / "certs", folder / "certs", dirs_exist_ok=True)
        until(lambda: ready() == (200, "ready\n"), "the gateway to be ready")
        with gateway.raw() as client:
            client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 200


def test_status_is_one_document_of_everything(gateway: Gateway, client: httpx2.Client) -> None:
    client.get("/models/good/x")
    status = gateway.status()
    assert status["generation"] >= 1
    assert status["obstacles"] == []
    assert [worker["slot"] for worker in status["workers"]] == [0, 1]
    assert {model["model"] for model in status["models"]} >= {"good", "stream", "gone"}
    good = next(model for model in status["models"] if model["model"] == "good")
    version = next(version for version in good["versions"] if version["version"] == "v1")
    assert version["statuses"]["200"] >= 1
    assert version["endpoints"][0]["health"] == "up"
    assert status["certificates"][0]["hosts"]


def test_the_dashboard_is_a_page_that_loads_nothing_from_elsewhere(gateway: Gateway) -> None:
    page = httpx2.get(f"{gateway.admin_url}/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=[\"']https?://", page.text)


def test_the_public_port_has_none_of_the_operators_doors(gateway: Gateway, client: httpx2.Client) -> None:
    for path in ("metrics", "status", "healthz", "readyz"):
        assert client.get(f"/{path}").status_code == 404
    assert client.post("/reload").status_code == 404


# --- the operator's door, and what may be sent there ---


def test_a_head_without_end_is_refused_at_the_operators_door_too(gateway: Gateway) -> None:
    for head in (b"x: " + b"a" * 2**20, b"".join(b"x-%d: a\r\n" % i for i in range(10_000))):
        with connect("127.0.0.1", gateway.admin_port) as wire:
            with suppress(ConnectionError):  # it is refused before all of it is sent
                wire.send(b"GET /status HTTP/1.1\r\nhost: localhost\r\n" + head)
            assert wire.read_until(b"\r\n").startswith(b"HTTP/1.1 431 ")
