"""Plugins and sessions in a gateway that runs: what a broken plugin costs, and that a mended one is taken live."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import DemoModel, Gateway, temporary_folder, until

FAULTY = """
import asyncio

class Faulty:
    def __init__(self, app, *, mood="well"):
        self.app, self.mood = app, mood

    async def __call__(self, scope, receive, send):
        deed = dict(scope["headers"]).get(b"x-deed", b"").decode()
        if deed == "raise":
            raise KeyError("a bug")
        if deed == "exit":
            raise SystemExit(1)
        if deed == "hang":
            await asyncio.Event().wait()
        if deed == "interrupt":
            raise KeyboardInterrupt

        async def marked(message):
            if message["type"] == "http.response.start":
                field = {"split": (b"x-a", b"1\\r\\nx-b: 2"), "text": ("x-a", "1"), "name": (b"x a\\n", b"1")}
                message["headers"].append(field.get(deed, (b"x-mood", self.mood.encode())))
            await send(message)

        await self.app(scope, receive, marked)
"""


def body_of(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}]}


def chat(client: httpx2.Client, model: str = "demo", **headers: str) -> httpx2.Response:
    return client.post("/v1/chat/completions", json=body_of(model), headers=headers)


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = temporary_folder("plugins-")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "faulty.py").write_text(FAULTY)
    return folder


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[Gateway]:
    with DemoModel("demo", "v1") as one, DemoModel("demo", "v1") as two:
        urls = [one.url, two.url]
        models: dict[str, Any] = {
            "demo": {"plugins": [{"use": "plugins.faulty.Faulty"}], "versions": {"v1": {"endpoints": urls}}},
            "kept": {
                "plugins": [
                    {"use": "plugins.request_validator.RequestValidator", "required": ["messages"]},
                    {"use": "plugins.response_cache.ResponseCache", "ttl": "1h"},
                ],
                "versions": {"v1": {"endpoints": urls, "served_as": {"model": "demo"}}},
            },
            "sticky": {
                "sticky": {"cookie": "gw_session", "ttl": "1h"},
                "balance": {"policy": "round_robin"},
                "versions": {"v1": {"endpoints": urls, "served_as": {"model": "demo"}}},
            },
        }
        with Gateway(models, folder=folder) as gateway:
            yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


@pytest.mark.parametrize("deed", ["raise", "exit", "interrupt", "split", "text", "name"])
def test_a_plugins_fault_costs_its_own_request(client: httpx2.Client, deed: str) -> None:
    try:
        failed = chat(client, **{"x-deed": deed})
    except httpx2.TransportError:
        pass  # the connection, where no answer can be given any more
    else:
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")
        assert "x-b" not in failed.headers
    assert chat(client).headers["x-mood"] == "well"


def test_a_plugin_that_hangs_holds_up_nobody_else(client: httpx2.Client) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/chat/completions", json=body_of("demo"), headers={"x-deed": "hang"}, timeout=0.3)
    assert chat(client).headers["x-mood"] == "well"


def test_a_cached_answer_names_this_request_and_not_the_one_before(client: httpx2.Client) -> None:
    first, second = chat(client, "kept"), chat(client, "kept")
    assert [first.headers["x-cache"], second.headers["x-cache"]] == ["miss", "hit"]
    assert first.content == second.content
    ids = [answer.headers.get_list("x-request-id") for answer in (first, second)]
    assert len(ids[0]) == len(ids[1]) == 1
    assert ids[0] != ids[1]


def test_a_refused_body_is_answered_in_the_gateways_words(client: httpx2.Client) -> None:
    answer = client.post("/v1/chat/completions", json={"model": "kept"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "$.messages: is required"


def test_a_session_stays_on_its_endpoint(gateway: Gateway) -> None:
    def visit(client: httpx2.Client) -> tuple[str, str | None]:
        answer = chat(client, "sticky")
        return answer.headers["x-request-id"], answer.headers.get("set-cookie")

    with gateway.client() as faithful, gateway.client() as forgetful:
        stayed = [visit(faithful) for _ in range(6)]
        moved = []
        for _ in range(6):
            forgetful.cookies.clear()
            moved.append(visit(forgetful))
    assert [cookie is not None for _, cookie in stayed] == [True] + [False] * 5
    assert all(cookie is not None for _, cookie in moved)

    def endpoints(visits: list[tuple[str, str | None]]) -> list[str]:
        ids = {request_id for request_id, _ in visits}
        return [line["endpoint"] for line in gateway.access_log() if line["request_id"] in ids]

    until(lambda: len(endpoints(stayed) + endpoints(moved)) == 12, "the log")
    assert (len(set(endpoints(stayed))), len(set(endpoints(moved)))) == (1, 2)


def test_a_changed_plugin_is_taken_live_and_a_broken_one_is_not(
    gateway: Gateway, client: httpx2.Client, folder: Path
) -> None:
    file = folder / "plugins" / "faulty.py"
    file.write_text(FAULTY.replace('"well"', '"better"'))
    assert gateway.reload() == []
    assert chat(client).headers["x-mood"] == "better"
    file.write_text("broken(")
    assert "faulty" in str(gateway.reload())
    assert chat(client).headers["x-mood"] == "better"
    file.write_text(FAULTY)
    assert gateway.reload() == []
    assert chat(client).headers["x-mood"] == "well"
