"""Balancing by prompts over real sockets: who shares a prefix meets again, who is slow gets less, and nothing is left
behind whoever leaves, dies or is replaced."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import DemoModel, Gateway

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
