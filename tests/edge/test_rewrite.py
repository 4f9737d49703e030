import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.settings import HeaderRules, HeaderSettings, PathRegex, PathSettings
from gateway.edge.rewrite import PathRules, Rewrite
from gateway.model import Exchange, Header

paths = st.lists(st.text("abc.-", min_size=1, max_size=3), max_size=4).map(lambda parts: "/" + "/".join(parts))


def rules(strip: str = "", add: str = "", regex: tuple[str, str] | None = None) -> PathRules:
    replaced = PathRegex(pattern=regex[0], replace=regex[1]) if regex else None
    return PathRules(PathSettings(strip_prefix=strip, add_prefix=add, regex=replaced))


@pytest.mark.parametrize(
    ("made", "path", "rewritten"),
    [
        (rules(strip="/a/b"), b"/a/b/c", b"/c"),
        (rules(strip="/a/b"), b"/a/b", b"/"),
        (rules(strip="/a/b"), b"/a/bc", b"/a/bc"),
        (rules(strip="/a/b"), b"/x/a/b", b"/x/a/b"),
        (rules(add="/p"), b"/c", b"/p/c"),
        (rules(add="/p"), b"/", b"/p/"),
        (rules(strip="/a", add="/p"), b"/a/c", b"/p/c"),
        (rules(regex=("^/v([0-9]+)/", r"/api/\1/")), b"/v12/x", b"/api/12/x"),
        (rules(regex=("(?P<n>x)", r"\g<n>\g<n>")), b"/axb", b"/axxb"),
        (rules(regex=("^/.*$", "")), b"/x", b"/"),
        (rules(regex=("a", "/../")), b"/b/a/c", b"/c"),
        (rules(strip="/a", regex=("b", "c"), add="/b"), b"/a/b", b"/b/c"),
        (rules(), b"/a", b"/a"),
    ],
)
def test_a_path_is_stripped_then_replaced_then_prefixed(made: PathRules, path: bytes, rewritten: bytes) -> None:
    assert made.apply(path) == rewritten


@given(paths, paths)
def test_what_is_stripped_and_added_again_is_where_it_was(prefix: str, rest: str) -> None:
    prefix = prefix.rstrip("/")
    if {".", ".."} & set(prefix.split("/")):
        return
    whole = (prefix + rest).encode()
    assert rules(strip=prefix).apply(whole) == rest.encode()
    assert rules(strip=prefix, add=prefix).apply(whole) == whole


def rewritten(headers: HeaderSettings, fields: list[Header]) -> tuple[list[Header], Exchange]:
    seen: list[list[Header]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])

    exchange = Exchange("id", 0.0, "")
    exchange.path = b"/x"
    scope = {"type": "http", "headers": fields, "exchange": exchange}
    asyncio.run(Rewrite(app, path=PathSettings(), headers=headers)(scope, None, None))  # type: ignore[arg-type]
    return seen[0], exchange


def test_a_request_is_edited_at_once_and_an_answer_when_it_comes() -> None:
    settings = HeaderSettings(request=HeaderRules(set={"X-A": "1"}), response=HeaderRules(remove=["Server"]))
    fields, exchange = rewritten(settings, [(b"x-b", b"2")])
    assert fields == [(b"x-b", b"2"), (b"x-a", b"1")]
    assert [edit([(b"server", b"x"), (b"x", b"y")]) for edit in exchange.answer_edits] == [[(b"x", b"y")]]


def test_without_rules_for_a_side_it_is_left_alone() -> None:
    before: list[Header] = [(b"x-b", b"2")]
    fields, exchange = rewritten(HeaderSettings(response=HeaderRules(add={"X-A": "1"})), before)
    assert fields is before
    assert len(exchange.answer_edits) == 1
    assert rewritten(HeaderSettings(request=HeaderRules(add={"X-A": "1"})), before)[1].answer_edits == []
