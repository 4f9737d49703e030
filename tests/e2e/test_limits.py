"""Limits over real workers: one exact count for all of them, whatever happens to one, and over gateways by Redis."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import DemoModel, Gateway, served, until
from tests.redis_server import Server

READY = "/models/demo/v2/health/ready"
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 50}


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoModel]:
    with DemoModel() as demo:
        yield demo


def gateway_of(demo: DemoModel, *limits: dict[str, Any], workers: int = 2, **settings: Any) -> Gateway:
    options = {"gateway": {"workers": workers, **settings}}
    return Gateway({"demo": served([demo.url], limits=list(limits))}, options)


def statuses(*gateways: Gateway, count: int) -> Counter[int]:
    """Of `count` requests, each on a connection of its own, so that every worker has some."""

    def ask(i: int) -> int:
        with gateways[i % len(gateways)].client() as client:
            return int(client.get(READY).status_code)

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(ask, range(count)))


def pids(gateway: Gateway) -> set[int]:
    return {worker["pid"] for worker in gateway.status()["workers"] if worker["pid"]}


def kill_workers(gateway: Gateway) -> None:
    """Kill every worker, and wait for the successors."""
    before = pids(gateway)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(pids(gateway) - before) == len(before), "new workers")


def test_all_workers_hold_one_exact_limit_through_reloads_and_deaths(demo: DemoModel) -> None:
    limit = {"rate": "1/hour", "burst": 12}
    with gateway_of(demo, limit) as gateway:
        assert statuses(gateway, count=8) == {200: 8}
        assert gateway.reload({"demo": served([demo.url], limits=[limit], timeouts={"idle": "9s"})}) == []
        kill_workers(gateway)
        assert statuses(gateway, count=20) == {200: 4, 429: 16}
        with gateway.client() as client:
            refused = client.get(READY)
        assert 1 <= int(refused.headers["retry-after"]) <= 3600 * 1.1 + 1
        assert refused.headers["ratelimit"].startswith('"default";r=0;t=')
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert gateway.status()["buckets"]["used"] == 1


def test_requests_in_flight_are_counted_over_workers_and_given_back_by_their_death() -> None:
    with (
        DemoModel(delay=0.5) as slow,
        gateway_of(slow, {"in_flight": 3}) as gateway,
        ExitStack() as streams,
    ):

        def start() -> int:
            client = streams.enter_context(gateway.client())
            request = client.build_request("POST", "/v1/chat/completions", json={**CHAT, "stream": True})
            response = client.send(request, stream=True)
            streams.callback(response.close)
            return int(response.status_code)

        assert [start() for _ in range(4)] == [200, 200, 200, 429]
        kill_workers(gateway)
        assert [start() for _ in range(4)] == [200, 200, 200, 429]
        streams.close()
        until(lambda: statuses(gateway, count=1) == {200: 1}, "the end of what clients had left")


def test_tokens_are_charged_as_the_model_counted_them(demo: DemoModel) -> None:
    with gateway_of(demo, {"rate": "1000/hour", "unit": "tokens"}) as gateway, gateway.client() as client:
        answer = client.post("/v1/chat/completions", json=CHAT)
        used = answer.json()["usage"]["total_tokens"]
        reserved = 1000 - int(answer.headers["x-ratelimit-remaining-tokens"])
        assert used < reserved
        second = client.post("/v1/chat/completions", json=CHAT)
        assert int(second.headers["x-ratelimit-remaining-tokens"]) in (1000 - used - reserved, 1001 - used - reserved)


def test_two_gateways_hold_one_limit_in_redis_and_do_without_it(demo: DemoModel, tmp_path: Path) -> None:
    server = Server(tmp_path)
    url = f"redis://127.0.0.1:{server.port}/0"
    limit = {"rate": "1/hour", "burst": 10}
    try:
        with gateway_of(demo, limit, limits_store=url) as one, gateway_of(demo, limit, limits_store=url) as two:
            assert statuses(one, two, count=30) == {200: 10, 429: 20}
            server.kill()
            assert statuses(one, count=20) == {200: 10, 429: 10}  # counted by this machine, from a full bucket
            assert one.output.count("the limits store is down") <= 2  # once for each worker
            assert 'verdict="store_down"' in until(lambda: _with(one, "store_down"), "the counts")
            server.start()
            until(lambda: _is_back(one), "the return of the store")
    finally:
        server.kill()


def _with(gateway: Gateway, word: str) -> str:
    text = gateway.metrics()
    return text if word in text else ""


def _is_back(gateway: Gateway) -> bool:
    """A fresh server has fresh buckets, and counts them for the other gateway too."""
    with gateway.client() as client:
        answer: httpx2.Response = client.get(READY)
    return answer.status_code == 200
