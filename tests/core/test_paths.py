import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.paths import decode, encode_query, known, normalise
from gateway.errors import BadRequest

PCHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@"
pieces = st.one_of(
    st.text(PCHARS, min_size=1, max_size=4),
    st.sampled_from([".", "..", "/", "%2F", "%2f", "%2E", "%2e%2e", "%41", "%7e", "%e9", "%25", "%20"]),
)
paths = st.lists(pieces, max_size=12).map(lambda found: ("/" + "".join(found)).encode())


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/b/", b"/a/b/"),
        (b"/%41%2d%7E", b"/A-~"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/%c3%a9", b"/%C3%A9"),
        (b"//a///b//", b"/a/b/"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/a/..", b"/"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a;v=1/b:c@d", b"/a;v=1/b:c@d"),
        (b'/a"<>[]{}|^`', b"/a%22%3C%3E%5B%5D%7B%7D%7C%5E%60"),
        (b"/\xc3\xa9", b"/%C3%A9"),
        (b"/.../..a/a..", b"/.../..a/a.."),
    ],
)
def test_a_path_is_brought_into_its_normal_form(path: bytes, normal: bytes) -> None:
    assert normalise(path) == normal


@pytest.mark.parametrize(
    "path",
    [b"", b"a", b"*", b"/..", b"/a/../..", b"/%2e%2e/a", b"/\\", b"/%5c", b"/%00", b"/%0d%0a", b"/%7F", b"/\x00", b"/ ",
     b"/\n", b"/%", b"/%4", b"/%zz", b"/%4g", b"/%%41"],
)  # fmt: skip
def test_a_path_that_could_mean_two_things_is_refused(path: bytes) -> None:
    with pytest.raises(BadRequest):
        normalise(path)


@given(paths)
@example(b"/%252e%252e/")
@example(b"/%2525")
def test_a_normal_form_is_its_own_and_holds_nothing_to_resolve(path: bytes) -> None:
    try:
        normal = normalise(path)
    except BadRequest:
        return
    assert normalise(normal) == normal
    assert b"//" not in normal
    assert not {b".", b".."} & set(normal.split(b"/"))


@given(st.binary(max_size=40))
def test_whatever_comes_is_refused_or_becomes_what_rfc_3986_calls_a_path(path: bytes) -> None:
    try:
        normal = normalise(b"/" + path)
    except BadRequest:
        return
    assert normal[:1] == b"/"
    assert set(normal) <= set(PCHARS.encode() + b"/%")


@given(st.lists(st.text(PCHARS.replace(".", ""), min_size=1, max_size=5), min_size=1, max_size=5))
def test_segments_without_dots_and_encodings_stay_as_they_are(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    assert normalise(path.encode()) == path.encode()


@given(st.text(PCHARS + "/", max_size=20))
def test_decoding_a_normal_path_is_what_it_meant(text: str) -> None:
    path = b"/" + text.encode()
    try:
        normal = normalise(path)
    except BadRequest:
        return
    assert decode(normal).encode() == unquote_to_bytes(normal)


def test_bytes_that_are_no_utf8_are_replaced_and_encoded_slashes_come_out() -> None:
    assert decode(b"a%2Fb") == "a/b"
    assert decode(b"%C3%A9") == "é"
    assert decode(b"%FF") == "\ufffd"


def test_what_is_remembered_of_a_path_is_its_normal_form_and_its_text() -> None:
    assert known(b"/a/./%C3%A9") == (b"/a/%C3%A9", "/a/é")
    for _ in range(2):
        with pytest.raises(BadRequest):
            known(b"/..")


@pytest.mark.parametrize(
    ("query", "encoded"),
    [
        (b"a=b&c=%20?/:@", b"a=b&c=%20?/:@"),
        (b'a="|\\', b"a=%22%7C%5C"),
        (b"a[]=1", b"a%5B%5D=1"),
        (b"%zz", b"%25zz"),
        (b"100%", b"100%25"),
        (b'%"%2', b"%25%22%252"),
        (b"%%41", b"%25%41"),
        (b"", b""),
    ],
)
def test_a_query_keeps_what_rfc_3986_allows_and_the_rest_is_encoded(query: bytes, encoded: bytes) -> None:
    assert encode_query(query) == encoded


@given(st.binary(max_size=40))
def test_an_encoded_query_means_the_same(query: bytes) -> None:
    encoded = encode_query(query)
    assert re.fullmatch(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*", encoded)
    assert encode_query(encoded) == encoded
    assert unquote_to_bytes(encoded) == unquote_to_bytes(query)
