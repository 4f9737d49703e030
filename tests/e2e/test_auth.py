"""Who may call what, over real connections: keys, tokens, grants; and that no credential travels on."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.harness import Gateway, run_gateway, served, until
from tests.e2e.harness_issuer import Issuer
from tests.e2e.harness_upstream import RawUpstream, answering
from tests.e2e.harness_wire import RawMessage

FORGED = "gw_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream(answering(b"ok")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def issuers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Issuer]]:
    """By where the gateway has their keys from."""
    with ExitStack() as stack:
        found = {name: stack.enter_context(Issuer()) for name in ("url", "file", "pem", "stranger")}
        found["stranger"].url = found["url"].url  # says it is the other
        yield found


@pytest.fixture(scope="module")
def gateway(
    upstream: RawUpstream, issuers: dict[str, Issuer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("issuers")
    (folder / "jwks.json").write_text(json.dumps(issuers["file"].documents["/jwks.json"]))
    pem = issuers["pem"].key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "key.pem").write_bytes(pem)
    entries = [
        issuers["url"].entry(claims_to_headers={"sub": "x-user", "groups": "x-groups"}, models_claim="models"),
        issuers["file"].entry(jwks_url=None, jwks_file=str(folder / "jwks.json")),
        issuers["pem"].entry(jwks_url=None, public_key_file=str(folder / "key.pem")),
    ]
    arms = {"v1": {"endpoints": [upstream.url]}, "v2": {"endpoints": [upstream.url]}}
    models: dict[str, Any] = {
        "keyed": served([upstream.url]),
        "jwt": served([upstream.url], auth=["jwt"]),
        "any": served([upstream.url], auth=["key", "jwt"]),
        "public": served([upstream.url], auth=[]),
        "arms": {"versions": arms, "default_version": "v1"},
        "org/one": served([upstream.url], aliases=["short"]),
        "org/two": served([upstream.url]),
    }
    with Gateway(models, {"auth": {"jwt": entries}}) as gateway:
        token = issuers["url"].token(models=["*"])
        until(lambda: ask(gateway, "jwt", bearer(token)).status_code == 200, "the issuer's keys")
        yield gateway


def ask(gateway: Gateway, model: str, fields: dict[str, str] | None = None, **options: Any) -> httpx2.Response:
    with gateway.client(headers=fields or {}) as client:
        return client.get(f"/models/{model}/x", **options)


def bearer(credential: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credential}"}


def told(upstream: RawUpstream) -> RawMessage:
    return upstream.requests[-1]


# --- keys ---


@pytest.mark.parametrize("field", ["authorization", "x-api-key", "api-key"])
@pytest.mark.parametrize("model", ["keyed", "any"])
def test_a_key_is_taken_from_any_of_three_fields_and_goes_no_further(
    gateway: Gateway, upstream: RawUpstream, model: str, field: str
) -> None:
    key = f"bearer {gateway.key}" if field == "authorization" else gateway.key
    answer = ask(gateway, model, {field: key, "x-kept": "1"})
    assert answer.status_code == 200
    request = told(upstream)
    assert gateway.key.encode() not in b"".join(connection.received for connection in upstream.connections)
    assert [request.all(name) for name in ("authorization", "x-api-key", "api-key")] == [[], [], []]
    assert request.get("x-kept") == "1"


@pytest.mark.parametrize("field", ["Authorization: Bearer", "X-API-Key:"])
def test_a_key_with_whitespace_behind_it_is_the_key(gateway: Gateway, field: str) -> None:
    with gateway.raw() as client:
        client.send(f"GET /models/keyed/x HTTP/1.1\r\nHost: a\r\n{field} {gateway.key} \t\r\n\r\n".encode())
        assert client.read_response().status == 200


def test_without_credentials_the_answer_asks_for_them_and_no_more(gateway: Gateway) -> None:
    answer = ask(gateway, "keyed")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_credentials")
    assert answer.headers["www-authenticate"] == 'Bearer realm="models"'


@pytest.mark.parametrize(
    "fields",
    [
        bearer(FORGED),
        {"x-api-key": FORGED},
        {"api-key": ""},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
        bearer("a.b.c"),
        bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."),
    ],
)
@pytest.mark.parametrize("model", ["keyed", "jwt", "any"])
def test_a_credential_that_is_none_is_401_and_nothing_is_forwarded(
    gateway: Gateway, upstream: RawUpstream, model: str, fields: dict[str, str]
) -> None:
    before = len(upstream.requests)
    answer = ask(gateway, model, fields)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="models"')
    assert len(upstream.requests) == before


def test_credentials_that_differ_are_400_and_the_same_twice_is_one(gateway: Gateway) -> None:
    assert ask(gateway, "keyed", {**gateway.headers, "x-api-key": FORGED}).status_code == 400
    assert ask(gateway, "keyed", {**gateway.headers, "x-api-key": gateway.key}).status_code == 200


def test_a_revoked_key_is_refused_within_a_second(gateway: Gateway) -> None:
    key = gateway.create_key("short-lived", "keyed")
    with gateway.client(headers=bearer(key)) as client:
        assert client.get("/models/keyed/x").status_code == 200
        run_gateway("keys", "revoke", "short-lived", folder=gateway.folder)
        began = time.monotonic()
        until(lambda: client.get("/models/keyed/x").status_code == 401, "the key's end")
    assert time.monotonic() - began < 1.5  # a second, and a busy machine


def test_a_new_key_is_good_within_a_second_without_being_told(gateway: Gateway) -> None:
    options = ["--name", "newcomer", "--models", "keyed"]
    key = run_gateway("keys", "create", *options, folder=gateway.folder).strip()
    began = time.monotonic()
    with gateway.client(headers=bearer(key)) as client:
        until(lambda: client.get("/models/keyed/x").status_code == 200, "the key's beginning")
    assert time.monotonic() - began < 1.5


def test_a_public_model_takes_no_gateways_key_along_but_what_is_the_model_servers_own(
    gateway: Gateway, upstream: RawUpstream
) -> None:
    assert ask(gateway, "public", bearer(gateway.key)).status_code == 200
    assert told(upstream).get("authorization") is None
    assert ask(gateway, "public", bearer("hf_abc")).status_code == 200
    assert told(upstream).get("authorization") == "Bearer hf_abc"


# --- tokens ---


@pytest.mark.parametrize("source", ["url", "file", "pem"])
@pytest.mark.parametrize("model", ["jwt", "any"])
def test_a_token_is_proved_by_keys_from_a_url_a_file_or_a_pem(
    gateway: Gateway, upstream: RawUpstream, issuers: dict[str, Issuer], source: str, model: str
) -> None:
    token = issuers[source].token(models=["*"])
    assert ask(gateway, model, bearer(token)).status_code == 200
    assert token.encode() not in b"".join(connection.received for connection in upstream.connections)


def test_a_token_says_who_calls_to_the_model_server_and_nobody_else_can(
    gateway: Gateway, upstream: RawUpstream, issuers: dict[str, Issuer]
) -> None:
    token = issuers["url"].token(models=["*"], groups=["a", "b"])
    ask(gateway, "jwt", {**bearer(token), "x-user": "mallory", "X_Groups": "root", "connection": "x-user"})
    assert (told(upstream).all("x-user"), told(upstream).all("x-groups")) == (["alice"], ["a,b"])
    assert told(upstream).all("x_groups") == []
    ask(gateway, "public", {"x-user": "mallory"})
    assert told(upstream).all("x-user") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"aud": "others"},
        {"aud": None},
        {"iss": "https://stranger.example"},
        {"nbf": 2**40},
        {"sub": ""},
    ],
)
def test_a_token_that_is_not_good_now_and_here_is_401(
    gateway: Gateway, issuers: dict[str, Issuer], changes: dict[str, Any]
) -> None:
    answer = ask(gateway, "any", bearer(issuers["url"].token(models=["*"], **changes)))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="models", error="invalid_token"')


def test_a_token_that_another_signed_is_401(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    assert ask(gateway, "jwt", bearer(issuers["stranger"].token(models=["*"]))).status_code == 401


def test_a_model_takes_only_what_it_says(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    token = issuers["url"].token(models=["*"])
    assert ask(gateway, "keyed", bearer(token)).status_code == 401
    assert ask(gateway, "jwt", gateway.headers).status_code == 401


# --- grants ---


def test_grants_are_for_models_and_versions(gateway: Gateway) -> None:
    key = bearer(gateway.create_key("granted", "arms@v2", "org/*"))
    statuses = {
        target: ask(gateway, target, key).status_code
        for target in ("keyed", "arms", "arms/versions/v1", "arms/versions/v2", "org/one", "org/two", "short")
    }
    assert statuses == {
        "keyed": 403,
        "arms": 200,
        "arms/versions/v1": 403,
        "arms/versions/v2": 200,
        "org/one": 200,
        "org/two": 200,
        "short": 200,
    }


def test_who_may_call_one_version_only_is_given_that_one(gateway: Gateway) -> None:
    key = gateway.create_key("second", "arms@v2")
    answer = ask(gateway, "arms", bearer(key))
    request_id = answer.headers["x-request-id"]
    line = until(lambda: [x for x in gateway.access_log() if x["request_id"] == request_id], "the log line")[0]
    assert (line["version"], line["principal_name"]) == ("v2", "second")


def test_a_tokens_claim_grants_models(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    def status(model: str, **claims: Any) -> int:
        return int(ask(gateway, model, bearer(issuers["url"].token(**claims))).status_code)

    assert status("any", models=["jwt"]) == 403
    assert status("jwt", models=["jwt"]) == 200
    assert status("any", models="jwt any") == 200
    assert status("any") == 403, "no claim grants nothing"


def test_a_model_that_is_not_allowed_and_one_that_does_not_exist_can_be_told_apart_by_status_only(
    gateway: Gateway,
) -> None:
    key = bearer(gateway.create_key("narrow", "keyed"))
    assert ask(gateway, "arms", key).json()["error"]["code"] == "forbidden"
    assert ask(gateway, "nobody", key).json()["error"]["code"] == "model_not_found"


def test_a_refusal_names_its_caller_in_the_log_and_no_credential(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    key = gateway.create_key("logged", "keyed")
    token = issuers["url"].token(models=[])
    for credential in (key, token):
        request_id = ask(gateway, "any", bearer(credential)).headers["x-request-id"]
        line = until(lambda: line_of(gateway, request_id), "the log line")  # noqa: B023  called at once
        assert (line["status"], line["error_code"]) == (403, "forbidden")
        assert line["principal"]
    assert key not in gateway.output
    assert token not in gateway.output


def line_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    return next((line for line in gateway.access_log() if line["request_id"] == request_id), {})


def test_a_key_file_that_is_damaged_changes_nothing(gateway: Gateway, tmp_path: Path) -> None:
    file = gateway.folder / "keys.yaml"
    good = file.read_text()
    file.write_text(good + "\n  - broken: [\n")
    try:
        assert gateway.reload() != []
        assert ask(gateway, "keyed", gateway.headers).status_code == 200
    finally:
        file.write_text(good)
        assert gateway.reload() == []
