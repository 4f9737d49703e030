"""What tokens may call by what they claim, and models that nobody else hears of, over real connections."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import DemoModel, Gateway, served, until
from tests.e2e.harness_issuer import Issuer


@dataclass
class Place:
    gateway: Gateway
    issuer: Issuer
    stranger: str  # a key for another model

    def ask(self, method: str, path: str, credential: str | None, **options: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {credential}"} if credential else {}
        with self.gateway.client(headers=headers) as client:
            return client.request(method, path, **options)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with DemoModel() as demo, Issuer() as issuer:
        open_to = [{"claim": "groups", "contains": "ml-team"}, {"scope": "models.read", "methods": ["GET"]}]
        arm = {"endpoints": [demo.url], "served_as": {"model": "demo"}}
        options = {"hide": True, "json_bytes": 1000, "methods": ["GET", "POST"], "match": [{"host": "secret.example"}]}
        secret = {"auth": ["key", "jwt"], "allow": open_to, "versions": {"v1": arm}, **options}
        models = {"demo": served([demo.url], auth=["key", "jwt"]), "org/secret": secret}
        with Gateway(models, {"auth": {"jwt": [issuer.entry()]}}) as gateway:
            place = Place(gateway, issuer, gateway.create_key("stranger", "demo"))
            path = "/models/demo/v2/health/ready"
            until(lambda: place.ask("GET", path, issuer.token()).status_code == 200, "the keys")
            yield place


READY = "/models/org/secret/v2/health/ready"


def test_claims_and_scopes_open_a_model_by_method(place: Place) -> None:
    team, reader = place.issuer.token(groups=["ml-team"]), place.issuer.token(scope="models.read")
    chat = {"model": "org/secret", "messages": [{"role": "user", "content": "hi"}]}
    assert place.ask("GET", READY, team).status_code == 200
    assert place.ask("GET", READY, reader).status_code == 200
    assert place.ask("POST", "/v1/chat/completions", team, json=chat).status_code == 200
    assert place.ask("POST", "/v1/chat/completions", reader, json=chat).status_code == 404
    assert place.ask("GET", READY, place.gateway.key).status_code == 200, "a key is not asked for claims"
    assert place.ask("DELETE", READY, team).status_code == 405, "who may know is told"
    assert place.ask("GET", "/v2/models/org/secret/versions/v9/ready", team).json()["error"]["code"] == (
        "version_not_found"
    )


REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "path": ("GET", "/models/org/NAME/v2/health/ready", {}),
    "its method": ("DELETE", "/models/org/NAME/v2/health/ready", {}),
    "OIP": ("GET", "/v2/models/org/NAME/ready", {}),
    "a version": ("GET", "/v2/models/org/NAME/versions/v1/ready", {}),
    "TF": ("POST", "/v1/models/org/NAME:predict", {"json": {}}),
    "body": ("POST", "/v1/chat/completions", {"json": {"model": "org/NAME", "messages": []}}),
    "body and version": ("POST", "/v1/chat/completions", {"json": {"model": "org/NAME@v1", "messages": []}}),
    "header": ("POST", "/v1/chat/completions", {"json": {"messages": []}, "headers": {"x-model": "org/NAME"}}),
    "a body too large": ("POST", "/models/org/NAME/v1/completions", {"content": "a" * 2000}),
    "a body that is odd": ("POST", "/models/org/NAME/v1/completions", {"content": '{"x": NaN}'}),
    "header and a body that is odd": (
        "POST",
        "/v1/completions",
        {"content": '{"x": NaN}', "headers": {"x-model": "org/NAME"}},
    ),
    "host and a body that is odd": (
        "POST",
        "/v1/nothing",
        {"content": '{"x": NaN}', "headers": {"host": "NAME.example"}},
    ),
    "host": ("GET", "/v2/health/nothing", {"headers": {"host": "NAME.example"}}),
}


# Differ between any two requests: ids grow, and a connection is closed if a body has not come when it is answered.
CHANGING = ("date", "x-request-id", "content-length", "connection")


@pytest.mark.parametrize("caller", ["nobody", "a stranger's key", "a token without the claim", "a forgery"])
@pytest.mark.parametrize("name", REQUESTS)
def test_to_all_others_a_hidden_model_answers_as_one_that_does_not_exist(name: str, caller: str, place: Place) -> None:
    method, path, options = REQUESTS[name]
    credential = {
        "nobody": None,
        "a stranger's key": place.stranger,
        "a token without the claim": place.issuer.token(groups=["sales"]),
        "a forgery": "gw_forged",
    }[caller]

    def seen(model: str) -> tuple[int, dict[str, str], str]:
        asked = json.loads(json.dumps(options).replace("NAME", model))
        answer = place.ask(method, path.replace("NAME", model), credential, **asked)
        fields = {name: value for name, value in answer.headers.items() if name not in CHANGING}
        return answer.status_code, fields, re.sub(r'"request_id":"[^"]*"', "", answer.text).replace(model, "NAME")

    assert seen("secret") == seen("sekret")
    assert seen("secret")[0] == (400 if name.startswith("host and") else 404), "what no host leads to, a body may name"


def test_nobody_hears_from_a_hidden_model_that_it_waits_for_a_body(place: Place) -> None:
    """It was told to go on, 100, and one that did not was answered as late as 408: a model that is none, at once."""
    for expect in ("Expect: 100-continue\r\n", ""):
        with place.gateway.raw() as client:
            head = "POST /models/org/secret/v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
            client.send(f"{head}{expect}\r\n".encode())
            assert client.read_response().status == 404


def test_a_hidden_models_body_names_a_version_for_who_may_call_it(place: Place) -> None:
    team = place.issuer.token(groups=["ml-team"])
    path = "/models/org/secret/v1/completions"

    def ask(credential: str, **options: Any) -> tuple[int, str]:
        answer = place.ask("POST", path, credential, **options)
        found = answer.json()
        return answer.status_code, found.get("model") or found["error"]["code"]

    assert ask(team, json={"model": "org/secret@v1", "prompt": "hi"}) == (200, "demo")
    assert ask(team, json={"model": "org/secret@v2", "prompt": "hi"}) == (200, "demo"), "no version of it: none"
    narrow = place.gateway.create_key("narrow", "org/secret@v1")
    assert ask(narrow, json={"model": "org/secret@v1", "prompt": "hi"}) == (200, "demo")
    assert ask(team, content='{"x": NaN}') == (400, "bad_request")
    assert ask(team, content="a" * 2000) == (413, "request_too_large")


def test_lists_show_what_the_caller_may_use_and_nothing_else(place: Place) -> None:
    team, other = place.issuer.token(groups=["ml-team"]), place.issuer.token()
    for credential, names in [(team, ["demo", "org/secret"]), (other, ["demo"]), (place.stranger, ["demo"])]:
        models = place.ask("GET", "/v1/models", credential).json()["data"]
        assert [model["id"] for model in models] == names
        index = place.ask("POST", "/v2/repository/index", credential).json()
        assert index == [{"name": name, "version": "v1", "state": "READY"} for name in names]
    assert place.ask("POST", "/v2/repository/index", None).status_code == 401
    assert place.ask("POST", "/v2/repository/index", team, content=b"[").status_code == 400
    assert len(place.ask("POST", "/v2/repository/index", team, json={"ready": True}).json()) == 2
