"""The operator's door."""

import asyncio
import base64
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from gateway.admin.app import make_admin
from gateway.admin.guard import is_loopback, read_token
from gateway.admin.view import EndpointView
from tests.admin.gateway_view import Gateway

TOKEN = "correct-horse-battery"


def client_of(gateway: Gateway, **options: Any) -> TestClient:
    app = make_admin(gateway, address=options.pop("address", "127.0.0.1"), **options)
    return TestClient(app, base_url="http://127.0.0.1:9901")


@pytest.fixture
def client(gateway: Gateway) -> TestClient:
    return client_of(gateway)


def test_healthz_says_that_the_process_answers_whatever_else(client: TestClient, gateway: Gateway) -> None:
    gateway.pids = [0, 0]
    assert client.get("/healthz").status_code == 200


def test_readyz_is_200_while_traffic_may_come(client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200


def test_readyz_is_503_and_says_why_not(client: TestClient, gateway: Gateway) -> None:
    gateway.pids = [0, 0]
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "no worker runs\n")


def test_metrics_are_text_unless_openmetrics_is_asked_for(client: TestClient) -> None:
    plain = client.get("/metrics")
    modern = client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert plain.headers["content-type"].startswith("text/plain")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")
    assert "# EOF" not in plain.text


@pytest.mark.parametrize("path", ["/metrics", "/status", "/"])
def test_what_takes_long_is_made_beside_the_loop(path: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 10,000 endpoints, health checks that were under way timed out meanwhile."""
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> Sequence[EndpointView]:
        begun.set()
        assert may_end.wait(10)
        return gateway.endpoint_views

    monkeypatch.setattr(gateway, "endpoints", slow)

    async def run() -> int:
        app = make_admin(gateway, address="127.0.0.1")
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:9901") as client:
            asked = asyncio.create_task(client.get(path))
            assert await asyncio.to_thread(begun.wait, 10)
            assert (await client.get("/healthz")).status_code == 200
            may_end.set()
            return (await asked).status_code

    assert asyncio.run(run()) == 200


def test_status_describes_models_versions_and_endpoints(client: TestClient, gateway: Gateway) -> None:
    gateway.serve(0, "iris", "v1", 200)
    gateway.serve(1, "iris", "v1", 503)
    gateway.serve(1, "iris", "", 401)
    gateway.serve(1, "gone", "v9", 200)
    gateway.recorders[0].totals.in_flight = {"iris": 2}
    status = client.get("/status").json()
    models = {model["model"]: model for model in status["models"]}
    versions = {version["version"]: version for version in models["iris"]["versions"]}
    assert set(models) == {"iris", "gone"}
    assert models["iris"]["in_flight"] == 2
    assert list(versions) == ["", "v1", "v2"]
    assert versions["v1"]["statuses"] == {"200": 1, "503": 1}
    assert versions["v1"]["endpoints"][0] == {
        "url": "http://127.0.0.1:9001", "health": "up", "in_flight": 3, "latency": 0.0125, "weight": 1.0,
        "inference": None, "engine": None, "traffic": "", "ejections": 0,
    }  # fmt: skip
    assert len(versions["v1"]["duration"]) == len(status["bounds"]) + 1
    assert versions["v2"]["statuses"] == {}
    assert status["errors"] == [{"model": "iris", "owner": "upstream", "code": "no_endpoint_available", "count": 1}]
    assert [worker["pid"] for worker in status["workers"]] == [101, 102]
    assert (status["generation"], status["obstacles"], status["buckets"]["used"]) == (7, [], 12)


def test_status_says_what_is_known_of_an_endpoint_whose_prompts_are_read(client: TestClient, gateway: Gateway) -> None:
    gateway.read_prompts()
    endpoint = client.get("/status").json()["models"][0]["versions"][0]["endpoints"][-1]
    assert endpoint["inference"] == {
        "pending_tokens": 700, "running_streams": 5, "prompt_tokens": 1000, "cached_tokens": 250,
        "prefill_seconds": pytest.approx(2e-4), "token_seconds": pytest.approx(0.02),
    }  # fmt: skip
    assert endpoint["engine"] == {"waiting": 3, "running": 9, "kv_usage": 0.5, "cache": 400_000}


def test_reload_answers_with_the_new_generation(client: TestClient) -> None:
    answer = client.post("/reload")
    assert (answer.status_code, answer.json()) == (200, {"reloaded": True, "generation": 8, "problems": []})


def test_a_configuration_that_is_refused_is_422_and_says_why(client: TestClient, gateway: Gateway) -> None:
    gateway.problems = ["routes.yaml:3: modles: unknown key; did you mean models?"]
    answer = client.post("/reload")
    assert answer.status_code == 422
    assert answer.json() == {"reloaded": False, "generation": 7, "problems": gateway.problems}


@pytest.mark.parametrize(
    ("target", "count"), [("gateway", 1), ("iris", 3), ("iris@v1", 2), ("http://127.0.0.1:9003", 1)]
)
def test_a_target_is_drained_and_undrained(client: TestClient, gateway: Gateway, target: str, count: int) -> None:
    answer = client.post("/drain", params={"target": target})
    assert (answer.status_code, answer.json()) == (200, {"target": target, "count": count})
    assert gateway.drained == [target]
    assert client.post("/undrain", params={"target": target}).status_code == 200
    assert gateway.drained == []


def test_a_drain_may_have_a_deadline_in_seconds(client: TestClient, gateway: Gateway) -> None:
    assert client.post("/drain", params={"target": "iris", "deadline": "90.5"}).status_code == 200
    assert gateway.deadlines == [90.5]


@pytest.mark.parametrize("deadline", ["soon", "nan", "-1", ""])
def test_a_deadline_that_is_no_time_drains_nothing(client: TestClient, gateway: Gateway, deadline: str) -> None:
    refused = client.post(f"/drain?target=iris&deadline={deadline}")
    assert (refused.status_code, refused.json()) == (400, {"problems": [f"deadline is seconds, not {deadline}"]})
    assert gateway.drained == []


def test_an_unknown_target_is_404_and_none_at_all_400(client: TestClient, gateway: Gateway) -> None:
    assert client.post("/drain", params={"target": "irsi"}).status_code == 404
    assert client.post("/drain").status_code == 400
    assert gateway.drained == []


@pytest.mark.parametrize("path", ["/reload", "/drain", "/undrain"])
def test_nothing_changes_by_a_get(client: TestClient, gateway: Gateway, path: str) -> None:
    assert client.get(path, params={"target": "gateway"}).status_code == 405
    assert (gateway.generation, gateway.drained) == (7, [])


# --- the dashboard ---


def test_the_dashboard_holds_the_state_it_first_draws(client: TestClient) -> None:
    page = client.get("/").text
    (state,) = re.findall(r'<script type="application/json" id="state">(.*?)</script>', page, re.DOTALL)
    assert json.loads(state)["models"][0]["model"] == "iris"


def test_no_name_breaks_out_of_the_page(client: TestClient, gateway: Gateway) -> None:
    name = "</script><script>alert(1)</script><!--"
    gateway.serve(0, name, "v1", 200)
    page = client.get("/").text
    assert "<script>alert" not in page
    (state,) = re.findall(r'id="state">(.*?)</script>', page, re.DOTALL)
    assert name in [model["model"] for model in json.loads(state)["models"]]


def test_the_page_loads_nothing_from_elsewhere_and_runs_its_own_script_only(client: TestClient) -> None:
    answer = client.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"].startswith("'sha256-")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)
    assert "innerHTML" not in answer.text


# --- who may ---


def test_a_door_on_the_network_without_a_token_is_refused(gateway: Gateway) -> None:
    with pytest.raises(ValueError, match=r"0\.0\.0\.0, which is not a loopback.*admin_token_file"):
        make_admin(gateway, address="0.0.0.0")
    make_admin(gateway, address="0.0.0.0", token=TOKEN)


GUARDED = [("GET", "/"), ("GET", "/status"), ("GET", "/metrics"), ("POST", "/reload"), ("GET", "/nothing")]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong-horse-battery", f"Bearer {TOKEN}x", f"Token {TOKEN}", "Basic !!", "Basic YQ==",
     "Bearer é", "Basic é"],
)  # fmt: skip
def test_nobody_enters_without_the_token(gateway: Gateway, method: str, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    answer = client_of(gateway, token=TOKEN).request(method, path, headers=headers)
    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]
    assert gateway.generation == 7


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer {TOKEN}", "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()],
)
def test_the_token_opens_as_a_bearer_token_and_as_a_password(gateway: Gateway, authorization: str) -> None:
    client = client_of(gateway, token=TOKEN, address="0.0.0.0")
    for method, path in GUARDED[:-1]:
        answer = client.request(method, path, headers={"authorization": authorization, "host": "gw.internal:9901"})
        assert answer.status_code == 200


def test_probes_need_no_token(gateway: Gateway) -> None:
    client = client_of(gateway, token=TOKEN)
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9901", "127.0.0.1.evil.example", "", "192.168.1.5"])
@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_rebound_name_reaches_nothing_of_a_door_without_a_token(
    client: TestClient, gateway: Gateway, host: str, method: str, path: str
) -> None:
    assert client.request(method, path, headers={"host": host}).status_code == 403
    assert gateway.generation == 7


@pytest.mark.parametrize("host", ["127.0.0.1:9901", "localhost:9901", "LOCALHOST", "[::1]:9901", "127.3.2.1"])
def test_the_names_of_this_machine_do(client: TestClient, host: str) -> None:
    assert client.post("/reload", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("options", [{}, {"token": TOKEN}], ids=["loopback", "token"])
def test_a_page_of_another_site_changes_nothing(gateway: Gateway, options: dict[str, str]) -> None:
    client = client_of(gateway, **options)
    headers = {"authorization": f"Bearer {TOKEN}"} if options else {}
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9902"):
        assert client.post("/reload", headers={**headers, "origin": origin}).status_code == 403
    assert gateway.generation == 7
    own = {**headers, "origin": "http://127.0.0.1:9901"}
    assert client.post("/reload", headers=own).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("", False), ("localhost.evil.example", False)],
)  # fmt: skip
def test_loopback_is_this_machine_and_nothing_else(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file, {}) == TOKEN
    assert read_token(file, {"GATEWAY_ADMIN_TOKEN": "from-the-environment"}) == "from-the-environment"
    assert read_token(None, {}) is None


def test_a_token_that_could_be_guessed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(ValueError, match="token is shorter than 16"):
        read_token(tmp_path / "token", {})
    with pytest.raises(ValueError, match="GATEWAY_ADMIN_TOKEN is shorter"):
        read_token(None, {"GATEWAY_ADMIN_TOKEN": ""})
    with pytest.raises(FileNotFoundError):
        read_token(tmp_path / "none", {})
