"""Endpoints that come and go: health checks, drains, and what clients notice of them."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import PATIENCE, Gateway, served, until
from tests.e2e.harness_upstream import Connection, RawUpstream, response

NAMES = ["a", "b", "c"]
CHECK = {"path": "/ready?deep=1", "interval": "100ms", "timeout": "300ms", "rise": 1, "fall": 2}


class Server:
    """A model server that says how it is, and can be held up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200  # of its health
        self.checks = 0
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.is_hanging = False  # its health says nothing

    def __call__(self, connection: Connection) -> None:
        while True:
            request = connection.read_request()
            if request.target == CHECK["path"]:
                self.checks += 1
                if self.is_hanging:
                    connection.hang()
                connection.send(response(b"", self.status))
                continue
            self.asked += 1
            assert self.may_answer.wait(PATIENCE)
            connection.send(response(self.name.encode()))


@pytest.fixture(scope="module")
def servers() -> dict[str, Server]:
    return {name: Server(name) for name in NAMES}


@pytest.fixture(scope="module")
def upstreams(servers: dict[str, Server]) -> Iterator[dict[str, RawUpstream]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(RawUpstream(server)) for name, server in servers.items()}


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, RawUpstream]) -> Iterator[Gateway]:
    urls = [upstreams[name].url for name in ("a", "b")]
    in_turn: dict[str, Any] = {"auth": [], "balance": {"policy": "round_robin"}}
    models = {
        "m": served(urls, **in_turn, health=CHECK),
        "lone": served([upstreams["c"].url], **in_turn, health=CHECK),
        "sticky": served(urls, **in_turn, health=CHECK, sticky={"cookie": "gw", "ttl": "1h"}),
        "unchecked": served(["http://127.0.0.1:9"], auth=[]),
    }
    with Gateway(models, {"gateway": {"workers": 2}}) as gateway:
        until(lambda: set(states(gateway).values()) == {"up"}, "all endpoints up")
        yield gateway


@pytest.fixture(autouse=True)
def _all_well(gateway: Gateway, servers: dict[str, Server]) -> Iterator[None]:
    yield
    for server in servers.values():
        server.status, server.is_hanging = 200, False
        server.may_answer.set()
    until(lambda: set(states(gateway).values()) == {"up"}, "all endpoints up again")


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def states(gateway: Gateway) -> dict[str, str]:
    """Health by model and endpoint."""
    return {
        f"{model['model']} {endpoint['url']}": endpoint["health"]
        for model in gateway.status()["models"]
        for version in model["versions"]
        for endpoint in version["endpoints"]
    }


def health(gateway: Gateway, upstream: RawUpstream) -> set[str]:
    return {state for name, state in states(gateway).items() if name.endswith(upstream.url)}


def served_by(client: httpx2.Client, count: int = 8, model: str = "m") -> Counter[str]:
    answers = [client.get(f"/models/{model}/x") for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    return Counter(answer.text for answer in answers)


def test_endpoints_that_are_up_share_the_work(client: httpx2.Client) -> None:
    assert served_by(client) == {"a": 4, "b": 4}


def test_an_endpoint_that_fails_its_checks_is_left_alone_and_taken_back_when_it_is_well(
    gateway: Gateway, client: httpx2.Client, servers: dict[str, Server], upstreams: dict[str, RawUpstream]
) -> None:
    servers["a"].status = 503
    until(lambda: health(gateway, upstreams["a"]) == {"down"}, "a down")
    assert served_by(client) == {"b": 8}
    servers["a"].status = 200
    until(lambda: health(gateway, upstreams["a"]) == {"up"}, "a up")
    assert served_by(client) == {"a": 4, "b": 4}
    assert "-> down: status 503" in gateway.output


def test_an_endpoint_whose_checks_hang_or_are_refused_is_down(
    gateway: Gateway, client: httpx2.Client, servers: dict[str, Server], upstreams: dict[str, RawUpstream]
) -> None:
    servers["a"].is_hanging = True
    until(lambda: health(gateway, upstreams["a"]) == {"down"}, "a down")
    servers["a"].is_hanging = False
    until(lambda: health(gateway, upstreams["a"]) == {"up"}, "a up")
    upstreams["b"].refuse()
    for connection in upstreams["b"].connections:
        connection.close()
    until(lambda: health(gateway, upstreams["b"]) == {"down"}, "b down")
    assert served_by(client) == {"a": 8}
    upstreams["b"].listen()


def test_a_model_without_any_endpoint_up_is_503_at_once_and_others_are_not(
    gateway: Gateway, client: httpx2.Client, servers: dict[str, Server], upstreams: dict[str, RawUpstream]
) -> None:
    servers["c"].status = 500
    until(lambda: health(gateway, upstreams["c"]) == {"down"}, "c down")
    asked = servers["c"].asked
    began = time.monotonic()
    answer = client.get("/models/lone/x")
    assert time.monotonic() - began < 1.0
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_endpoint_available")
    assert int(answer.headers["retry-after"]) >= 1
    assert servers["c"].asked == asked
    assert served_by(client)
    assert client.get("/v2/health/ready").status_code == 200, "other models are ready"


def test_checks_go_on_at_their_interval_and_ask_for_their_path(servers: dict[str, Server]) -> None:
    before = servers["a"].checks
    until(lambda: servers["a"].checks >= before + 5, "five checks", 5.0)


def test_without_checks_an_endpoint_counts_as_up(gateway: Gateway, client: httpx2.Client) -> None:
    assert states(gateway)["unchecked http://127.0.0.1:9"] == "up"
    assert client.get("/models/unchecked/x").status_code == 502


# --- drains ---


def drain(gateway: Gateway, target: str, path: str = "drain") -> int:
    answer = httpx2.post(f"{gateway.admin_url}/{path}", params={"target": target}, timeout=PATIENCE)
    return int(answer.status_code)


def test_a_draining_endpoint_takes_no_new_work_finishes_what_runs_and_comes_back(
    gateway: Gateway, client: httpx2.Client, servers: dict[str, Server], upstreams: dict[str, RawUpstream]
) -> None:
    servers["a"].may_answer.clear()
    before = servers["a"].asked
    answers: list[str] = []
    running: list[threading.Thread] = []

    def is_one_at_a() -> bool:
        """Each goes by a connection of its own, so nobody knows by which worker and where to."""
        thread = threading.Thread(target=lambda: answers.append(ask_once(gateway)))
        running.append(thread)
        thread.start()
        thread.join(0.5)
        return servers["a"].asked > before

    until(is_one_at_a, "a request that runs")
    assert drain(gateway, upstreams["a"].url) == 200
    assert health(gateway, upstreams["a"]) == {"draining"}
    assert served_by(client) == {"b": 8}
    servers["a"].may_answer.set()
    for thread in running:
        thread.join(PATIENCE)
    assert "a" in answers
    assert drain(gateway, upstreams["a"].url, "undrain") == 200
    until(lambda: health(gateway, upstreams["a"]) == {"up"}, "a up")
    assert served_by(client) == {"a": 4, "b": 4}


def ask_once(gateway: Gateway) -> str:
    with gateway.client() as client:
        return str(client.get("/models/m/x").text)


def test_a_draining_endpoint_keeps_its_sessions(gateway: Gateway, upstreams: dict[str, RawUpstream]) -> None:
    with gateway.client() as client:
        home = client.get("/models/sticky/x").text
        assert drain(gateway, upstreams[home].url) == 200
        assert {client.get("/models/sticky/x").text for _ in range(6)} == {home}
        with gateway.client() as other:
            assert {other.get("/models/sticky/x").text for _ in range(2)} == {"a", "b"} - {home}
        assert drain(gateway, upstreams[home].url, "undrain") == 200


def test_a_session_leaves_an_endpoint_that_is_down(
    gateway: Gateway, servers: dict[str, Server], upstreams: dict[str, RawUpstream]
) -> None:
    with gateway.client() as client:
        home = client.get("/models/sticky/x").text
        servers[home].status = 503
        until(lambda: health(gateway, upstreams[home]) == {"down"}, "the session's endpoint down")
        assert client.get("/models/sticky/x").text != home


def test_what_is_not_there_cannot_be_drained(gateway: Gateway) -> None:
    assert drain(gateway, "http://127.0.0.1:1") == 404
    assert drain(gateway, "") == 400


def test_a_gateway_that_drains_says_so_to_its_balancer_and_serves_on(gateway: Gateway, client: httpx2.Client) -> None:
    assert drain(gateway, "gateway") == 200
    ready = httpx2.get(f"{gateway.admin_url}/readyz")
    assert (ready.status_code, ready.text) == (503, "draining\n")
    assert served_by(client)
    assert drain(gateway, "gateway", "undrain") == 200
    assert httpx2.get(f"{gateway.admin_url}/readyz").status_code == 200


def test_health_survives_a_reload(
    gateway: Gateway, client: httpx2.Client, servers: dict[str, Server], upstreams: dict[str, RawUpstream]
) -> None:
    servers["a"].status = 503
    until(lambda: health(gateway, upstreams["a"]) == {"down"}, "a down")
    assert gateway.reload({**gateway.config["models"], "new": served([upstreams["c"].url], auth=[])}) == []
    assert served_by(client) == {"b": 8}
