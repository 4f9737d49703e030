"""The stand-in model server: what the gateway's own tests rely on."""

import asyncio
import base64
import json
import struct
from typing import Any

import httpx2
import pytest

from gateway.demo.app import build
from gateway.demo.wire import Demo

USER = [{"role": "user", "content": "one two"}]


def ask(path: str, body: Any = None, *, method: str = "POST", name: str = "demo", **options: Any) -> httpx2.Response:
    async def call() -> httpx2.Response:
        transport = httpx2.ASGITransport(build(Demo(name, "v3")), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://demo") as client:
            return await client.request(method, path, json=body, **options)

    return asyncio.run(call())


def events(answer: httpx2.Response) -> list[Any]:
    """The data of an event stream, which must end with [DONE]."""
    *data, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(item.removeprefix("data: ")) for item in data]


def test_every_answer_says_who_gave_it() -> None:
    for path in ("/v1/models", "/v2", "/anything", "/v1/nothing"):
        assert ask(path, method="GET").headers["x-demo-model"] == "demo@v3"


def test_a_chat_answer_repeats_what_was_said_and_counts_it() -> None:
    answer = ask("/v1/chat/completions", {"model": "demo", "messages": USER}).json()
    assert answer["choices"][0]["message"]["content"] == "demo@v3 here. You said: one two"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8}
    assert answer["system_fingerprint"] == "demo@v3"


@pytest.mark.parametrize("with_usage", [True, False])
def test_a_streamed_chat_says_the_same_in_pieces(with_usage: bool) -> None:
    body = {"model": "demo", "messages": USER, "stream": True, "stream_options": {"include_usage": with_usage}}
    answer = ask("/v1/chat/completions", body)
    chunks = events(answer)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")] == ([8] if with_usage else [])
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert [delta["role"] for delta in deltas if "role" in delta] == ["assistant"]
    assert "".join(delta.get("content", "") for delta in deltas) == "demo@v3 here. You said: one two"
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-2:] == [None, "stop"]


def test_max_tokens_cuts_an_answer_short_and_ignore_eos_makes_it_that_long() -> None:
    for options, count, finish in (({"max_tokens": 2}, 2, "length"), ({"max_tokens": 99}, 6, "stop")):
        answer = ask("/v1/chat/completions", {"model": "demo", "messages": USER, **options}).json()
        assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (count, finish)
    long = ask("/v1/completions", {"model": "demo", "prompt": "a", "max_tokens": 50, "ignore_eos": True}).json()
    assert long["usage"]["completion_tokens"] == 50


def test_a_text_completion_is_streamed_too() -> None:
    chunks = events(ask("/v1/completions", {"model": "demo", "prompt": "a b", "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "demo@v3 continues: a b"


def test_equal_texts_have_equal_embeddings_in_both_encodings() -> None:
    plain = ask("/v1/embeddings", {"model": "demo", "input": ["a", "b", "a"], "dimensions": 4}).json()["data"]
    first, second, third = (item["embedding"] for item in plain)
    assert first == third != second
    assert sum(x * x for x in first) == pytest.approx(1)
    packed = ask("/v1/embeddings", {"model": "demo", "input": "a", "dimensions": 4, "encoding_format": "base64"}).json()
    assert struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"])) == pytest.approx(first)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", {"model": "other", "messages": USER}, 404, "model_not_found"),
        ("/v1/chat/completions", {"model": "demo", "messages": []}, 400, None),
        ("/v1/chat/completions", {"model": "demo", "messages": USER, "n": 2}, 400, None),
        ("/v1/chat/completions", {"messages": USER}, 400, None),
        ("/v1/chat/completions", [], 400, None),
        ("/v1/embeddings", {"model": "demo", "input": []}, 400, None),
        ("/v1/models/demo:predict", {"instances": ["a"]}, 400, None),
        ("/v1/models/demo/versions/v9:predict", {"instances": []}, 404, "version_not_found"),
        ("/v1/nothing", {}, 404, None),
    ],
)
def test_a_bad_request_is_refused_in_the_shape_of_the_openai_api(path: str, body: Any, status: int, code: str) -> None:
    answer = ask(path, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error["message"]


def tensor(*data: Any, shape: list[int] | None = None, datatype: str = "FP64") -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": shape or [len(data)], "datatype": datatype, "data": list(data)}]}


@pytest.mark.parametrize("path", ["/v2/models/{}/infer", "/v2/models/{}/versions/v3/infer"])
@pytest.mark.parametrize("name", ["demo", "org/demo"])
def test_a_tensor_comes_back_multiplied_by_the_number_of_the_version(path: str, name: str) -> None:
    answer = ask(path.format(name), tensor(1, 2.5), name=name).json()
    assert (answer["model_name"], answer["model_version"]) == (name, "v3")
    assert answer["outputs"] == [{"name": "x", "shape": [2], "datatype": "FP64", "data": [3, 7.5]}]


def test_a_nested_tensor_is_the_same_as_a_flat_one() -> None:
    answer = ask("/v2/models/demo/infer", tensor([1, 2], [3, 4], shape=[2, 2])).json()
    assert answer["outputs"][0]["data"] == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (tensor(1, shape=[2]), "do not fill the shape"),
        (tensor("a"), "not every value"),
        (tensor(True), "not every value"),
        (tensor(1.5, datatype="INT8"), "not every value"),
        (tensor("a", datatype="BYTES"), "not numeric"),
        ({}, "cannot be understood"),
    ],
)
def test_a_bad_tensor_is_refused_in_the_shape_of_the_inference_protocol(body: Any, what: str) -> None:
    answer = ask("/v2/models/demo/infer", body)
    assert answer.status_code == 400
    assert what in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/health/other", 404),
        ("/v2/models/demo/ready", 200),
        ("/v2/models/demo/versions/v3/ready", 200),
        ("/v2/models/demo/versions/v3", 200),
        ("/v2/models/demo/versions/v4/ready", 404),
        ("/v2/models/other", 404),
    ],
)
def test_health_and_metadata_know_this_model_and_version_only(path: str, status: int) -> None:
    assert ask(path, method="GET").status_code == status


def test_tensorflow_servings_predict_multiplies_nested_instances() -> None:
    for path in ("/v1/models/demo:predict", "/v1/models/demo/versions/v3:predict"):
        assert ask(path, {"instances": [[1, 2], 3]}).json() == {"predictions": [[3, 6], 9]}


def test_anything_else_is_echoed_byte_for_byte_in_the_path() -> None:
    answer = ask("/a%2Fb/c", {"k": 1}, params={"q": "1"}, headers={"x-a": "b"}).json()
    assert (answer["method"], answer["path"], answer["query"]) == ("POST", "/a%2Fb/c", "q=1")
    assert ["x-a", "b"] in answer["headers"]
    assert json.loads(answer["body"]) == {"k": 1}
