"""Balancing by prompts over real sockets: who shares a prefix meets again, who is slow gets less, and nothing is left
behind whoever leaves, dies or is replaced."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from gateway.demo.engine import BLOCK, PROFILES
from tests.e2e.harness import PATIENCE, DemoModel, Gateway, until

CHAT = "/v1/chat/completions"


def model(endpoints: Sequence[DemoModel], policy: str = "llm", **options: Any) -> dict[str, Any]:
    versions = {"v1": {"endpoints": [each.url for each in endpoints]}}
    return {"auth": [], "balance": {"policy": policy}, "versions": versions, **options}


def chat(text: str, tokens: int = 4, name: str = "demo") -> dict[str, Any]:
    """A streamed chat."""
    return {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": True}


def ask(client: httpx2.Client, text: str, tokens: int = 4) -> None:
    answer = client.post(CHAT, json=chat(text, tokens))
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")


def counted(endpoint: DemoModel, name: str) -> float:
    """A sample of an endpoint's own metrics."""
    text = httpx2.get(f"{endpoint.url}/metrics").text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"vllm:{name}"))


def shares(endpoints: Sequence[DemoModel]) -> list[float]:
    """Prompt tokens that each one has got."""
    return [counted(endpoint, "prefix_cache_queries_total") for endpoint in endpoints]


@pytest.fixture(scope="module")
def fleet() -> Iterator[list[DemoModel]]:
    endpoints = [DemoModel(engine="h100", speed=4) for _ in range(3)]
    yield endpoints
    for endpoint in endpoints:
        endpoint.stop()


@pytest.mark.parametrize("policy", ["llm", "cache_aware", "prefix_hash", "lpwl", "lmetric", "sticky_until_saturated"])
def test_prompts_of_one_beginning_go_to_one_endpoint(fleet: list[DemoModel], policy: str) -> None:
    with Gateway({"demo": model(fleet, policy)}) as gateway, gateway.client() as client:
        before = shares(fleet)
        for number in range(6):
            ask(client, f"of {policy} " * 1000 + str(number))
        got = [now - then for now, then in zip(shares(fleet), before, strict=True)]
        assert sorted(got)[:2] == [0, 0]


def test_a_slow_endpoint_gets_less_though_nobody_said_that_it_is_slow() -> None:
    with (
        DemoModel(engine="h100", speed=4) as fast,
        DemoModel(engine="l40s", speed=1) as slow,
        Gateway({"demo": model([slow, fast])}) as gateway,
    ):
        with gateway.client() as client, ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda n: ask(client, f"{n} " * 500, 30), range(90)))
        slow_share, fast_share = shares([slow, fast])
        assert slow_share < fast_share / 2


def test_the_picture_is_empty_when_streams_have_ended_and_when_clients_have_left() -> None:
    with DemoModel(engine="h100", speed=0.02) as endpoint, Gateway({"demo": model([endpoint])}) as gateway:
        with gateway.client() as client, client.stream("POST", CHAT, json=chat("x" * 400, 1000)) as answer:
            parts = answer.iter_raw()  # kept: a generator that goes closes the answer
            next(parts)
            until(lambda: counted(endpoint, "num_requests_running") == 1, "the request's start")
            assert picture(gateway) == (0, 1)
        until(lambda: picture(gateway) == (0, 0), "an empty picture")
        until(lambda: counted(endpoint, "num_requests_running") == 0, "the engine's rest")


def test_streams_survive_a_reload_and_the_picture_does_too(fleet: list[DemoModel]) -> None:
    with Gateway({"demo": model(fleet, "lpwl")}) as gateway, gateway.client() as client:
        with client.stream("POST", CHAT, json=chat("of a reload " * 500, 2000)) as answer:
            parts = answer.iter_raw()
            next(parts)
            gateway.reload({"demo": model(fleet, "lpwl", json_bytes="1MiB")})
            assert picture(gateway) == (0, 1)
            assert b"".join(parts).endswith(b"data: [DONE]\n\n")
        until(lambda: picture(gateway) == (0, 0), "an empty picture")
        before = shares(fleet)
        ask(client, "of a reload " * 500)
        got = [now - then for now, then in zip(shares(fleet), before, strict=True)]
        cached = sum(each["inference"]["cached_tokens"] for each in endpoints_of(gateway))
        assert cached > 1000  # the index survived as well
        assert sorted(got)[:2] == [0, 0]


def test_what_a_killed_worker_held_is_free_and_its_successor_serves() -> None:
    with (
        DemoModel(engine="h100", speed=0.02) as endpoint,
        Gateway({"demo": model([endpoint])}) as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        broken = pool.submit(_is_broken_off, gateway)
        until(lambda: picture(gateway) == (0, 1), "a running stream")
        (worker,) = (each["pid"] for each in gateway.status()["workers"])
        os.kill(worker, signal.SIGKILL)
        assert broken.result(PATIENCE)
        until(lambda: gateway.status()["workers"][0]["pid"] not in (0, worker), "a successor")
        until(lambda: picture(gateway) == (0, 0), "an empty picture")
        with gateway.client() as client:
            ask(client, "hello", 1)


def _is_broken_off(gateway: Gateway) -> bool:
    with gateway.client() as client:
        try:
            client.post(CHAT, json=chat("hello", 5000))
        except httpx2.HTTPError:
            return True
    return False


def test_two_workers_have_one_picture() -> None:
    """Each request has a connection of its own, and so either worker. Though neither sends them all, no endpoint gets a
    second one before each has one."""
    fleet = [DemoModel(engine="l40s", speed=0.01) for _ in range(3)]
    with Gateway({"demo": model(fleet, "lpwl")}, {"gateway": {"workers": 2}}) as gateway:
        with ExitStack() as stack:
            for number in range(6):
                client = stack.enter_context(gateway.client())
                stack.enter_context(client.stream("POST", CHAT, json=chat(f"{number} " * 20_000)))
                until(lambda number=number: sum(busy(fleet)) == number + 1, "the request's arrival")
            assert busy(fleet) == [2, 2, 2]
        until(lambda: picture(gateway) == (0, 0), "an empty picture")
    for endpoint in fleet:
        endpoint.stop()


def test_what_one_worker_sent_somewhere_the_other_sends_there_too() -> None:
    fleet = [DemoModel(engine="h100", speed=10) for _ in range(3)]
    with Gateway({"demo": model(fleet, "lpwl")}, {"gateway": {"workers": 2}}) as gateway:
        for number in range(10):  # each by a connection of its own, and so by either worker
            with gateway.client() as client:
                ask(client, "of both workers " * 500 + str(number))
        hits = [counted(endpoint, "prefix_cache_hits_total") for endpoint in fleet]
        asked = shares(fleet)
        assert sorted(asked)[:2] == [0, 0]
        assert max(hits) > 0.8 * max(asked)
    for endpoint in fleet:
        endpoint.stop()


def busy(fleet: Sequence[DemoModel]) -> list[int]:
    return [int(counted(each, "num_requests_running") + counted(each, "num_requests_waiting")) for each in fleet]


def test_an_engine_is_asked_for_its_load_and_forgotten_when_it_is_silent() -> None:
    with DemoModel(engine="h100", speed=0.02) as endpoint:
        balance = {"policy": "sticky_until_saturated", "engine_metrics": "/metrics"}
        models = {"demo": {"auth": [], "balance": balance, "versions": {"v1": {"endpoints": [endpoint.url]}}}}
        with Gateway(models) as gateway:
            said = until(lambda: endpoints_of(gateway)[0]["engine"], "the engine's word")
            assert said == {"waiting": 0, "running": 0, "kv_usage": 0.0, "cache": PROFILES["h100"].kv // BLOCK * BLOCK}
            with httpx2.stream("POST", endpoint.url + CHAT, json=chat("x" * 80_000, 1000)):  # past the gateway
                until(lambda: endpoints_of(gateway)[0]["engine"]["running"] == 1, "the engine's news")
            assert f'gateway_engine_requests{{endpoint="{endpoint.url}",state="running"}}' in gateway.metrics()
            endpoint.stop()
            until(lambda: endpoints_of(gateway)[0]["engine"] is None, "silence")


def test_requests_that_came_by_other_ways_turn_a_pick_for_as_long_as_they_run() -> None:
    """All go to the faster of two, unless its engine says that it has streams, which a long prompt would hold up."""
    balance = {"policy": "llm", "engine_metrics": "/metrics"}
    with (
        DemoModel(engine="h100", speed=0.25) as fast,
        DemoModel(engine="l40s", speed=0.25) as slow,
        Gateway({"demo": {**model([fast, slow]), "balance": balance}}) as gateway,
    ):
        until(lambda: goes_to(gateway, [fast, slow])[1] == 0, "that the faster one is known")
        with (
            httpx2.Client(timeout=PATIENCE, limits=httpx2.Limits(max_connections=None)) as past,
            ExitStack() as streams,
        ):
            for number in range(60):
                call = chat(f"{number} " * 100, 100_000) | {"ignore_eos": True}
                streams.enter_context(past.stream("POST", fast.url + CHAT, json=call))
            until(lambda: running(gateway, fast) >= 60, "the engine's news")
            until(lambda: goes_to(gateway, [fast, slow])[0] == 0, "that all go to the slower one")
        until(lambda: running(gateway, fast) == 0, "the engine's rest")
        until(lambda: goes_to(gateway, [fast, slow])[1] == 0, "that all go to the faster one again")


def goes_to(gateway: Gateway, fleet: Sequence[DemoModel]) -> list[float]:
    """Tokens of four prompts of 1,000, one after the other, that each one gets."""
    before = shares(fleet)
    with gateway.client() as client:
        for _ in range(4):
            ask(client, str(uuid4()) + "x" * 4000)
    return [now - then for now, then in zip(shares(fleet), before, strict=True)]


def running(gateway: Gateway, endpoint: DemoModel) -> int:
    (found,) = [each["engine"] for each in endpoints_of(gateway) if each["url"] == endpoint.url]
    return int(found["running"]) if found else -1


def endpoints_of(gateway: Gateway) -> list[dict[str, Any]]:
    return [each for m in gateway.status()["models"] for v in m["versions"] for each in v["endpoints"]]


def picture(gateway: Gateway) -> tuple[int, int]:
    """(pending tokens, running streams), over all endpoints and workers."""
    known = [each["inference"] for each in endpoints_of(gateway) if each["inference"]]
    return sum(each["pending_tokens"] for each in known), sum(each["running_streams"] for each in known)
