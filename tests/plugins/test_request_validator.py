"""Which bodies reach a model server."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest, ClientError, TooLarge, Unprocessable, UnsupportedMedia
from plugins.request_validator import RequestValidator
from tests.plugins.driver import Model, asked

CHAT = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {
            "type": "array",
            "items": {"properties": {"role": {"enum": ["user", "system"]}, "odd name": {"type": "string"}}},
        },
        "temperature": {"type": "number", "maximum": 2},
        "user": {"type": "string", "pattern": "^[a-z]+$"},
    },
}
JSON = {"content-type": "application/json"}


def refused(body: bytes | Any, headers: dict[str, str] | None = None, **options: Any) -> ClientError | None:
    """The error that the client gets; None if its body reached the model, unchanged."""
    model = Model()
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        asked(RequestValidator(model, **options), raw, headers or JSON, parts=2)
    except ClientError as error:
        assert not model.requests
        return error
    assert model.requests == [raw]
    return None


def test_a_body_that_keeps_the_rules_reaches_the_model_unchanged() -> None:
    body = b' {"messages": [{"role": "user"}],\n "temperature": 1.5e0, "user": "ann"} '
    assert refused(body, schema=CHAT, required=["messages"], max_tokens_cap=5) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, '$: "messages" is a required property'),
        ({"messages": {}}, '$.messages: the value is not of type "array"'),
        ({"messages": [{}, {"role": "boss"}]}, '$.messages[1].role: the value is not one of "user" or "system"'),
        ({"messages": [{"odd name": 1}]}, '$.messages[0]["odd name"]: the value is not of type "string"'),
        ({"messages": [], "temperature": 3}, "$.temperature: the value is greater than the maximum of 2"),
        ({"messages": [], "user": "Ann"}, '$.user: the value does not match "^[a-z]+$"'),
        ([], '$: the value is not of type "object"'),
    ],
)
def test_the_place_of_the_offence_is_named(body: Any, message: str) -> None:
    error = refused(body, schema=CHAT)
    assert isinstance(error, Unprocessable)
    assert (error.status, str(error)) == (422, message)


def test_a_message_repeats_nothing_secret_and_not_much_of_anything() -> None:
    secret = refused({"messages": [{"role": "s3cret"}]}, schema=CHAT)
    assert "s3cret" not in str(secret)
    long = refused({"x" * 5000: 1}, schema={"properties": {"a": {}}, "additionalProperties": False})
    assert len(str(long)) == 300


def test_required_members_are_named() -> None:
    error = refused({"model": "a", "input": None}, required=["model", "input", "user id"])
    assert isinstance(error, Unprocessable)
    assert str(error) == '$["user id"]: is required'
    assert isinstance(refused([], required=["model"]), Unprocessable)


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 11},
        {"max_completion_tokens": 11},
        {"max_output_tokens": 11},
        {"max_new_tokens": 11},
        {"parameters": {"max_new_tokens": 11}},
        {"options": {"num_predict": 11}},
        {"n_predict": -1},
        {"max_tokens": "5"},
        {"max_tokens": 5.0},
        {"max_tokens": True},
        {"max_tokens": [5]},
        {"max_tokens": 5, "max_completion_tokens": 10**30},
    ],
)
def test_more_tokens_than_the_cap_are_refused_by_whatever_name_they_go(body: dict[str, Any]) -> None:
    error = refused(body, max_tokens_cap=10)
    assert isinstance(error, Unprocessable)
    assert "must be a whole number from 0 to 10" in str(error)
    assert refused(body) is None


@pytest.mark.parametrize("body", [{}, {"max_tokens": 10}, {"max_tokens": 0}, {"max_tokens": None}, {"parameters": 3}])
def test_tokens_within_the_cap_are_not(body: dict[str, Any]) -> None:
    assert refused(body, max_tokens_cap=10) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"max_tokens": 1, "max_tokens": 99}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": "\\ud800"}',
        b'{"\\uDFFF": 1}',
        b'{"a": %s}' % (b"1" * 5000),
        b"[" * 100_000,
        b"[" * 129 + b"]" * 129,
        b'{"a":' * 200 + b"1" + b"}" * 200,
    ],
)
def test_what_parsers_could_read_differently_or_not_at_all_is_refused(body: bytes) -> None:
    error = refused(body, schema={})
    assert isinstance(error, BadRequest)
    assert len(str(error)) <= 300
    str(error).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 128 + b"]" * 128,
        b'{"a": "\\ud83d\\ude00 \\\\ud800"}',
        b'[{"a": 1}, {"a": 2}]',
        b"[%s[]]" % (b"[]," * 500),
    ],
)
def test_what_only_looks_like_it_is_not(body: bytes) -> None:
    assert refused(body, schema={}) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_any_json_value_is_answered_one_way_or_the_other(value: Any) -> None:
    error = refused(value, schema=CHAT, max_tokens_cap=1)
    assert error is None or error.status in (400, 422)


@pytest.mark.parametrize(
    ("headers", "is_accepted"),
    [
        ({"content-type": "application/json; charset=utf-8"}, True),
        ({"content-type": "Application/JSON"}, True),
        ({"content-type": "application/json", "content-encoding": "identity"}, True),
        ({"content-type": "application/json", "content-encoding": "gzip"}, False),
        ({"content-type": "text/plain"}, False),
        ({"content-type": "application/x-www-form-urlencoded"}, False),
        ({"x": "no type at all"}, False),
    ],
)
def test_only_bodies_of_the_accepted_kind_pass(headers: dict[str, str], is_accepted: bool) -> None:
    error = refused({}, headers)
    assert isinstance(error, UnsupportedMedia) is not is_accepted
    assert error is None or error.status == 415


def test_two_content_types_are_none() -> None:
    fields = [(b"content-type", b"application/json"), (b"content-type", b"text/plain")]
    layer = RequestValidator(Model(), content_types=["application/json", "text/plain"], required=["a"])
    with pytest.raises(UnsupportedMedia):
        asked(layer, b"{}", fields)


def test_other_accepted_kinds_pass_unread() -> None:
    options: dict[str, Any] = {"content_types": ["application/json", "Multipart/Form-Data"], "required": ["a"]}
    assert refused(b"--x", {"content-type": "multipart/form-data; boundary=x"}, **options) is None
    assert isinstance(refused(b"--x", JSON, **options), BadRequest)
    json_too = {"content_types": ["application/vnd.api+json"], "required": ["a"]}
    assert isinstance(refused({}, {"content-type": "application/vnd.api+json"}, **json_too), Unprocessable)


def test_a_body_beyond_the_bound_is_too_large() -> None:
    error = refused(b'"' + b"x" * 100 + b'"', max_bytes=100)
    assert isinstance(error, TooLarge)
    assert refused(b'"' + b"x" * 98 + b'"', max_bytes=100) is None


def test_requests_without_a_body_are_not_asked_for_one() -> None:
    layer = RequestValidator(Model(), required=["a"])
    assert asked(layer, method="GET").status == 200
    assert asked(layer, b"", {"content-length": "0"}, method="DELETE").status == 200
    with pytest.raises(UnsupportedMedia):
        asked(layer, b"", {"transfer-encoding": "chunked"}, method="GET")
    with pytest.raises(BadRequest):
        asked(layer, b"", JSON, method="POST")


def test_a_schema_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(CHAT))
    assert isinstance(refused({}, schema=str(path)), Unprocessable)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schema": {"properties": {"a": {"type": "objekt"}}}}, "`schema`: $.properties.a.type: "),
        ({"schema": {"$ref": "http://127.0.0.1:9/schema.json"}}, "Retrieval is disabled"),
        ({"schema": {"$ref": "file:///etc/passwd"}}, "Retrieval is disabled"),
        ({"schema": {"pattern": "(?=a)"}}, "`schema`: $.pattern: "),
        ({"schema": "/no/such/file.json"}, "cannot read /no/such/file.json: No such file"),
        ({"schema": __file__}, "is not JSON"),
        ({"schema": 3}, "`schema` must be"),
        ({"required": "model"}, "`required` must be a list"),
        ({"content_types": [""]}, "`content_types` must be a list"),
        ({"content_types": []}, "`content_types` is empty"),
        ({"max_tokens_cap": 0}, "`max_tokens_cap`"),
        ({"max_tokens_cap": True}, "`max_tokens_cap`"),
        ({"max_tokens_cap": "5"}, "`max_tokens_cap`"),
        ({"max_bytes": 0}, "`max_bytes`"),
        ({"max_bytes": "much"}, "is not a size"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        RequestValidator(Model(), **options)
    assert message in str(error.value)
