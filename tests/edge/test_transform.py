import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.dispatch import Target
from gateway.core.pool import Pool
from gateway.edge.transform import Transform, rename
from gateway.errors import BadRequest
from gateway.model import Exchange, Header

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def transformed(
    target: Target, named: str = "", body: bytes | None = None, headers: list[Header] | None = None
) -> tuple[Exchange, bytes]:
    """The exchange, and the body that the next layer receives."""
    received: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append((await receive())["body"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"as it came" if body is None else body, "more_body": False}

    exchange = Exchange("id", 0.0, "")
    exchange.target, exchange.path, exchange.named, exchange.body = target, target.path, named, body
    exchange.pool = Pool("iris", "v1", [], None, ("served", None))  # type: ignore[arg-type]
    scope = {"type": "http", "exchange": exchange, "headers": headers or []}
    asyncio.run(Transform(app)(scope, receive, None))  # type: ignore[arg-type]
    return exchange, received[0]


def test_a_path_that_names_the_model_names_it_as_the_upstream_does() -> None:
    target = Target("iris", None, b"/v2/models/iris/infer", b"/v2/models/", b"/infer", "iris")
    exchange, body = transformed(target)
    assert (exchange.path, body) == (b"/v2/models/served/infer", b"as it came")


def test_a_body_that_names_the_model_names_it_as_the_upstream_does() -> None:
    exchange, body = transformed(Target("iris", None, b"/v1/x"), "iris", b'{"model":"iris","n":1}')
    assert json.loads(body) == {"model": "served", "n": 1}
    assert exchange.body == body


@pytest.mark.parametrize("named", ["", "served"])
def test_a_body_that_names_nothing_or_the_right_name_is_left_alone(named: str) -> None:
    text = b'{ "model": "served" }'
    assert transformed(Target("iris", None, b"/v1/x"), named, text)[1] is text


def test_a_compressed_body_cannot_be_renamed() -> None:
    with pytest.raises(BadRequest):
        transformed(Target("iris", None, b"/v1/x"), "iris", b"{}", [(b"content-encoding", b"gzip")])


@given(st.dictionaries(st.text(), json_values, max_size=5), st.text())
def test_renaming_changes_the_model_and_nothing_else(members: dict[str, Any], name: str) -> None:
    before = {**members, "model": "old"}
    assert json.loads(rename(json.dumps(before).encode(), name)) == {**before, "model": name}


def test_renaming_keeps_numbers_and_strings_to_the_byte() -> None:
    renamed = rename(b'{"a": 1.00, "b":12345678901234567890123, "c": "\\u00e9\\/", "model": "x", "d": [ 1 , 2 ]}', "y")
    for part in (b"1.00", b"12345678901234567890123", b'"\\u00e9\\/"', b"[ 1 , 2 ]"):
        assert part in renamed


def test_a_body_that_is_nested_beyond_reason_is_refused() -> None:
    with pytest.raises(BadRequest):
        rename(b'{"model":"x","y":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "z")


@pytest.mark.parametrize("member", [b'"\\ud800": 1', b'"\xff": 1', b'"x": NaN'])
def test_a_member_that_is_no_json_is_refused(member: bytes) -> None:
    with pytest.raises(BadRequest):
        rename(b'{"model": "x", ' + member + b"}", "z")
