"""What a hashing policy hashes of a request, and what it does without."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.settings import BalanceSettings, HashKey
from gateway.edge.hashkey import ReadKey, key_of, reads_body
from gateway.model import Exchange, Principal

JSON = (b"content-type", b"application/json")


def hashed(
    key: dict[str, Any],
    *,
    body: bytes | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    query: bytes = b"user=bob&x=1",
    **claims: Any,
) -> bytes:
    exchange = Exchange("1", 0.0, "10.0.0.1")
    exchange.body = body
    exchange.principal = Principal(
        "k1", "alice", "jwt", claims={"sub": "alice", "org": {"id": 7}, "a.b": "dotted", **claims}
    )
    scope = {"type": "http", "query_string": query, "headers": list(headers)}
    read = key_of(BalanceSettings(policy="consistent_hash", hash=key))
    assert read is not None
    return bytes(read(scope, exchange))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ({"claim": "sub"}, b"alice"),
        ({"claim": "org.id"}, b"7"),
        ({"claim": "a.b"}, b"dotted"),
        ({"body": "user"}, b"carol"),
        ({"body": "meta.session"}, b"s1"),
        ({"body": "n"}, b"[1]"),
        ({"query": "user"}, b"bob"),
        ({"principal": True}, b"k1"),
        ({"ip": True}, b"10.0.0.1"),
        ({"body": "none"}, b"10.0.0.1"),
        ({"claim": "none", "fallback": {"query": "user"}}, b"bob"),
        ({"header": "x-user", "fallback": {"body": "user"}}, b"carol"),
        ({"header": "x-user", "fallback": {"cookie": "none"}}, b"10.0.0.1"),
    ],
)
def test_a_key_is_the_part_that_it_names_or_its_fallback_or_the_address(key: dict[str, Any], expected: bytes) -> None:
    assert hashed(key, body=b'{"user": "carol", "meta": {"session": "s1"}, "n": [1]}') == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"x&" * 5000 + b"user=bob", b"bob"),
        (b"user=&%75ser=bob&user=eve", b"bob"),
        (b"user=b%6Fb+%C3%A9&x", b"bob \xc3\xa9"),
        (b"user=%FF", b"\xef\xbf\xbd"),
        (b"use=bob&users=bob&user", b"10.0.0.1"),
        (b"", b"10.0.0.1"),
    ],
)
def test_a_query_is_looked_through_to_its_end(query: bytes, expected: bytes) -> None:
    assert hashed({"query": "user"}, query=query) == expected


@pytest.mark.parametrize(
    ("cookie", "expected"),
    [
        (b"a=;" * 5000 + b"user=bob", b"bob"),
        (b'user ;; @=, user = "bob" ;user=eve', b"eve"),
        (b'user; @=,; user = "bob" ;user=eve', b"bob"),
        (b"users=bob; xuser=bob", b"10.0.0.1"),
    ],
)
def test_a_cookie_is_found_among_any_others(cookie: bytes, expected: bytes) -> None:
    assert hashed({"cookie": "user"}, headers=((b"cookie", cookie),)) == expected


@pytest.mark.parametrize(("value", "expected"), [("\ud800", b"\xed\xa0\x80"), (["\ud800"], b"10.0.0.1")])
def test_a_claim_that_is_no_unicode_is_no_failure(value: Any, expected: bytes) -> None:
    assert hashed({"claim": "odd"}, odd=value) == expected


@pytest.mark.parametrize("body", [None, b"", b"no JSON", b"[1]", b'{"user": null}', b'{"user": "\\ud800"}', b"\xff"])
def test_a_body_without_the_member_is_no_key(body: bytes | None) -> None:
    assert hashed({"body": "user"}, body=body) == b"10.0.0.1"


def test_a_body_is_read_only_where_a_key_may_stand_in_it() -> None:
    assert reads_body(BalanceSettings(policy="consistent_hash", hash={"body": "user"}))
    assert reads_body(BalanceSettings(policy="consistent_hash", hash={"header": "x", "fallback": {"body": "user"}}))
    assert not reads_body(BalanceSettings(policy="consistent_hash", hash={"header": "x"}))
    assert not reads_body(BalanceSettings(policy="round_robin", hash={"body": "user"}))


@pytest.mark.parametrize(
    ("fields", "is_read"),
    [
        ({b"content-type": b"application/json", b"content-length": b"2"}, True),
        ({b"content-type": b"application/json", b"content-length": b"2000"}, False),
        ({b"content-type": b"text/plain", b"content-length": b"2"}, False),
        ({b"content-type": b"application/json"}, False),
    ],
)
def test_a_small_body_of_json_is_read_and_given_on_whole(fields: dict[bytes, bytes], is_read: bool) -> None:
    exchange = Exchange("1", 0.0, "10.0.0.1")
    exchange.fields = fields
    given: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append((await receive())["body"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    asyncio.run(ReadKey(app, bound=100)({"type": "http", "exchange": exchange}, receive, receive))
    assert given == [b"{}"]
    assert exchange.body == (b"{}" if is_read else None)


@pytest.mark.parametrize(
    "key", [{}, {"ip": True, "claim": "sub"}, {"fallback": {"ip": True}}, {"body": "a", "fallback": {}}]
)
def test_a_key_is_exactly_one_part(key: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HashKey.model_validate(key)
