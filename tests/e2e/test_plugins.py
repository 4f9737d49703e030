"""Plugins in a real gateway: the three that are shipped, one from PyPI, and those that do what they must not."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import Gateway, served, temporary_folder, until
from tests.e2e.harness_upstream import Connection, RawUpstream, response
from tests.e2e.harness_wire import Wire

BAD = '''
import asyncio
import sys

from gateway.errors import Forbidden
from gateway.plugin import exchange_of


class Raises:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        raise ValueError("a plugin's mistake")


class Exits(Raises):
    async def __call__(self, scope, receive, send):
        sys.exit(3)


class Hangs(Raises):
    async def __call__(self, scope, receive, send):
        await asyncio.Event().wait()


class HangsLater(Raises):
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        await asyncio.Event().wait()


class Injects(Raises):
    """Sends a header that would be two."""

    async def __call__(self, scope, receive, send):
        async def injected(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-a", b"1\\r\\nset-cookie: evil=1")]
            await send(message)

        await self.app(scope, receive, injected)


class InjectsAlways(Raises):
    async def __call__(self, scope, receive, send):
        exchange_of(scope).answer_headers.append((b"x-a", b"1\\nset-cookie: evil=1"))
        await self.app(scope, receive, send)


class Smuggles(Raises):
    """Copies what a client said into a field, as it is."""

    async def __call__(self, scope, receive, send):
        said = bytes.fromhex(scope["query_string"].decode())
        scope["headers"] = [*scope["headers"], (b"x-said", said)]
        await self.app(scope, receive, send)


class SmugglesInLine(Raises):
    """The same, into the part of the request line that the path names."""

    async def __call__(self, scope, receive, send):
        said = bytes.fromhex(scope["query_string"].decode())
        place = scope["path"].rpartition("/")[2]
        if place == "path":
            exchange_of(scope).path = b"/" + said
        else:
            scope[place] = said.decode() if place == "method" else said
        await self.app(scope, receive, send)


class Shouts(Raises):
    """Has names as HTTP shows them, not as ASGI wants them, in both directions."""

    async def __call__(self, scope, receive, send):
        async def sent(message):
            if message["type"] == "http.response.start":
                fields = [*message["headers"], (b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked")]
                message["headers"] = [header for header in fields if header[0] != b"content-length"]
            elif message["type"] == "http.response.body":
                message["body"] = b"abc"
            await send(message)

        scope["headers"] = [*scope["headers"], (b"X-Gateway-User", b"root")]
        await self.app(scope, receive, sent)


class Redacts(Raises):
    """Takes a word out of what goes to the model."""

    async def __call__(self, scope, receive, send):
        async def redacted():
            message = await receive()
            return {**message, "body": message["body"].replace(b"secret", b"***")} if "body" in message else message

        await self.app(scope, redacted, send)


class BreaksOff(Raises):
    """Raises when a part of the answer has gone out."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("a plugin's mistake in mid answer")


class Silent(Raises):
    """Answers nothing at all."""

    async def __call__(self, scope, receive, send):
        return


class Mute(Raises):
    """Begins an answer that has no end."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})


class Lies(Raises):
    """Says less than it promised."""

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"short"})


class Cancels(Raises):
    async def __call__(self, scope, receive, send):
        raise asyncio.CancelledError


class Refuses(Raises):
    async def __call__(self, scope, receive, send):
        raise Forbidden("not today", headers=[(b"x-why", b"tuesday")])


class Tasks(Raises):
    """Runs all that is behind it as a task, and each part of the answer as another."""

    async def __call__(self, scope, receive, send):
        async def apart(message):
            await asyncio.create_task(send(message))

        task = asyncio.create_task(self.app(scope, receive, apart))
        try:
            await asyncio.wait([task], timeout=5)
        finally:
            exchange_of(scope).answer_headers.append((b"x-ended", b"%d" % task.done()))
        await task


class Lists(Raises):
    """Pairs that are lists and a body that is no `bytes`, in both directions, as ASGI and Starlette allow."""

    async def __call__(self, scope, receive, send):
        async def received():
            message = await receive()
            return {**message, "body": bytearray(message["body"])} if "body" in message else message

        async def sent(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*map(list, message["headers"]), [b"x-listed", b"yes"]]
            elif message["type"] == "http.response.body":
                message["body"] = memoryview(message["body"])
            await send(message)

        scope["headers"] = [[name, value] for name, value in scope["headers"]]
        await self.app(scope, received, sent)


class Answers(Raises):
    """Takes the request itself."""

    async def __call__(self, scope, receive, send):
        body = f"{exchange_of(scope).principal.name} {scope['path']}".encode()
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})
'''

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
NAMES = ["Raises", "Exits", "Injects", "InjectsAlways", "BreaksOff", "Silent", "Mute", "Lies", "Cancels", "Refuses",
         "Answers", "Smuggles", "SmugglesInLine", "Shouts", "Tasks", "Lists"]  # fmt: skip


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, connection: Connection) -> None:
        while True:
            request = connection.read_request()
            self.count += 1
            body = json.dumps({"count": self.count, "body": request.body.decode()}).encode()
            connection.send(
                response(body, fields=[("content-type", "application/json"), ("cache-control", "max-age=60")])
            )


@pytest.fixture(scope="module")
def counter() -> Counter:
    return Counter()


@pytest.fixture(scope="module")
def gateway(counter: Counter) -> Iterator[Gateway]:
    folder = temporary_folder("gateway-")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "bad.py").write_text(BAD)
    with RawUpstream(counter) as upstream:

        def public(*plugins: dict[str, Any], **options: Any) -> dict[str, Any]:
            return served([upstream.url], auth=[], plugins=list(plugins), **options)

        cors = {"use": "starlette.middleware.cors.CORSMiddleware", "allow_origins": ["https://app.example"]}
        models = {
            "plain": public(),
            "nobody": public({"use": "plugins.ip_filter.IPFilter", "deny": ["127.0.0.0/8"]}),
            "local": public({"use": "plugins.ip_filter.IPFilter", "allow": ["127.0.0.0/8"]}),
            "valid": public({"use": "plugins.request_validator.RequestValidator", "schema": SCHEMA}),
            "cached": public({"use": "plugins.response_cache.ResponseCache", "ttl": "1m"}),
            "cors": public(cors | {"allow_methods": ["POST"]}),
            "example": served([upstream.url], plugins=[{"use": "plugins.example.Example", "greeting": "hi"}]),
            "both": public({"use": "plugins.example.Example", "greeting": "outer"}, {"use": "plugins.bad.Refuses"}),
            "redacts": public({"use": "plugins.bad.Redacts"}, aliases=["censored"]),
            "replaced": public({"use": "plugins.bad.Redacts"}, fallback=["plain"]),
            "validated": public(
                {"use": "plugins.bad.Redacts"},
                {
                    "use": "plugins.request_validator.RequestValidator",
                    "schema": {"properties": {"prompt": {"const": "my ***"}}},
                },
            ),
            "hangs": public({"use": "plugins.bad.Hangs"}, timeouts={"total": "200ms"}),
            "patient": public({"use": "plugins.bad.Hangs"}),
            "hangslater": public({"use": "plugins.bad.HangsLater"}, timeouts={"total": "200ms"}),
            "listsmetered": public(
                {"use": "plugins.bad.Lists"}, limits=[{"rate": "1000000/second", "unit": "tokens", "per": "ip"}]
            ),
            **{name.lower(): public({"use": f"plugins.bad.{name}"}) for name in NAMES},
        }
        settings = {"plugins": [{"use": "plugins.ip_filter.IPFilter", "deny": ["192.0.2.0/24"]}]}
        settings["gateway"] = {"trusted_proxies": ["127.0.0.1/32"]}  # type: ignore[assignment]
        with Gateway(models, settings, folder=folder) as gateway:
            yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client(headers={}) as client:
        yield client


# --- those that are shipped ---


def test_an_address_that_is_not_allowed_is_refused_for_one_model_or_for_all(client: httpx2.Client) -> None:
    assert client.get("/models/nobody/x").status_code == 403
    assert client.get("/models/local/x").status_code == 200
    refused = client.get("/models/plain/x", headers={"x-forwarded-for": "192.0.2.7"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert client.get("/v1/models", headers={"x-forwarded-for": "192.0.2.7"}).status_code == 403


def test_a_body_that_breaks_the_schema_never_reaches_the_model_server(client: httpx2.Client, counter: Counter) -> None:
    before = counter.count
    refused = client.post("/models/valid/x", json={"n": "one"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unprocessable_body")
    assert "$.n" in refused.json()["error"]["message"]
    assert counter.count == before
    assert client.post("/models/valid/x", json={"n": 1}).json()["body"] == '{"n":1}'


def test_an_answer_is_given_again_from_memory(client: httpx2.Client, counter: Counter) -> None:
    first = client.post("/models/cached/x", json={"q": 1})
    before = counter.count
    again = client.post("/models/cached/x", json={"q": 1})
    assert (again.json(), counter.count) == (first.json(), before)
    assert [answer.headers["x-cache"] for answer in (first, again)] == ["miss", "hit"]
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert client.post("/models/cached/x", json={"q": 2}).json()["count"] == before + 1


def test_the_example_greets_who_was_proved(gateway: Gateway) -> None:
    with gateway.client() as client:
        assert client.get("/models/example/x").headers["x-example"] == "hi key"


def test_middleware_from_elsewhere_is_a_plugin(client: httpx2.Client) -> None:
    origin = {"origin": "https://app.example"}
    preflight = client.options("/models/cors/x", headers={**origin, "access-control-request-method": "POST"})
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://app.example")
    answer = client.post("/models/cors/x", json={}, headers=origin)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert "access-control-allow-origin" not in client.post("/models/cors/x", json={}).headers


# --- those that do what they must not ---


def serves_on(gateway: Gateway) -> bool:
    with gateway.client(headers={}) as client:
        return client.get("/models/plain/x").status_code == 200


@pytest.mark.parametrize("name", ["raises", "exits", "injects", "silent"])
def test_a_plugins_mistake_is_500_for_its_own_request_and_nobody_elses(
    gateway: Gateway, client: httpx2.Client, name: str
) -> None:
    workers = gateway.status()["workers"]
    answer = client.get(f"/models/{name}/x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "set-cookie" not in answer.headers
    assert "mistake" not in answer.text, "what went wrong inside is not told"
    assert client.get("/models/plain/x").status_code == 200, "on the same connection"
    assert serves_on(gateway)
    assert [w["pid"] for w in gateway.status()["workers"]] == [w["pid"] for w in workers]


@pytest.mark.parametrize(
    "said", ["1\r\nx-admin: 1", "1\r\n\r\nGET /admin HTTP/1.1\r\nhost: a", "1\n2", "1\r2", "1\x002", "1\x7f"]
)
def test_a_plugin_cannot_be_made_to_write_a_second_field_or_request_to_the_model_server(
    client: httpx2.Client, counter: Counter, said: str
) -> None:
    before = counter.count
    answer = client.get(f"/models/smuggles/x?{said.encode().hex()}")
    assert (answer.status_code, counter.count) == (500, before)
    assert client.get(f"/models/smuggles/x?{b'fine'.hex()}").status_code == 200


@pytest.mark.parametrize("model", ["redacts", "redacts@v1", "censored", "replaced", "validated"])
def test_what_a_plugin_makes_of_a_body_is_what_those_behind_it_get_by_whatever_name(
    client: httpx2.Client, model: str
) -> None:
    answer = client.post("/v1/completions", json={"model": model, "prompt": "my secret"})
    assert answer.status_code == 200
    assert json.loads(answer.json()["body"])["prompt"] == "my ***"


@pytest.mark.parametrize("place", ["method", "query_string", "path"])
def test_nor_can_it_be_made_to_end_the_request_line(client: httpx2.Client, counter: Counter, place: str) -> None:
    before = counter.count
    for said in ("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET", "a b", "a\nb", "\x00", "\xe9"):
        assert client.get(f"/models/smugglesinline/{place}?{said.encode().hex()}").status_code == 500
    assert counter.count == before
    assert client.get(f"/models/smugglesinline/{place}?{b'POST'.hex()}").status_code == 200


def test_a_length_that_a_plugin_spells_in_capitals_is_the_answers_only_one(gateway: Gateway) -> None:
    with gateway.raw() as wire:
        for _ in range(2):  # on one connection: each ends where it says
            wire.send(b"GET /models/shouts/x HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = wire.read_response()
            assert (answer.status, answer.body) == (200, b"abc")
            assert (answer.get("content-length"), answer.get("transfer-encoding")) == ("3", None)


@pytest.mark.parametrize("name", ["breaksoff", "mute", "lies", "injectsalways", "cancels"])
def test_a_plugins_mistake_in_mid_answer_is_seen_to_be_broken(gateway: Gateway, name: str) -> None:
    with gateway.raw() as client:
        client.send(f"GET /models/{name}/x HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.wait_closed(within=2.0)
        assert not client.received.endswith(b"0\r\n\r\n")
        assert b"evil" not in client.received
    assert serves_on(gateway)


def test_a_plugin_that_hangs_is_ended_by_the_routes_total_timeout(gateway: Gateway, client: httpx2.Client) -> None:
    answer = client.get("/models/hangs/x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "plugin_timeout")
    with gateway.raw() as wire:
        wire.send(b"GET /models/hangslater/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.wait_closed()
        assert wire.received.endswith(b"1\r\n1\r\n"), "it is seen to be broken"
    assert serves_on(gateway)


def test_a_clients_deadline_ends_a_plugin_that_waits_for_longer(client: httpx2.Client) -> None:
    answer = client.get("/models/patient/x", headers={"x-request-timeout": "50ms"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_a_mistake_is_logged_with_its_stack_and_its_request(gateway: Gateway, client: httpx2.Client) -> None:
    request_id = client.get("/models/raises/x").headers["x-request-id"]
    until(lambda: f"request {request_id} failed inside the gateway" in gateway.output, "the log")
    assert "a plugin's mistake" in gateway.output
    line = until(lambda: [x for x in gateway.access_log() if x["request_id"] == request_id], "the log line")[0]
    assert (line["status"], line["error_owner"], line["model"]) == (500, "gateway", "raises")


def test_a_plugin_may_refuse_with_an_error_of_the_gateways(client: httpx2.Client) -> None:
    answer = client.get("/models/refuses/x")
    assert (answer.status_code, answer.json()["error"]["message"]) == (403, "not today")
    assert answer.headers["x-why"] == "tuesday"


def test_a_plugin_may_answer_itself(client: httpx2.Client) -> None:
    answer = client.get("/models/answers/x")
    assert (answer.status_code, answer.text) == (202, "anonymous /models/answers/x")


def test_the_first_plugin_is_the_outermost(client: httpx2.Client) -> None:
    """What the second one refuses passes no plugin on its way out: refusals are answered above all of them."""
    answer = client.get("/models/both/x")
    assert (answer.status_code, "x-example" in answer.headers) == (403, False)


def test_a_large_upload_goes_through_a_plugin_that_does_not_read_it(gateway: Gateway) -> None:
    def upload(wire: Wire) -> int:
        wire.send(b"POST /models/local/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(30):
            wire.send(b"x" * 100_000)
        return wire.read_response().status

    with gateway.raw() as client:
        assert upload(client) == 200


def test_a_plugin_that_cannot_be_made_is_reported_and_changes_nothing(gateway: Gateway) -> None:
    models = dict(gateway.config["models"])
    for plugin, reason in (
        ({"use": "plugins.bad.Missing"}, "has no 'Missing'"),
        ({"use": "plugins.nowhere.X"}, "cannot import"),
        ({"use": "plugins.ip_filter.IPFilter"}, "allow"),
        ({"use": "plugins.example.Example", "greting": "x"}, "did you mean 'greeting'"),
    ):
        broken = {**models, "plain": {**models["plain"], "plugins": [plugin]}}
        problems = gateway.reload(broken)
        assert len(problems) == 1
        assert reason in problems[0]
        assert "models.plain.plugins[0]" in problems[0]
        assert serves_on(gateway)
    assert gateway.reload(models) == []


def test_a_plugin_may_make_tasks_of_what_it_calls(client: httpx2.Client) -> None:
    answer = client.get("/models/tasks/x")
    assert answer.status_code == 200
    assert answer.json()["count"]
    refused = client.get("/models/tasks/versions/none/x")
    assert (refused.status_code, refused.headers["x-ended"]) == (404, "1"), "the task failed, and not what made it"


@pytest.mark.parametrize("limits", ["lists", "listsmetered"])
def test_a_plugin_may_use_lists_and_anything_like_bytes(client: httpx2.Client, limits: str) -> None:
    answer = client.post(f"/models/{limits}/x", content=b"said")
    assert (answer.status_code, answer.json()["body"], answer.headers["x-listed"]) == (200, "said", "yes")
