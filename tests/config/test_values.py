"""Scalars: what each notation means, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway.config import names, values

DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def taken(kind, value):
    """What a type makes of a value; ValueError's text if it refuses it."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return "refused: " + error.errors()[0]["msg"]


def is_refused(kind, value):
    return str(taken(kind, value)).startswith("refused: ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5.0),
        ("2m", 120.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("90", 90.0),
        (2.5, 2.5),
        ("0s", 0.0),
    ],
)
def test_a_duration_is_read_as_its_seconds(text, seconds):
    assert values.parse_duration(text) == seconds


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(list(DURATIONS))), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts):
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert values.parse_duration(text) == pytest.approx(sum(number * DURATIONS[unit] for number, unit in parts))


@pytest.mark.parametrize(
    "text", ["", "s", "5 s", "5x", "-5s", "5s ago", "1h-5m", "nan", "inf", "٣s", True, None, "366d", 1e9]
)
def test_what_is_no_duration_is_refused(text):
    assert is_refused(values.Duration, text)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1, -0.5])
def test_a_number_that_is_no_duration_is_refused(number):
    assert is_refused(values.Duration, number)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("10MiB", 10 * 2**20), ("1 GiB", 2**30), ("5kB", 5000), ("1.5MB", 1_500_000), ("7", 7), (7, 7)],
)
def test_a_size_is_read_as_its_bytes(text, size):
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "5kb", "5 K", "-1", -1, "1e3", True, None])
def test_what_is_no_size_is_refused(text):
    assert is_refused(values.Size, text)


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("0.0.0.0:8443", ("0.0.0.0", 8443)),
        (":80", ("0.0.0.0", 80)),
        ("[::1]:9901", ("::1", 9901)),
        ("localhost:0", ("localhost", 0)),
        (["::1", 80], ("::1", 80)),
    ],
)
def test_an_address_to_listen_on_is_read_as_host_and_port(text, listen):
    assert values.parse_listen(text) == listen


@pytest.mark.parametrize("text", ["127.0.0.1:80", "[::1]:80", "localhost:8443"])
def test_an_address_is_printed_as_it_is_given(text: str) -> None:
    assert values.as_authority(*values.parse_listen(text)) == text


@pytest.mark.parametrize(
    "text", ["8443", "::1:8443", "host:", "host:65536", "host:x", "http://h:1", "a b:1", "h:٣", None]
)
def test_what_is_no_address_to_listen_on_is_refused(text):
    assert is_refused(values.Listen, text)


@pytest.mark.parametrize("text", ["http://h", "https://h:8443/prefix", "http://[::1]:1", "http://10.0.0.1:80/a/b"])
def test_a_url_of_an_endpoint_is_taken_as_it_stands(text):
    assert taken(values.EndpointURL, text) == text


@pytest.mark.parametrize(
    "text",
    ["", "h:80", "ftp://h", "http://", "http://h:65536", "http://h:0", "http://h:x", "http://u:p@h", "http://h?q", "http://h#f",
     "http://h /x", "http://h\n", "http://bücher.example", "http://a..b", "http://.a", f"http://{64 * 'a'}.b"],
)  # fmt: skip
def test_what_is_no_url_of_an_endpoint_is_refused(text):
    assert is_refused(values.EndpointURL, text)


@pytest.mark.parametrize("text", ["100/minute", "5 per 10 second", "1/day", "1 per 2 hours"])
def test_a_rate_is_taken_as_it_stands(text):
    assert taken(values.Rate, text) == text


@pytest.mark.parametrize(
    "text", ["", "100", "100/fortnight", "-1/minute", "0/minute", "1.5/second", "1/second;5/minute"]
)
def test_what_is_no_rate_is_refused(text):
    assert is_refused(values.Rate, text)


@pytest.mark.parametrize("url", ["shared://", "memory://", "redis://h:6379/0", "rediss://u:p@h"])
def test_a_store_of_limits_is_taken_as_it_stands(url):
    assert taken(values.StoreURL, url) == url


@pytest.mark.parametrize("url", ["shared", "redis", "postgres://u:secret@h", "redis://", "u:secret@h"])
def test_what_is_no_store_of_limits_is_refused_without_its_password(url):
    said = taken(values.StoreURL, url)
    assert said.startswith("refused: ")
    assert "secret" not in said


@pytest.mark.parametrize("text", ["auto", "1", 1024, "64"])
def test_a_number_of_workers_is_taken(text):
    assert taken(values.Workers, text) == (text if text == "auto" else int(text))


@pytest.mark.parametrize("text", ["0", "-1", "1025", "many", "1.5", True, ""])
def test_what_is_no_number_of_workers_is_refused(text):
    assert is_refused(values.Workers, text)


def test_networks_lose_the_bits_beyond_their_mask():
    assert str(taken(values.Network, "10.1.2.3/8")) == "10.0.0.0/8"
    assert str(taken(values.Network, "192.0.2.1")) == "192.0.2.1/32"
    assert [text for text in ("", "10.0.0.0/33", "host", "10.0.0", None) if not is_refused(values.Network, text)] == []


@pytest.mark.parametrize("text", ["", "issuer.example/jwks", "ftp://h/jwks", "https://", "https://h/a b"])
def test_what_is_no_url_of_the_web_is_refused(text):
    assert is_refused(values.WebURL, text)
    assert taken(values.WebURL, "https://h/jwks?x") == "https://h/jwks?x"


@pytest.mark.parametrize("text", ["", "a\nb", "\x00"])
def test_what_is_no_text_is_refused(text):
    assert is_refused(values.Text, text)
    assert taken(values.Text, "käse 5") == "käse 5"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["iris", "meta-llama/Llama-3.1-8B", "llama3:8b", "a/b/c", "x" * 255, "0", "a~b_c+d=e,f"]
)
def test_a_name_of_a_model_is_taken_as_it_stands(name):
    assert taken(names.ModelName, name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a@b", "a b", "a?", "a%41", "a*", "[a]", "ä", "a\n", "x" * 256,
     "a/versions/b", "versions"],
)  # fmt: skip
def test_what_is_no_name_of_a_model_is_refused(name):
    assert is_refused(names.ModelName, name)


@pytest.mark.parametrize("name", ["v1", "1.10", "2026-01-01", "fp8"])
def test_a_name_of_a_version_is_taken_as_it_stands(name):
    assert taken(names.VersionName, name) == name


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "a:predict", ".", "..", "a b", "*"])
def test_what_is_no_name_of_a_version_is_refused(name):
    assert is_refused(names.VersionName, name)


def test_header_names_are_tokens_in_lower_case():
    assert taken(names.OwnField, "X-Team") == "x-team"
    assert [name for name in ("", "a b", "a:", "ä", "a\n", "(a)") if not is_refused(names.OwnField, name)] == []


@pytest.mark.parametrize("name", sorted(names.OWN_FIELDS))
def test_what_frames_a_message_or_belongs_to_a_connection_is_not_for_rules(name):
    assert is_refused(names.OwnField, name)
    assert is_refused(names.OwnField, name.title())


def test_the_fields_of_rfc_9112_and_9110_7_6_1_are_the_gateways_own():
    assert {"connection", "transfer-encoding", "content-length", "host", "te", "trailer", "upgrade"} <= names.OWN_FIELDS


@pytest.mark.parametrize("value", ["a\nb", "a\r\nx-evil: 1", "a\x00", "\x7f", "ü"])
def test_header_values_have_no_control_characters(value):
    assert is_refused(names.FieldValue, value)


def test_header_values_lose_the_space_around_them():
    assert taken(names.FieldValue, " a\tb ") == "a\tb"


def test_one_header_is_not_there_in_two_ways_of_writing():
    assert "are the same header" in taken(names.FieldMap, {"X-Team": "a", "x-team": "b"})


@pytest.mark.parametrize("name", ["", "a b", "a=b", "a;b", "ä", "a\n"])
def test_what_is_no_name_of_a_cookie_or_method_is_refused(name):
    assert is_refused(names.CookieName, name)
    assert is_refused(names.Method, name)
    assert (taken(names.CookieName, "__Host-Gw"), taken(names.Method, "get")) == ("__Host-Gw", "GET")


@pytest.mark.parametrize("text", ["key", "principal", "ip", "model", "header:x-user"])
def test_what_limits_count_by_is_taken(text):
    assert taken(names.Per, text) == text


@pytest.mark.parametrize("text", ["", "Key", "header", "header:", "header:a b", "cookie:x", "key:x"])
def test_what_limits_do_not_count_by_is_refused(text):
    assert is_refused(names.Per, text)


@pytest.mark.parametrize("name", ["hs512", "none", "None", "NONE", "RS1", "ES256K", ""])
def test_signatures_that_prove_nothing_are_refused(name):
    assert is_refused(names.Algorithm, name)


@pytest.mark.parametrize("host", ["llama.example.com", "localhost", "127.0.0.1", "a_b.local", "xn--bcher-kva.example"])
def test_a_host_is_taken_in_lower_case_without_its_final_dot(host):
    assert taken(names.Host, host.upper() + ".") == host


@pytest.mark.parametrize("host", ["", "a:80", "*.a", "a..b", "http://a", "a/b", "bücher.example", "-a", "x" * 64])
def test_what_is_no_host_is_refused(host):
    assert is_refused(names.Host, host)


def test_prefixes_end_with_a_whole_segment():
    assert [taken(names.Prefix, text) for text in ("", "/", "/a", "/a/b/")] == ["", "", "/a", "/a/b"]
    assert [taken(names.MatchPrefix, text) for text in ("/", "/a/")] == ["/", "/a"]


@pytest.mark.parametrize("prefix", ["a", "/a b", "/a?b", "/a#b", "/ä", "/a/../b", "/a\n"])
def test_what_is_no_prefix_is_refused(prefix):
    assert is_refused(names.Prefix, prefix)
    assert is_refused(names.MatchPrefix, prefix)


def test_the_target_of_a_health_check_may_have_a_query():
    assert taken(names.Target, "/ready?model=a/b&x") == "/ready?model=a/b&x"
    assert [text for text in ("", "x", "/a b", "/a?b c", "/a#b", "?") if not is_refused(names.Target, text)] == []


@pytest.mark.parametrize("pattern", ["(", "[a", "*a", r"\p{L}", r"(?<n>x)", r"\u0041"])
def test_what_is_no_regular_expression_is_refused(pattern):
    assert is_refused(names.Pattern, pattern)


@pytest.mark.parametrize(
    ("pattern", "replace"), [("(a)", r"\1\g<1>"), ("(?P<n>a)|b", r"\g<n>"), ("a", "x"), ("(a)?|", r"\1")]
)
def test_replacements_that_fit_their_pattern_are_taken(pattern, replace):
    assert names.check_replacement(pattern, replace) is None


@pytest.mark.parametrize(
    ("pattern", "replace"), [("a", r"\1"), ("(a)", r"\2"), ("(?P<n>a)", r"\g<m>"), ("a", r"\q"), ("a", "\\")]
)
def test_replacements_that_refer_to_nothing_are_refused(pattern, replace):
    with pytest.raises(ValueError, match="does not fit"):
        names.check_replacement(pattern, replace)
