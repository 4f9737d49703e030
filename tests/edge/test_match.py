import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.dispatch import Directory
from gateway.core.snapshot import Route
from gateway.core.split import Split
from gateway.edge.match import Match, host_name, model_in
from gateway.errors import BadRequest, ClientLeft, GatewayError, MethodNotAllowed, ModelNotFound, TooLarge
from gateway.model import Exchange, Header


class World:
    """Two models and what became of a request."""

    def __init__(self, **options: Any) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.directory = Directory()
        self.routes = {}
        for name in ("iris", "org/llama"):
            self.directory.add_name(name, name)
            self.routes[name] = self.route(name, **options)
        self.directory.add_match(None, "/own", "iris")
        self.exchange = Exchange("id", 0.0, "127.0.0.1")

    def route(self, name: str, **options: Any) -> Route:
        async def chain(scope: Any, receive: Any, send: Any) -> None:
            self.seen.append((name, (await receive()).get("body", b"")))

        pools: Any = {"v1": None, "v2": None}
        return Route(name, pools, Split({"v1": None}, None), chain, **options)

    async def own(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(("own", b""))

    def ask(
        self,
        method: str,
        path: str,
        headers: Sequence[Header] = (),
        parts: Sequence[bytes | None] = (b"",),
    ) -> "World":
        """`parts` are the body as it comes; None: the client leaves."""
        queue = [
            {"type": "http.disconnect"} if part is None
            else {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)}
            for index, part in enumerate(parts)
        ]  # fmt: skip

        async def receive() -> Any:
            return queue.pop(0)

        self.left = queue
        self.exchange.fields = dict(headers)
        scope = {"type": "http", "method": method, "raw_path": path.encode(), "headers": list(headers),
                 "exchange": self.exchange}  # fmt: skip
        match = Match(self.own, directory=self.directory, routes=self.routes)
        asyncio.run(match(scope, receive, None))  # type: ignore[arg-type]
        return self


def body(model: Any, **more: Any) -> bytes:
    return json.dumps({**more, "model": model}).encode()


def test_a_path_that_names_a_model_leads_to_its_chain_and_its_body_is_left_unread() -> None:
    world = World().ask("POST", "/models/iris/x", parts=[b"a", b"b"])
    assert world.seen == [("iris", b"a")]
    assert len(world.left) == 1
    assert (world.exchange.path, world.exchange.body, world.exchange.route) == (b"/x", None, world.routes["iris"])


def test_a_body_that_names_a_model_is_read_once_and_given_on_whole() -> None:
    text = body("org/llama@v2", n=1)
    world = World().ask("POST", "/v1/completions", parts=[text[:5], text[5:9], text[9:]])
    assert world.seen == [("org/llama", text)]
    exchange = world.exchange
    assert (exchange.version, exchange.named, exchange.body) == ("v2", "org/llama@v2", text)


@pytest.mark.parametrize(("method", "path"), [("GET", "/x"), ("GET", "/v1/models"), ("GET", "/v1/chat/completions")])
def test_what_means_no_model_goes_on_to_the_apps_own_routes(method: str, path: str) -> None:
    assert World().ask(method, path).seen == [("own", b"")]


def test_a_header_that_names_the_model_leaves_the_body_to_name_a_version_of_it() -> None:
    headers = [(b"x-model", b"iris")]
    for named, version in (("iris@v2", "v2"), ("other@v2", None), ("iris@v9", None), ("iris", None)):
        world = World().ask("POST", "/v1/completions", headers, [body(named)])
        assert world.seen[0][0] == "iris"
        assert (world.exchange.version, world.exchange.named) == (version, named)


def test_a_version_of_the_head_wins_over_one_of_the_body() -> None:
    world = World().ask("POST", "/models/iris/versions/v1/v1/completions", parts=[body("iris@v2")])
    assert world.exchange.version == "v1"


@pytest.mark.parametrize(("path", "headers"), [("/models/iris/v1/audio", []), ("/v1/audio", [(b"x-model", b"iris")])])
def test_a_form_is_read_where_the_head_named_the_model_too_unless_it_is_large(path: str, headers: list[Header]) -> None:
    """It went on with the name that the client calls the model by, which the model server does not know."""
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\niris@v2\r\n--x--\r\n'
    headers = [*headers, (b"content-type", b"Multipart/form-data; boundary=x"), (b"content-length", b"%d" % len(form))]
    world = World(json_bytes=len(form)).ask("POST", path, headers, [form[:50], form[50:]])
    assert (world.exchange.named, world.exchange.version, world.seen) == ("iris@v2", "v2", [("iris", form)])
    world = World(json_bytes=len(form) - 1).ask("POST", path, headers, [form[:50], form[50:]])
    assert (world.exchange.body, world.seen) == (None, [("iris", form[:50])])


@pytest.mark.parametrize("kind", [b"multipart/form-data; boundary=x", b"audio/wav"])
def test_a_body_of_unknown_length_or_kind_is_left_unread_where_the_head_named_the_model(kind: bytes) -> None:
    world = World().ask("POST", "/own/v1/audio", [(b"content-type", kind)], [b"a", b"b"])
    assert world.seen == [("iris", b"a")]
    assert world.exchange.body is None


def test_a_body_that_cannot_be_understood_matters_only_where_it_is_needed() -> None:
    for part in (b"", b"a=b", b'[{"model": "llama"}]', b'{"model": 7}', b"\x1f\x8b{"):
        assert World().ask("POST", "/models/iris/v1/completions", parts=[part]).seen == [("iris", part)]
        with pytest.raises(BadRequest):
            World().ask("POST", "/v1/completions", parts=[part])


def test_an_empty_body_is_told_as_one() -> None:
    with pytest.raises(BadRequest, match="The request has no body to name a `model`"):
        model_in(b"", is_required=True)
    assert model_in(b"", is_required=False) is None


@pytest.mark.parametrize(
    "said",
    [
        b"{",
        b'{"model": "llama", "x": NaN}',
        b'{"model": "llama"} {}',
        b'\xef\xbb\xbf{"model": "llama"}',
        '{"model": "llama"}'.encode("utf-16"),
        ' {"model": "llama"}'.encode("utf-16-be"),
        '{"model": "llama"}'.encode("utf-32"),
        b'{"model": "llama", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "\\ud800"}',
    ],
)
def test_a_body_in_which_others_might_find_another_model_than_the_heads_is_refused(said: bytes) -> None:
    """A model server behind several models reads more than JSON: who may call one of them would have the others."""
    with pytest.raises(BadRequest):
        World().ask("POST", "/models/iris/v1/completions", parts=[said])


@pytest.mark.parametrize("kind", [b"", b"text/plain", b"application/x-www-form-urlencoded"])
def test_a_body_is_read_for_its_model_whatever_curl_and_browsers_call_it(kind: bytes) -> None:
    world = World().ask("POST", "/models/iris/v1/completions", [(b"content-type", kind)], [body("iris@v2")])
    assert world.exchange.version == "v2"


@pytest.mark.parametrize("kinds", [(b"application/json", b"audio/wav"), (b"audio/wav", b"application/json")])
def test_a_body_of_several_types_is_read_for_its_model_whichever_its_reader_believes(kinds: tuple[bytes, ...]) -> None:
    """Starlette's readers take the first, others the last: the body went on unread, with whatever model it named."""
    fields = [(b"content-type", kind) for kind in kinds]
    world = World().ask("POST", "/models/iris/v1/completions", fields, [body("iris@v2")])
    assert world.exchange.version == "v2"


def test_a_form_with_two_boundaries_is_refused() -> None:
    form = b'--a\r\nContent-Disposition: form-data; name="model"\r\n\r\niris\r\n--a--\r\n'
    kinds = [(b"content-type", b"multipart/form-data; boundary=" + each) for each in (b"b", b"a")]
    assert World().ask("POST", "/v1/audio/transcriptions", kinds[1:], [form]).seen == [("iris", form)]
    with pytest.raises(BadRequest, match="several content types"):
        World().ask("POST", "/v1/audio/transcriptions", kinds, [form])


def test_the_last_of_several_models_in_a_body_is_the_one() -> None:
    """As nearly every reader has it."""
    for said in (b'{"model": 7, "model": "iris@v2"}', b'{"model": "iris@v1", "model": "iris@v2"}'):
        assert World().ask("POST", "/models/iris/v1/completions", parts=[said]).exchange.version == "v2"


@pytest.mark.parametrize(
    ("options", "method", "path", "headers", "parts", "error"),
    [
        ({}, "POST", "/v1/completions", [], [body("nobody")], ModelNotFound),
        ({}, "POST", "/v1/completions", [], [body(None)], BadRequest),
        ({}, "POST", "/models/nobody", [], [b""], ModelNotFound),
        ({}, "POST", "/v1/completions", [(b"content-length", b"99999999")], [b""], TooLarge),
        ({"json_bytes": 5}, "POST", "/models/iris/v1/x", [(b"content-length", b"6")], [b""], TooLarge),
        ({"json_bytes": 5}, "POST", "/models/iris/v1/x", [], [b"abc", b"def", b""], TooLarge),
        ({"json_bytes": 5}, "POST", "/models/iris/v1/x", [], [b"abcdef"], TooLarge),
        ({}, "POST", "/v1/completions", [], [b"{", None], ClientLeft),
        ({}, "POST", "/v1/completions", [], [None], ClientLeft),
        ({}, "GET", "/x", [(b"x-model", b"\xff")], [b""], BadRequest),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_and_leads_nowhere(
    options: dict[str, Any],
    method: str,
    path: str,
    headers: list[Header],
    parts: list[bytes],
    error: type[GatewayError],
) -> None:
    world = World(**options)
    with pytest.raises(error):
        world.ask(method, path, headers, parts)
    assert world.seen == []


def test_a_method_that_a_route_does_not_allow_is_refused_with_those_that_it_does() -> None:
    world = World(methods=frozenset({"POST", "GET"}))
    with pytest.raises(MethodNotAllowed) as caught:
        world.ask("DELETE", "/models/iris/x")
    assert caught.value.headers == [(b"allow", b"GET, POST")]
    assert World(methods=frozenset({"GET"})).ask("GET", "/models/iris/x").seen


@pytest.mark.parametrize(
    ("host", "name"),
    [(b"A.Example", "a.example"), (b"a.example:8443", "a.example"), (b"a.example.", "a.example"), (b"[::1]:80", "::1"),
     (b"[2001:DB8::1]", "2001:db8::1"), (b"", "")],
)  # fmt: skip
def test_a_host_is_compared_without_its_port_its_case_and_a_final_dot(host: bytes, name: str) -> None:
    assert host_name(host) == name


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.none(), max_size=4))
def test_the_model_of_any_json_object_is_found(name: str, others: dict[str, Any]) -> None:
    assert model_in(json.dumps({**others, "model": name}).encode(), is_required=True) == name


@given(st.binary(max_size=60))
@example(b'{"model":"\xff"}')
@example(b'{"model":"\\ud800"}')
def test_a_body_of_any_bytes_is_understood_or_refused(data: bytes) -> None:
    try:
        assert isinstance(model_in(data, is_required=True), str | None)
    except BadRequest:
        if b"{" not in data:
            assert model_in(data, is_required=False) is None


def test_a_body_that_is_nested_beyond_reason_is_refused_and_not_a_crash() -> None:
    deep = b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    with pytest.raises(BadRequest):
        model_in(deep, is_required=True)
    with pytest.raises(BadRequest):
        model_in(deep, is_required=False)
