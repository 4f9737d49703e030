"""Users and passwords over real connections: who gets in, that the file is live, and what a model server sees."""

from base64 import b64encode
from collections.abc import Iterator

import bcrypt
import pytest

from tests.e2e.harness import Gateway, served, temporary_folder, until
from tests.e2e.harness_upstream import RawUpstream, answering


def line(user: str, password: str) -> str:
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering(b"ok")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(upstream: RawUpstream) -> Iterator[Gateway]:
    folder = temporary_folder("gateway-users-")
    (folder / "users").write_text(line("alice", "open: sesame") + line("bob", "näñ"))
    models = {
        "open": served([upstream.url], auth=["basic"]),
        "both": served([upstream.url], auth=["key", "basic"], allow=[{"user": "alice"}]),
        "keyed": served([upstream.url]),
        "hidden": served([upstream.url], auth=["basic"], allow=[{"user": "bob"}], hide=True),
    }
    with Gateway(models, {"auth": {"htpasswd": "users"}, "gateway": {"workers": 2}}, folder=folder) as gateway:
        yield gateway


def status(gateway: Gateway, model: str, user: str, password: str) -> int:
    credential = b64encode(f"{user}:{password}".encode()).decode()
    with gateway.client(headers={"authorization": f"Basic {credential}"}) as client:
        return int(client.get(f"/models/{model}/x" if model else "/v1/models").status_code)


def test_users_get_in_where_they_may_and_their_password_goes_no_further(
    gateway: Gateway, upstream: RawUpstream
) -> None:
    alice, bob = ("alice", "open: sesame"), ("bob", "näñ")
    found = {
        (model, who[0]): status(gateway, model, *who) for model in ("open", "both", "keyed") for who in (alice, bob)
    }
    assert found == {
        ("open", "alice"): 200, ("open", "bob"): 200, ("both", "alice"): 200, ("both", "bob"): 403,
        ("keyed", "alice"): 401, ("keyed", "bob"): 401,
    }  # fmt: skip
    assert status(gateway, "open", "alice", "open") == 401
    assert status(gateway, "open", "mallory", "open: sesame") == 401
    assert all(request.get("authorization") is None for request in upstream.requests)
    with gateway.client() as client:
        assert client.get("/models/both/x").status_code == 200
    assert "sesame" not in gateway.output
    until(lambda: any(entry["principal"] == "htpasswd|alice" for entry in gateway.access_log()), "the log line")


def test_a_hidden_model_and_the_list_of_models_know_users(gateway: Gateway) -> None:
    assert status(gateway, "hidden", "bob", "näñ") == 200
    assert status(gateway, "hidden", "alice", "open: sesame") == 404
    assert status(gateway, "hidden", "bob", "wrong") == 404
    credential = b64encode(b"alice:open: sesame").decode()
    with gateway.client(headers={"authorization": f"Basic {credential}"}) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["open", "both"]


def test_a_change_of_the_file_is_live_and_a_broken_one_changes_nothing(gateway: Gateway) -> None:
    users = gateway.folder / "users"
    before = users.read_text()
    assert status(gateway, "open", "bob", "näñ") == 200
    users.write_text(line("alice", "open: sesame") + line("carol", "new"))
    until(lambda: status(gateway, "open", "carol", "new") == 200, "the new user")
    until(lambda: status(gateway, "open", "bob", "näñ") == 401, "the end of the old one, in both workers")
    users.write_text("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")
    (problem,) = gateway.reload()
    assert "has no hash by bcrypt" in problem
    assert problem.startswith(str(users) + ":1: ")
    assert status(gateway, "open", "carol", "new") == 200
    users.write_text(before)
    assert gateway.reload() == []
