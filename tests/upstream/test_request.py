import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.deadlines import Deadlines
from gateway.core.endpoint import Address
from gateway.core.headers import HOP_BY_HOP, REPLACED_UPSTREAM
from gateway.model import Exchange, Header
from gateway.upstream.connections import Connections
from gateway.upstream.request import UNKNOWN_LENGTH, compose
from tests.e2e.harness_strict import Clean, parse

NAMES = [b"accept", b"x-a", b"cookie", b"via", *sorted(HOP_BY_HOP), *sorted(REPLACED_UPSTREAM)]
fields_strategy = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([b"", b"1", b"a b", b"\xe9"])), max_size=12
)


def composed(
    headers: list[Header] | None = None,
    *,
    method: str = "GET",
    path: bytes = b"/x",
    query: bytes = b"",
    length: int = 0,
    url: str = "http://model:8000",
    is_trusted: bool = False,
    is_host_kept: bool = False,
    **more: Any,
) -> Clean:
    """The request as a strict server reads it."""
    headers = headers if headers is not None else [(b"host", b"gw.example")]
    exchange = Exchange("the-id", 0.0, "10.0.0.1")
    exchange.path, exchange.fields, exchange.is_trusted = path, dict(headers), is_trusted
    scope = {"method": method, "query_string": query, "headers": headers, "client": ("10.0.0.1", 5), "scheme": "https",
             "http_version": "1.1", **more}  # fmt: skip

    async def make() -> Connections:
        return Connections(Address.parse(url), Deadlines())

    head = compose(scope, exchange, asyncio.run(make()), length, is_host_kept=is_host_kept)
    assert head.endswith(b"\r\n\r\n")
    return parse(head)[0]


def all_of(request: Clean, name: bytes) -> list[bytes]:
    return [value for key, value in request.fields if key == name]


def test_the_start_line_is_the_method_the_endpoints_prefix_the_path_and_the_query() -> None:
    request = composed(method="PUT", path=b"/a/b", query=b"c=d", url="http://model/base")
    assert (request.method, request.target) == (b"PUT", b"/base/a/b?c=d")


@pytest.mark.parametrize(
    ("url", "host"),
    [("http://model:8000", b"model:8000"), ("http://model", b"model"), ("https://model:443", b"model"),
     ("http://[::1]:80/x", b"[::1]"), ("http://[::1]:81", b"[::1]:81")],
)  # fmt: skip
def test_host_is_the_endpoints_unless_the_clients_is_kept(url: str, host: bytes) -> None:
    assert all_of(composed(url=url), b"host") == [host]
    assert all_of(composed(url=url, is_host_kept=True), b"host") == [b"gw.example"]
    assert all_of(composed([], url=url, is_host_kept=True), b"host") == [host], "the client has sent none"


@pytest.mark.parametrize(
    ("method", "length", "fields"),
    [
        ("GET", 0, []),
        ("POST", 0, [(b"content-length", b"0")]),
        ("DELETE", 0, []),
        ("GET", 5, [(b"content-length", b"5")]),
        ("POST", 7, [(b"content-length", b"7")]),
        ("POST", UNKNOWN_LENGTH, [(b"transfer-encoding", b"chunked")]),
    ],
)
def test_a_body_is_framed_by_what_is_known_of_it(method: str, length: int, fields: list[Header]) -> None:
    request = composed([(b"content-length", b"999"), (b"transfer-encoding", b"gzip")], method=method, length=length)
    assert [f for f in request.fields if f[0] in (b"content-length", b"transfer-encoding")] == fields


@given(fields_strategy, st.booleans(), st.booleans())
def test_whatever_fields_a_client_sends_the_request_is_clean_and_says_only_what_it_may(
    headers: list[Header], is_trusted: bool, is_host_kept: bool
) -> None:
    headers = [header for header in headers if header[0] != b"host"]
    request = composed(headers, is_trusted=is_trusted, is_host_kept=is_host_kept)
    names = [name for name, _ in request.fields]
    assert not set(names) & (HOP_BY_HOP - {b"transfer-encoding"})
    for name in (b"host", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"):
        assert names.count(name) == 1
    passed = HOP_BY_HOP | REPLACED_UPSTREAM
    assert [f for f in request.fields if f[0] not in passed] == [f for f in headers if f[0] not in passed]


SAID = [
    (b"host", b"gw.example"),
    (b"x-forwarded-for", b"1.1.1.1"),
    (b"x-forwarded-for", b"2.2.2.2"),
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-host", b"public.example"),
    (b"via", b"1.0 a"),
    (b"via", b"1.1 b"),
]


def test_a_stranger_is_not_believed_where_it_comes_from() -> None:
    request = composed(SAID)
    said = {name: all_of(request, name) for name, _ in SAID}
    assert said[b"x-forwarded-for"] == [b"10.0.0.1"]
    assert (said[b"x-forwarded-proto"], said[b"x-forwarded-host"]) == ([b"https"], [b"gw.example"])
    assert said[b"via"] == [b"1.0 a, 1.1 b, 1.1 gateway"]


def test_a_trusted_proxy_is() -> None:
    request = composed(SAID, is_trusted=True)
    said = {name: all_of(request, name) for name, _ in SAID}
    assert said[b"x-forwarded-for"] == [b"1.1.1.1, 2.2.2.2, 10.0.0.1"]
    assert (said[b"x-forwarded-proto"], said[b"x-forwarded-host"]) == ([b"http"], [b"public.example"])
