"""A session's token can be read by the gateways alone, and made by nobody else."""

import base64

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gateway.core.session import Book, Session, Sessions, secrets_in

SECRET, NEXT = b"s" * 32, b"n" * 32
A, B = "http://10.0.0.1:8000", "http://10.0.0.2:8000"
ENDPOINTS = {"v1": [A, B], "v2": [A]}
NOW = 1_700_000_000


def book(
    model: str = "iris", secrets: tuple[bytes, ...] = (SECRET,), endpoints: dict[str, list[str]] = ENDPOINTS
) -> Book:
    return Sessions(secrets).of(model, endpoints)


@given(st.sampled_from([("v1", A), ("v1", B), ("v2", A)]), st.integers(1, 10**6), st.integers(0, 10**6))
def test_what_was_sealed_opens_until_it_expires(place: tuple[str, str], ttl: int, later: int) -> None:
    token = book().seal(*place, NOW + ttl)
    expected = Session(*place, NOW + ttl) if later < ttl else None
    assert book().open(token, NOW + later) == expected


@given(st.data())
def test_no_changed_token_opens(data: st.DataObject) -> None:
    token = book().seal("v1", A, NOW + 60)
    at = data.draw(st.integers(0, len(token) - 1))
    byte = data.draw(st.integers(0, 255))
    assume(token[at] != byte)
    assert book().open(token[:at] + bytes([byte]) + token[at + 1 :], NOW) is None


@given(st.data())
def test_no_changed_byte_inside_a_token_opens(data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(book().seal("v1", A, NOW + 60)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert book().open(base64.urlsafe_b64encode(raw), NOW) is None


@given(st.integers(0, 47), st.binary(max_size=3))
def test_no_token_opens_that_is_too_short_or_too_long(end: int, more: bytes) -> None:
    token = book().seal("v1", A, NOW + 60)
    assert book().open(token[:end], NOW) is None
    assume(more and not more.startswith(b"."))
    assert book().open(token + more, NOW) is None
    assert book().open(more.replace(b".", b"") + b"x" + token, NOW) is None


@given(st.binary(max_size=500))
@example(b"." * 500)
@example(b"A" * 48)
def test_anything_may_be_sent_as_a_token(noise: bytes) -> None:
    assert book().open(noise, NOW) is None


@given(st.text(), st.text())
def test_a_token_of_one_model_means_nothing_to_another(one: str, other: str) -> None:
    assume(one != other)
    assert book(other).open(book(one).seal("v1", A, NOW + 60), NOW) is None


def test_a_token_made_under_another_secret_means_nothing() -> None:
    assert book().open(book(secrets=(NEXT,)).seal("v1", A, NOW + 60), NOW) is None


def test_a_new_secret_signs_while_the_old_one_is_still_believed() -> None:
    old = book().seal("v1", B, NOW + 60)
    both = book(secrets=(NEXT, SECRET))
    assert both.open(old, NOW) == Session("v1", B, NOW + 60)
    assert book(secrets=(NEXT,)).open(both.seal("v1", B, NOW + 60), NOW) == Session("v1", B, NOW + 60)
    assert book(secrets=(NEXT,)).open(old, NOW) is None


def test_a_version_that_is_gone_ends_its_sessions_and_an_endpoint_that_is_gone_does_not() -> None:
    token = book().seal("v1", B, NOW + 60)
    assert book(endpoints={"v2": [A, B]}).open(token, NOW) is None
    assert book(endpoints={"v1": [A], "v2": [B]}).open(token, NOW) == Session("v1", None, NOW + 60)


def test_a_token_shows_nothing_but_its_expiry() -> None:
    """Equal parts would tell which clients share an endpoint's version, which is little; nothing else is equal."""
    raw = {
        (model, version, url): base64.urlsafe_b64decode(book(model).seal(version, url, NOW))
        for model in ("iris", "llama")
        for version, url in (("v1", A), ("v1", B), ("v2", A))
    }
    for (model, version, url), token in raw.items():
        for hint in (model, version, url, "10.0.0", "8000"):
            assert hint.encode() not in token or len(hint) < 3
    assert len({token[12:20] for token in raw.values()}) == len(raw), "an endpoint looks different in every version"
    assert len({token[4:12] for token in raw.values()}) == 4, "and a version in every model"
    assert len({token[20:] for token in raw.values()}) == len(raw)


def test_a_cookie_carries_the_sessions_of_several_models() -> None:
    iris, llama = book("iris"), book("llama")
    jar = llama.seal("v2", A, NOW + 60, jar=iris.seal("v1", B, NOW + 60))
    assert iris.open(jar, NOW) == Session("v1", B, NOW + 60)
    assert llama.open(jar, NOW) == Session("v2", A, NOW + 60)
    jar = iris.seal("v1", A, NOW + 90, jar)
    assert iris.open(jar, NOW) == Session("v1", A, NOW + 90)
    assert llama.open(jar, NOW) == Session("v2", A, NOW + 60)
    assert jar.count(b".") == 1, "a model's new token takes the place of its old one"


@given(st.lists(st.text(max_size=3), min_size=1, max_size=30, unique=True))
def test_a_cookie_is_bounded_and_forgets_the_model_used_longest_ago(models: list[str]) -> None:
    jar = b"noise.;"
    for model in models:
        jar = book(model).seal("v1", A, NOW + 60, jar)
    assert len(jar) <= 8 * 49
    remembered = [model for model in models if book(model).open(jar, NOW) is not None]
    assert remembered == models[-8:]


def test_no_more_of_a_cookie_is_read_than_this_gateway_would_write() -> None:
    others = [book(str(number)).seal("v1", A, NOW + 60) for number in range(8)]
    own = book().seal("v1", A, NOW + 60)
    assert book().open(b".".join([*others[:7], own]), NOW) is not None
    assert book().open(b".".join([*others, own]), NOW) is None


@pytest.mark.parametrize("secrets", [(), (b"",), (b"x" * 15,), (SECRET, b"short")])
def test_a_secret_that_could_be_guessed_is_refused(secrets: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="secret"):
        Sessions(secrets)


@pytest.mark.parametrize(
    ("content", "secrets"),
    [
        (b"0123456789abcdef", [b"0123456789abcdef"]),
        (b" a new one, of words \r\n\n0123456789abcdef\n", [b"a new one, of words", b"0123456789abcdef"]),
        (b"\xff\n3456789abcdef0123", [b"\xff\n3456789abcdef0123"]),
        (b"\n", []),
    ],
)
def test_a_file_of_text_has_a_secret_in_each_line_and_any_other_is_one(content: bytes, secrets: list[bytes]) -> None:
    assert secrets_in(content) == secrets


def test_a_repr_shows_no_secret() -> None:
    assert repr(Sessions([b"very-secret-bytes"])) == "<Sessions of 1 secrets>"
