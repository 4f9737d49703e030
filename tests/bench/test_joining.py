"""Engines that join balancers that run: the real ones that are here, and what is asked of the others."""

import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench import site
from bench.fleet.joining import join, joining
from bench.fleet.peers import OURS, PEERS, Balancer, started
from bench.processes import Failed, Running, ended
from tests.e2e.harness import DemoModel, until


@pytest.fixture(scope="module")
def engines() -> Iterator[list[DemoModel]]:
    with DemoModel("demo", "v1") as first, DemoModel("demo", "v2") as second:
        yield [first, second]


def ask(balancer: Balancer) -> str:
    """-> the engine that answered; "": nobody did, as a connection may end while a configuration is loaded."""
    kind, tls = HTTPConnection, {}
    if balancer.peer.is_tls:
        kind, tls = HTTPSConnection, {"context": ssl._create_unverified_context()}
    connection = kind("127.0.0.1", balancer.port, timeout=30, **tls)
    body = '{"model": "demo", "max_tokens": 1, "messages": [{"role": "user", "content": "who?"}]}'
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.headers.get("x-demo-model", "")
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()


@pytest.mark.parametrize("name", [OURS, "nginx, least_conn", "haproxy, leastconn"])
def test_an_engine_that_joins_is_asked_while_the_same_process_goes_on(name, engines, tmp_path) -> None:
    program = PEERS[name].program
    if program != "gateway" and not shutil.which(program):
        pytest.skip(f"{program} is not on PATH")
    first, second = engines
    place = site.make(tmp_path)
    with started(name, [first.port], tmp_path, place.folder / "certs") as balancer:
        until(lambda: ask(balancer), "an answer", 60)
        assert {ask(balancer) for _ in range(4)} == {"demo@v1"}
        join(balancer, [second.port])
        until(lambda: ask(balancer) == "demo@v2", "the engine that joined is asked", 60)
        balancer.running.check()


class Api(BaseHTTPRequestHandler):
    """Stands in for a router's API for its operators: says yes unless it is asked to refuse."""

    asked: list[tuple[str, str]]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        self.asked.append((self.path, body.decode()))
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def api(monkeypatch) -> Iterator[HTTPServer]:
    monkeypatch.setattr(Api, "asked", [], raising=False)
    with HTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def balancer(api, tmp_path) -> Iterator[Balancer]:
    with ended(Running("a router", ["sleep", "60"], tmp_path)) as running:
        yield Balancer(PEERS["vllm-router, cache_aware"], [1], tmp_path, {"port": api.server_port}, running)


def test_a_router_is_told_by_its_own_api(balancer) -> None:
    join(balancer, [7, 8])
    join(balancer._replace(peer=PEERS["sglang-router, cache_aware"]), [9])
    assert Api.asked == [
        ("/add_worker?url=http%3A%2F%2F127.0.0.1%3A7", ""),
        ("/add_worker?url=http%3A%2F%2F127.0.0.1%3A8", ""),
        ("/workers", '{"url": "http://127.0.0.1:9"}'),
    ]


def test_who_refuses_an_engine_is_not_measured_as_if_it_had_it(balancer, monkeypatch) -> None:
    monkeypatch.setattr(Api, "status", 503)
    with pytest.raises(Failed, match="a router: /workers: 503"):
        join(balancer._replace(peer=PEERS["sglang-router, cache_aware"]), [7])
    with pytest.raises(Failed, match="nothing joins"):
        join(balancer._replace(peer=PEERS["haproxy, leastconn"]), [7])  # nobody listens there
    with pytest.raises(Failed), joining(time.monotonic(), [(balancer, [7])]):
        until(lambda: Api.asked, "the API is asked")


def test_all_join_at_their_time_and_nobody_does_when_the_run_is_over_before(balancer) -> None:
    began = time.monotonic()
    with joining(began + 0.2, [(balancer, [7]), (balancer, [8])]):
        until(lambda: len(Api.asked) == 2, "both have joined")
    assert time.monotonic() - began >= 0.2
    with joining(time.monotonic() + 60, [(balancer, [9])]):
        pass
    assert len(Api.asked) == 2
    assert time.monotonic() - began < 60


def test_a_file_is_replaced_by_one_with_those_of_before_and_those_that_join(tmp_path: Path, balancer) -> None:
    words = {"port": 2, "admin_port": 3, "policy": "llm", "folder": tmp_path, "certificates": tmp_path}
    join(balancer._replace(peer=PEERS[OURS], words=words), [7, 8])
    assert "[http://127.0.0.1:1, http://127.0.0.1:7, http://127.0.0.1:8]" in (tmp_path / "gateway.yaml").read_text()
    assert not list(tmp_path.glob("*.new"))
