import asyncio
import json
import time
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from gateway.config.settings import BalanceSettings
from gateway.core.access import Access, Rule
from gateway.core.endpoint import Endpoint, Health, Row
from gateway.core.pick import make
from gateway.core.pool import Pool
from gateway.core.snapshot import Route, Snapshot
from gateway.core.split import Split
from gateway.edge.authenticate import Means
from gateway.edge.listing import Listing, routes_of, visible
from gateway.edge.rescue import Rescue
from gateway.model import ANONYMOUS, Exchange, Header, Principal

KEYS = {
    b"all": Principal("k1", "all", "key", ("*",)),
    b"some": Principal("k2", "some", "key", ("b@v2",)),
    b"none": Principal("k3", "none", "key", ("nothing",)),
}


class Keys:
    @property
    def find(self) -> Any:
        return lambda credential, now: KEYS.get(credential)


async def _chain(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nothing is forwarded")


def route(name: str, auth: set[str], healths: dict[str, Health], access: Access | None = None) -> Route:
    row = Row(list(healths.values()), [0] * len(healths))
    pools = {}
    for slot, version in enumerate(healths):
        endpoints = [Endpoint(f"http://127.0.0.1:{slot + 1}", slot, row)]
        pools[version] = Pool(name, version, endpoints, make(BalanceSettings(), endpoints), (name, None))
    found = Route(name, pools, Split(dict.fromkeys(healths), None), _chain, auth=frozenset(auth))
    found.access = access or Access(name, list(healths))
    return found


def snapshot(*routes: Route) -> Snapshot:
    return Snapshot(1, _chain, routes={each.name: each for each in routes})


PUBLIC = route("a", set(), {"v1": Health.UP})
LOCKED = route("b", {"key"}, {"v1": Health.DOWN, "v2": Health.UP})
JWT = route("c", {"jwt"}, {"v1": Health.UP})


def ask(
    shown: Snapshot, method: str, path: str, key: bytes | None = None, body: bytes = b""
) -> tuple[int, dict[bytes, bytes], Any]:
    """Status, fields and JSON of the gateway's own answer."""
    sent: list[Any] = []
    headers: list[Header] = [(b"x-api-key", key)] if key is not None else []
    exchange = Exchange("id", time.monotonic(), "")
    exchange.answer_headers.append((b"x-request-id", b"id"))

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)
        exchange.status = message.get("status", exchange.status)

    async def refresh(issuer: str) -> bool:
        return False

    listing = Listing(lambda: shown, lambda: Means(Keys(), refresh=refresh))
    app = Starlette(routes=routes_of(listing))
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
             "headers": headers, "query_string": b"", "exchange": exchange, "app": app}  # fmt: skip
    asyncio.run(Rescue(app.router)(scope, receive, send))
    fields = dict(sent[0]["headers"])
    return sent[0]["status"], fields, json.loads(sent[1]["body"] or b"null")


def listed(key: bytes | None, shown: Snapshot | None = None) -> dict[str, list[str]]:
    status, fields, found = ask(shown or snapshot(PUBLIC, LOCKED, JWT), "GET", "/v1/models", key)
    assert (status, fields[b"x-request-id"]) == (200, b"id")
    return {model["id"]: model["versions"] for model in found["data"]}


def test_everybody_sees_what_is_public_and_a_key_what_it_may_call() -> None:
    assert listed(None) == {"a": ["v1"]}
    assert listed(b"all") == {"a": ["v1"], "b": ["v1", "v2"]}
    assert listed(b"some") == {"a": ["v1"], "b": ["v2"]}
    assert listed(b"none") == {"a": ["v1"]}


def test_who_shows_nothing_is_asked_for_credentials_where_nothing_is_public() -> None:
    status, fields, found = ask(snapshot(LOCKED), "GET", "/v1/models")
    assert (status, found["error"]["code"]) == (401, "invalid_credentials")
    assert fields[b"www-authenticate"] == b'Bearer realm="models"'
    assert listed(b"none", snapshot(LOCKED)) == {}, "who is known and may nothing sees an empty list"


def test_a_key_that_is_none_is_refused_even_where_something_is_public() -> None:
    status, fields, _ = ask(snapshot(PUBLIC), "GET", "/v1/models", b"wrong")
    assert status == 401
    assert b"invalid_token" in fields[b"www-authenticate"]


def test_a_models_own_rules_decide_what_a_token_sees() -> None:
    rules = [Rule("admin", None, None, versions=("v2",))]
    ruled = route("b", {"jwt"}, {"v1": Health.UP, "v2": Health.UP}, Access("b", ["v1", "v2"], rules))
    plain = Principal("i|s", "s", "jwt", None, {"scope": "user"})
    admin = Principal("i|s", "s", "jwt", None, {"scope": "user admin"})
    assert visible(plain, [ruled]) == []
    assert visible(admin, [ruled]) == [(ruled, ["v2"])]
    assert visible(ANONYMOUS, [ruled]) == []


def test_the_gateway_is_ready_while_any_model_can_be_served() -> None:
    down = route("d", set(), {"v1": Health.DOWN, "v2": Health.DRAINING})
    assert ask(snapshot(down, PUBLIC), "GET", "/v2/health/ready")[::2] == (200, {"ready": True})
    status, fields, found = ask(snapshot(down), "GET", "/v2/health/ready")
    assert (status, found["error"]["code"], fields[b"retry-after"]) == (503, "no_endpoint_available", b"1")
    assert ask(snapshot(down), "GET", "/v2/health/live")[::2] == (200, {"live": True})


def test_the_repositorys_index_says_what_can_be_served() -> None:
    shown = snapshot(PUBLIC, LOCKED)
    _, _, found = ask(shown, "POST", "/v2/repository/index", b"all")
    assert [(item["name"], item["version"], item["state"]) for item in found] == [
        ("a", "v1", "READY"),
        ("b", "v1", "UNAVAILABLE"),
        ("b", "v2", "READY"),
    ]
    _, _, ready = ask(shown, "POST", "/v2/repository/index", b"all", b'{"ready": true}')
    assert [(item["name"], item["version"]) for item in ready] == [("a", "v1"), ("b", "v2")]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b"\xff", b'{"x":' + b"[" * 4000, b"x" * 5000])
def test_a_question_that_cannot_be_understood_is_refused(body: bytes) -> None:
    status, _, _ = ask(snapshot(PUBLIC), "POST", "/v2/repository/index", None, body)
    assert status in (400, 413)


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/models"), ("GET", "/v2/repository/index"), ("PUT", "/v2")])
def test_another_method_is_405_and_says_which_are_allowed(method: str, path: str) -> None:
    status, fields, found = ask(snapshot(PUBLIC), method, path)
    assert (status, found["error"]["code"]) == (405, "method_not_allowed")
    assert fields[b"allow"]


def test_others_are_served_while_thousands_of_models_are_looked_at() -> None:
    shown = snapshot(*(route(f"m{number}", set(), {"v1": Health.DOWN}) for number in range(1000)))
    turns: list[float] = []

    async def others() -> None:
        while True:
            turns.append(time.monotonic())
            await asyncio.sleep(0)

    async def run(path: str, method: str) -> int:
        exchange = Exchange("id", time.monotonic(), "")
        listing = Listing(lambda: shown, lambda: Means(Keys(), refresh=_no_refresh))
        app = Starlette(routes=routes_of(listing))
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
                 "headers": [], "query_string": b"", "exchange": exchange, "app": app}  # fmt: skip
        turns.clear()
        task = asyncio.create_task(others())
        await Rescue(app.router)(scope, _receive, _send)
        task.cancel()
        return len(turns)

    for path, method in (("/v1/models", "GET"), ("/v2/repository/index", "POST"), ("/v2/health/ready", "GET")):
        assert asyncio.run(run(path, method)) >= 9


async def _no_refresh(issuer: str) -> bool:
    return False


async def _receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Any) -> None:
    pass
