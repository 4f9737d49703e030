"""Every way to balance a model, once, in one gateway: what each one hands to the next is what that can take. The
compiled modules are strict about types that the same sources do not look at."""

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from gateway.core.pick import POLICIES, PROMPTED
from tests.e2e.harness import DemoModel, Gateway

KEYS: dict[str, dict[str, Any]] = {
    "header": {"header": "x-session"},
    "cookie": {"cookie": "session"},
    "query": {"query": "session"},
    "body": {"body": "user"},
    "claim": {"claim": "sub"},
}
WAYS: dict[str, dict[str, Any]] = {
    **{policy: {"balance": {"policy": policy}} for policy in POLICIES},
    **{f"hash-{name}": {"balance": {"policy": "consistent_hash", "hash": key}} for name, key in KEYS.items()},
    "learned": {"balance": {"policy": "weighted", "weights": "learned"}},
    "llm-hedged": {"balance": {"policy": "llm"}, "hedge": {}},
    "llm-queued": {"balance": {"policy": "llm"}, "max_in_flight": {"pending_tokens": 2048}},
    "adaptive": {"max_in_flight": {"adaptive": {}}},
    "queued": {"max_in_flight": {"endpoint": 2}, "queue": {"length": 5, "when_down": True}},
    "retried": {"retry": {"when": ["unsent", "broken", "500"], "attempts": 2}},
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with DemoModel() as one, DemoModel() as other, DemoModel() as quiet:
        arm = {"endpoints": [one.url, other.url], "served_as": {"model": "demo"}}
        models = {name: {"auth": [], "versions": {"v1": arm}, **options} for name, options in WAYS.items()}
        lone = {"auth": [], "versions": {"v1": {"endpoints": [quiet.url], "served_as": {"model": "demo"}}}}
        models |= {f"lone-{name}": {**lone, "balance": {"policy": name}} for name in PROMPTED}
        with Gateway(models) as gateway:
            yield gateway


@pytest.mark.parametrize("name", sorted(WAYS))
def test_it_serves_answers_in_one_piece_and_in_many_with_or_without_what_it_picks_by(
    gateway: Gateway, name: str
) -> None:
    body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    with gateway.client() as client:
        for told in (body, {**body, "stream": True, "user": "ann"}):
            assert _status(client, "/v1/chat/completions", told) == 200
            assert (
                _status(client, "/v1/chat/completions?session=7", told, {"x-session": "7", "cookie": "session=7"})
                == 200
            )
        assert client.get(f"/models/{name}/v2/health/ready").status_code == 200  # no prompt, no body


@pytest.mark.parametrize("name", sorted(PROMPTED))
def test_a_lone_client_is_answered_in_one_piece_again_and_again(gateway: Gateway, name: str) -> None:
    """With pauses, in which what the answer before has shown is made use of."""
    body = {"model": f"lone-{name}", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    with gateway.client() as client:
        for _ in range(3):
            assert _status(client, "/v1/chat/completions", body) == 200
            time.sleep(0.3)


def _status(client: httpx2.Client, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> int:
    return client.post(path, json=body, headers=headers).status_code
