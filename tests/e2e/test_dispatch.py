"""Which model, version and endpoint a request reaches, by what it says itself, and what the model server is told."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from tests.e2e.harness import Gateway, until
from tests.e2e.harness_upstream import Connection, RawUpstream, Script, response

NAMES = ["iris1", "iris2", "fp8", "fp16", "org", "site", "tools", "docs", "a", "b", "c"]


def reporting(name: str) -> Script:
    """Answers with its name and what it was asked."""

    def script(connection: Connection) -> None:
        while True:
            request = connection.read_request()
            report = {"by": name, "target": request.target, "body": request.body.decode()}
            connection.send(response(json.dumps(report | {"fields": dict(decoded(request.fields))}).encode()))

    return script


def decoded(fields: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode("latin-1")) for name, value in fields]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with ExitStack() as stack:
        url = {name: stack.enter_context(RawUpstream(reporting(name))).url for name in NAMES}

        def arm(name: str, **options: Any) -> dict[str, Any]:
            return {"endpoints": [url[name]], **options}

        public: dict[str, Any] = {"auth": []}
        models = {
            "iris": public | {"default_version": "v1", "versions": {"v1": arm("iris1"), "v2": arm("iris2")}},
            "org/llama-3": public
            | {
                "aliases": ["llama", "gpt-4o-mini"],
                "default_version": "fp8",
                "versions": {
                    "fp8": arm("fp8", served_as={"model": "llama-fp8"}),
                    "fp16": arm("fp16", served_as={"model": "Llama 16", "version": "7"}),
                },
            },
            "org": public | {"versions": {"v1": arm("org")}},
            "site": public
            | {
                "match": [{"host": "Site.example.com"}, {"host": "all.example.com", "prefix": "/site"}],
                "default_version": "v1",
                "versions": {"v1": arm("site"), "v2": arm("a")},
            },
            "tools": public | {"match": [{"prefix": "/tools"}], "versions": {"v1": arm("tools")}, "methods": ["GET"]},
            "tools/deep": public | {"match": [{"prefix": "/tools/deep"}], "versions": {"v1": arm("docs")}},
            "shared": public | {"versions": {"v1": arm("a", weight=75), "v2": arm("b", weight=25), "v3": arm("c")}},
            "last": public | {"versions": {"v1": arm("a"), "v2": arm("b")}},
            "prefixed": public | {"versions": {"v1": {"endpoints": [url["c"] + "/base/path"]}}},
            "locked": {"versions": {"v1": arm("a")}},
            "secret": {"versions": {"v1": arm("a"), "v2": arm("b")}},
        }
        with Gateway(models) as gateway:
            yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx2.Client]:
    with gateway.client(headers={}) as client:
        yield client


def ask(client: httpx2.Client, method: str, target: str, **options: Any) -> dict[str, Any]:
    answer = client.request(method, target, **options)
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    return report


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- the path names the model ---


@pytest.mark.parametrize(
    ("target", "by", "upstream_target"),
    [
        # /models/{name}/…: the rest goes upstream
        ("/models/iris", "iris1", "/"),
        ("/models/iris/", "iris1", "/"),
        ("/models/iris/generate?x=1&y=%20", "iris1", "/generate?x=1&y=%20"),
        ("/models/iris/versions/v2/generate", "iris2", "/generate"),
        ("/models/iris/versions/v2", "iris2", "/"),
        ("/models/iris/versions", "iris1", "/versions"),
        ("/models/iris/a%2Fb/c", "iris1", "/a%2Fb/c"),
        ("/models/org/llama-3/generate", "fp8", "/generate"),
        ("/models/org%2Fllama-3/generate", "fp8", "/generate"),
        ("/models/org%2fllama-3/versions/fp16/generate", "fp16", "/generate"),
        ("/models/llama/versions/fp16/generate", "fp16", "/generate"),
        ("/models/%69ris/generate", "iris1", "/generate"),
        ("/models/org/generate", "org", "/generate"),
        ("/models/org/llama-4/generate", "org", "/llama-4/generate"),
        ("/models//iris/./x/../generate", "iris1", "/generate"),
        ("/models/prefixed/generate", "c", "/base/path/generate"),
        # Open Inference Protocol: as it came, but for the names that the upstream knows
        ("/v2/models/iris", "iris1", "/v2/models/iris"),
        ("/v2/models/iris/infer", "iris1", "/v2/models/iris/infer"),
        ("/v2/models/iris/versions/v2/infer", "iris2", "/v2/models/iris/versions/v2/infer"),
        ("/v2/models/iris/versions/v2/ready", "iris2", "/v2/models/iris/versions/v2/ready"),
        ("/v2/models/org/llama-3/infer", "fp8", "/v2/models/llama-fp8/infer"),
        ("/v2/models/org%2Fllama-3/infer", "fp8", "/v2/models/llama-fp8/infer"),
        ("/v2/models/llama/infer?a=b", "fp8", "/v2/models/llama-fp8/infer?a=b"),
        ("/v2/models/llama/versions/fp8/infer", "fp8", "/v2/models/llama-fp8/versions/fp8/infer"),
        ("/v2/models/llama/versions/fp16/infer", "fp16", "/v2/models/Llama%2016/versions/7/infer"),
        # TensorFlow Serving
        ("/v1/models/iris:predict", "iris1", "/v1/models/iris:predict"),
        ("/v1/models/iris/versions/v2:predict", "iris2", "/v1/models/iris/versions/v2:predict"),
        ("/v1/models/iris/versions/v2/metadata", "iris2", "/v1/models/iris/versions/v2/metadata"),
        ("/v1/models/org/llama-3:classify", "fp8", "/v1/models/llama-fp8:classify"),
        ("/v1/models/llama/versions/fp16:regress", "fp16", "/v1/models/Llama%2016/versions/7:regress"),
        ("/v1/models/iris", "iris1", "/v1/models/iris"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_names_model_and_version(
    gateway: Gateway, method: str, target: str, by: str, upstream_target: str
) -> None:
    with gateway.raw() as client:  # a client that does not tidy paths up itself
        client.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
        report = json.loads(client.read_response().body)
    assert (report["by"], report["target"]) == (by, upstream_target)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/models/nobody/x", "model_not_found"),
        ("/models/", "model_not_found"),
        ("/models/IRIS/x", "model_not_found"),
        ("/models/iris/versions/v9/x", "version_not_found"),
        ("/v2/models/nobody/infer", "model_not_found"),
        ("/v2/models/iris/versions/v9/infer", "version_not_found"),
        ("/v1/models/nobody:predict", "model_not_found"),
        ("/v1/models/iris/versions/v9:predict", "version_not_found"),
        ("/nothing", "not_found"),
        ("/", "not_found"),
        ("/v1", "not_found"),
        ("/v2/nothing", "not_found"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_served_is_404_and_says_what_is_missing(
    client: httpx2.Client, method: str, target: str, code: str
) -> None:
    assert code_of(client.request(method, target)) == (404, code)


# --- the body names the model ---


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"])
@pytest.mark.parametrize(
    ("named", "by", "told"),
    [
        ("iris", "iris1", "iris"),
        ("iris@v2", "iris2", "iris"),
        ("org/llama-3", "fp8", "llama-fp8"),
        ("org/llama-3@fp16", "fp16", "Llama 16"),
        ("gpt-4o-mini", "fp8", "llama-fp8"),
        ("llama@fp16", "fp16", "Llama 16"),
    ],
)
def test_an_openai_body_names_model_and_version_and_the_upstream_gets_a_name_it_knows(
    client: httpx2.Client, target: str, named: str, by: str, told: str
) -> None:
    report = ask(client, "POST", target, json={"n": 1, "model": named, "messages": [{"content": "é\u0000"}]})
    assert (report["by"], report["target"]) == (by, target)
    assert json.loads(report["body"]) == {"n": 1, "model": told, "messages": [{"content": "é\u0000"}]}
    assert int(report["fields"]["content-length"]) == len(report["body"].encode())


def test_a_body_that_needs_no_other_name_goes_on_byte_for_byte(client: httpx2.Client) -> None:
    body = b'{ "model" : "iris", "x": 1.0,"x": 1e400, "big": 123456789012345678901234567890, "u": "\\u00e9"}'
    assert ask(client, "POST", "/v1/completions", content=body)["body"] == body.decode()


def test_a_renamed_body_keeps_the_bytes_of_everything_else(client: httpx2.Client) -> None:
    body = b'{"x": 1.0, "big": 123456789012345678901234567890, "u": "\\u00e9", "model": "llama"}'
    told = ask(client, "POST", "/v1/completions", content=body)["body"]
    for part in ("1.0", "123456789012345678901234567890", '"\\u00e9"', '"llama-fp8"'):
        assert part in told


def test_a_body_that_comes_in_pieces_names_its_model_all_the_same(gateway: Gateway) -> None:
    with gateway.raw() as client:
        client.send(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.drip(b'd\r\n{"model":"iri\r\n6\r\ns@v2"}\r\n0\r\n\r\n', every=0.002)
        assert json.loads(client.read_response().body)["by"] == "iris2"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"model": "nobody"}', 404, "model_not_found"),
        (b'{"model": "nobody@v1"}', 404, "model_not_found"),
        (b'{"model": "iris@v9"}', 404, "version_not_found"),
        (b'{"model": "iris@"}', 404, "model_not_found"),
        (b'{"model": "@v1"}', 404, "model_not_found"),
        (b'{"model": ""}', 400, "bad_request"),
        (b'{"model": null}', 400, "bad_request"),
        (b'{"model": 7}', 400, "bad_request"),
        (b'{"models": "iris"}', 400, "bad_request"),
        (b"[]", 400, "bad_request"),
        (b"", 400, "bad_request"),
        (b'{"model": "iris"', 400, "bad_request"),
        (b"\xff\xfe", 400, "bad_request"),
        (b'{"model": "\xff"}', 400, "bad_request"),
        (b'{"model": "llama", "\xff": 1}', 400, "bad_request"),
        (b"[" * 100_000, 400, "bad_request"),
        (b'{"model": "llama", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "bad_request"),
    ],
)
def test_a_body_that_names_nothing_known_is_refused(client: httpx2.Client, body: bytes, status: int, code: str) -> None:
    assert code_of(client.post("/v1/chat/completions", content=body)) == (status, code)


def test_a_compressed_body_that_would_have_to_be_renamed_is_refused(client: httpx2.Client) -> None:
    answer = client.post(
        "/v1/chat/completions", content=b'{"model": "llama"}', headers={"content-encoding": "identity2"}
    )
    assert code_of(answer) == (400, "bad_request")


def test_an_openai_path_behind_a_models_name_takes_the_version_from_its_body(client: httpx2.Client) -> None:
    report = ask(client, "POST", "/models/iris/v1/completions", json={"model": "iris@v2"})
    assert (report["by"], report["target"], json.loads(report["body"])) == (
        "iris2",
        "/v1/completions",
        {"model": "iris"},
    )


# --- headers name the model ---


@pytest.mark.parametrize(
    ("fields", "by"),
    [
        ({"x-model": "iris"}, "iris1"),
        ({"x-model": "iris", "x-model-version": "v2"}, "iris2"),
        ({"x-model": "iris@v2"}, "iris2"),
        ({"x-model": "iris@v1", "x-model-version": "v2"}, "iris2"),
        ({"x-model": "llama"}, "fp8"),
        ({"x-model": "org/llama-3", "x-model-version": "fp16"}, "fp16"),
    ],
)
def test_headers_name_model_and_version_of_any_request(client: httpx2.Client, fields: dict[str, str], by: str) -> None:
    report = ask(client, "GET", "/any/path?x=1", headers=fields)
    assert (report["by"], report["target"]) == (by, "/any/path?x=1")
    assert not {"x-model", "x-model-version"} & set(report["fields"])


def test_headers_win_over_the_body_and_the_body_is_made_to_agree(client: httpx2.Client) -> None:
    for fields, by in (({"x-model": "iris"}, "iris1"), ({"x-model": "iris", "x-model-version": "v2"}, "iris2")):
        report = ask(client, "POST", "/v1/completions", json={"model": "org@v1"}, headers=fields)
        assert (report["by"], json.loads(report["body"])) == (by, {"model": "iris"})


def test_a_header_adds_a_version_to_the_model_that_a_body_names(client: httpx2.Client) -> None:
    report = ask(client, "POST", "/v1/completions", json={"model": "iris@v1"}, headers={"x-model-version": "v2"})
    assert report["by"] == "iris2"


@pytest.mark.parametrize(
    ("target", "fields", "by", "upstream_target"),
    [
        ("/v2/models/iris/infer", {"x-model-version": "v2"}, "iris2", "/v2/models/iris/infer"),
        (
            "/v2/models/iris/versions/v1/infer",
            {"x-model-version": "v2"},
            "iris2",
            "/v2/models/iris/versions/v2/infer",
        ),
        ("/v2/models/org/infer", {"x-model": "iris"}, "iris1", "/v2/models/iris/infer"),
        ("/models/org/x", {"x-model": "iris"}, "iris1", "/x"),
        ("/models/iris/versions/v1/x", {"x-model-version": "v2"}, "iris2", "/x"),
        ("/v2/models/unknown/infer", {"x-model": "iris"}, "iris1", "/v2/models/unknown/infer"),
    ],
)
def test_headers_win_over_the_path(
    client: httpx2.Client, target: str, fields: dict[str, str], by: str, upstream_target: str
) -> None:
    report = ask(client, "POST", target, headers=fields)
    assert (report["by"], report["target"]) == (by, upstream_target)


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"x-model": "nobody"}, 404, "model_not_found"),
        ({"x-model": "iris", "x-model-version": "v9"}, 404, "version_not_found"),
        ({"x-model": "iris@v9"}, 404, "version_not_found"),
        ({"x-model": b"\xff\xfe"}, 400, "bad_request"),
    ],
)
def test_headers_that_name_nothing_known_are_refused(
    client: httpx2.Client, fields: dict[str, Any], status: int, code: str
) -> None:
    assert code_of(client.get("/models/iris/x", headers=fields)) == (status, code)


# --- hosts and prefixes ---


@pytest.mark.parametrize(
    ("host", "target", "by"),
    [
        ("site.example.com", "/any", "site"),
        ("SITE.example.com:8443", "/any", "site"),
        ("site.example.com.", "/any", "site"),
        ("all.example.com", "/site/x", "site"),
        ("all.example.com", "/site", "site"),
        ("localhost", "/tools/x", "tools"),
        ("localhost", "/tools", "tools"),
        ("localhost", "/tools/deep/x", "docs"),
        ("localhost", "/tools/deeper", "tools"),
        ("site.example.com", "/tools/x", "site"),
    ],
)
def test_a_host_and_a_prefix_reach_a_model_and_the_path_stays(
    client: httpx2.Client, host: str, target: str, by: str
) -> None:
    report = ask(client, "GET", target, headers={"host": host})
    assert (report["by"], report["target"]) == (by, target)


@pytest.mark.parametrize(
    ("host", "target"),
    [("localhost", "/toolsx"), ("all.example.com", "/other"), ("other.example.com", "/site"), ("localhost", "/any")],
)
def test_a_host_or_prefix_of_nobody_is_404(client: httpx2.Client, host: str, target: str) -> None:
    assert code_of(client.get(target, headers={"host": host})) == (404, "not_found")


def test_a_host_of_a_model_takes_a_version_from_an_openai_body(client: httpx2.Client) -> None:
    fields = {"host": "site.example.com"}
    assert ask(client, "POST", "/v1/completions", json={"model": "whatever"}, headers=fields)["by"] == "site"
    assert ask(client, "POST", "/v1/completions", json={"model": "site@v2"}, headers=fields)["by"] == "a"


def test_a_method_that_is_not_allowed_is_405_and_says_which_are(client: httpx2.Client) -> None:
    answer = client.post("/tools/x")
    assert (*code_of(answer), answer.headers["allow"]) == (405, "method_not_allowed", "GET")


# --- versions that nobody named ---


def test_weights_split_what_names_no_version(client: httpx2.Client) -> None:
    count = 600
    seen = Counter(ask(client, "GET", "/models/shared/x")["by"] for _ in range(count))
    assert set(seen) == {"a", "b"}
    # 150 expected, standard deviation 10.6: 60 away happens once in 10^8 runs.
    assert abs(seen["b"] - count / 4) < 60, seen


def test_a_version_without_a_share_is_reached_by_its_name(client: httpx2.Client) -> None:
    assert ask(client, "GET", "/models/shared/versions/v3/x")["by"] == "c"


def test_without_weights_and_default_the_last_version_serves(client: httpx2.Client) -> None:
    assert ask(client, "GET", "/models/last/x")["by"] == "b"


# --- what the gateway itself answers ---


def names(answer: httpx2.Response) -> dict[str, list[str]]:
    assert answer.status_code == 200, answer.text
    return {model["id"]: model["versions"] for model in answer.json()["data"]}


def test_models_are_listed_for_who_asks(gateway: Gateway, client: httpx2.Client) -> None:
    public = names(client.get("/v1/models"))
    assert public["iris"] == ["v1", "v2"]
    assert not {"locked", "secret"} & set(public)
    everything = names(client.get("/v1/models", headers=gateway.headers))
    assert set(everything) == set(public) | {"locked", "secret"}
    some = gateway.create_key("some", "secret@v2")
    restricted = names(client.get("/v1/models", headers={"x-api-key": some}))
    assert (restricted["secret"], "locked" in restricted, "iris" in restricted) == (["v2"], False, True)


def test_the_list_of_models_is_openais(client: httpx2.Client) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    llama = next(model for model in listed["data"] if model["id"] == "org/llama-3")
    assert (llama["object"], llama["aliases"]) == ("model", ["llama", "gpt-4o-mini"])
    assert {"created", "owned_by"} <= set(llama)


def test_a_bad_key_is_told_so_and_not_shown_a_list(client: httpx2.Client) -> None:
    answer = client.get("/v1/models", headers={"x-api-key": "gw_nonsense"})
    assert code_of(answer) == (401, "invalid_credentials")
    assert "invalid_token" in answer.headers["www-authenticate"]


def test_the_list_takes_get_and_head_only(client: httpx2.Client) -> None:
    assert client.head("/v1/models").content == b""
    answer = client.post("/v1/models")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2", {"name": "gateway", "version": "", "extensions": []}),
    ],
)
def test_the_inference_protocols_own_paths_are_answered_here(
    client: httpx2.Client, target: str, body: dict[str, Any]
) -> None:
    answer = client.get(target)
    assert (answer.status_code, answer.json()) == (200, body)
    assert answer.headers["x-request-id"]
    assert client.post(target).status_code == 405


def test_the_log_says_which_model_version_and_endpoint_served(gateway: Gateway, client: httpx2.Client) -> None:
    answer = client.post("/v1/completions", json={"model": "llama@fp16"})
    request_id = answer.headers["x-request-id"]
    line = until(lambda: [x for x in gateway.access_log() if x["request_id"] == request_id], "the log line")[0]
    assert (line["model"], line["version"], line["path"]) == ("org/llama-3", "fp16", "/v1/completions")
    assert line["endpoint"].startswith("http://127.0.0.1:")
