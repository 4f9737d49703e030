"""Keys that are not in a file: read from a URL, changed there, and what happens while nobody answers there."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.control.keys import Wish, editing
from tests.e2e.harness import Gateway, gateway_command, material, served, until
from tests.e2e.harness_decider import Decider, Reply
from tests.e2e.harness_upstream import RawUpstream, answering


class Bucket:
    """A key file at a URL, with an ETag."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_down = False

    def reply(self, asked: dict[str, Any]) -> Reply:
        text = self.path.read_text()
        tag = f'"{hash(text)}"'
        if self.is_down:
            return 500, {}, "trace of stack"
        if asked["headers"].get("if-none-match") == tag:
            return 304, {"etag": tag}, ""
        return 200, {"etag": tag}, text

    def create(self, name: str, *models: str) -> str:
        with editing(self.path, {}) as ring:
            return ring.create(Wish(name, models or ["*"]))[1]


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    bucket = Bucket(tmp_path / "elsewhere.yaml")
    bucket.create("first")
    return bucket


@pytest.fixture
def place(bucket: Bucket) -> Iterator[Decider]:
    with Decider(bucket.reply) as place:
        yield place


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering(b"ok")) as upstream:
        yield upstream


def serve(place: Decider, upstream: RawUpstream) -> Gateway:
    store = {"use": "plugins.keys_from_url.KeysFromURL", "every": "200ms", "url": f"{place.url}/keys.yaml"}
    models = {"iris": served([upstream.url]), "hidden": served([upstream.url], hide=True)}
    return Gateway(models, {"auth": {"key_store": store}, "gateway": {"workers": 2}})


def status(gateway: Gateway, key: str, path: str = "/models/iris/x") -> int:
    with gateway.client(headers={"authorization": f"Bearer {key}"}) as client:
        code: int = client.get(path).status_code
        return code


def everywhere(gateway: Gateway, key: str, wanted: int) -> bool:
    """True once connections, whichever worker has each, are all answered so."""
    return {status(gateway, key) for _ in range(12)} == {wanted}


def test_keys_of_a_store_are_asked_for_and_a_change_counts_in_every_worker(
    bucket: Bucket, place: Decider, upstream: RawUpstream
) -> None:
    bob = bucket.create("bob", "iris")
    with serve(place, upstream) as gateway:
        until(lambda: everywhere(gateway, bob, 200), "the keys of the store")
        assert status(gateway, material()[1]) == 401  # of keys.yaml, which counts no more
        carol = bucket.create("carol", "iris")
        with editing(bucket.path, {}) as ring:
            ring.revoke("bob")
        until(lambda: everywhere(gateway, carol, 200) and everywhere(gateway, bob, 401), "the change")
        assert gateway.reload({**gateway.config["models"], "more": served([upstream.url])}) == []
        assert everywhere(gateway, carol, 200)
        assert {asked["path"] for asked in place.asked} == {"/keys.yaml"}


def test_while_a_store_is_down_its_last_keys_are_good_and_a_metric_tells(
    bucket: Bucket, place: Decider, upstream: RawUpstream
) -> None:
    bob = bucket.create("bob", "iris")
    with serve(place, upstream) as gateway:
        until(lambda: everywhere(gateway, bob, 200), "the keys of the store")
        bucket.is_down = True
        until(lambda: "gateway_key_store_failures 0.0" not in gateway.metrics(), "the metric")
        assert everywhere(gateway, bob, 200)
        assert "trace of stack" not in gateway.output
        text = bucket.path.read_text()
        bucket.path.write_text("keys: oops\n")
        bucket.is_down = False
        asked = len(place.asked)
        until(lambda: len(place.asked) > asked + 2, "the store is asked again")
        assert everywhere(gateway, bob, 200)
        bucket.path.write_text(text)
        until(lambda: "gateway_key_store_failures 0.0" in gateway.metrics(), "the metric, again")
        assert "gateway_key_store_age_seconds" in gateway.metrics()


def test_a_gateway_starts_without_its_store_and_answers_503_until_it_knows(
    bucket: Bucket, place: Decider, upstream: RawUpstream
) -> None:
    bob = bucket.create("bob", "iris")
    bucket.is_down = True
    with serve(place, upstream) as gateway:
        with gateway.client(headers={"authorization": f"Bearer {bob}"}) as client:
            for path in ("/models/iris/x", "/models/hidden/x", "/v1/models"):
                answer = client.get(path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
                assert int(answer.headers["retry-after"]) > 0
        bucket.is_down = False
        until(lambda: everywhere(gateway, bob, 200), "the keys of the store")
        assert status(gateway, bob, "/models/hidden/x") == 404


def test_commands_for_the_file_say_where_the_keys_are(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            gateway_command(*arguments), cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout + done.stderr

    where = 'auth: {key_store: {use: plugins.keys_from_url.KeysFromURL, url: "https://keys.example/"}}\nmodels: {}\n'
    (tmp_path / "routes.yaml").write_text(where)
    code, output = run("keys", "create", "--name", "a", "--models", "*")
    assert (code, "auth.key_store" in output) == (1, True)
    assert run("keys", "create", "--name", "a", "--models", "*", "--file", "k.yaml")[0] == 0
    (tmp_path / "routes.yaml").write_text(where.replace("https", "http"))
    code, output = run("check")
    assert code == 1
    assert "auth.key_store: plugins.keys_from_url.KeysFromURL cannot be made: `url` must be https" in output
