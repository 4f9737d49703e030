import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.headers import HOP_BY_HOP, REPLACED_UPSTREAM, compile_edit, get, get_all, nominated, spellings
from gateway.model import Header

FIELDS: list[Header] = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]
names = st.sampled_from(["a", "B", "x-c", "X-D"])
values = st.text("abc123", max_size=3)
headers = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"x-c", b"x-e"]), st.binary(max_size=3)), max_size=6)


def test_the_first_of_several_fields_and_all_of_them_can_be_asked_for() -> None:
    assert get(FIELDS, b"a") == b"1"
    assert get(FIELDS, b"c") is None
    assert get_all(FIELDS, b"a") == [b"1", b"3"]
    assert get_all(FIELDS, b"c") == []


@pytest.mark.parametrize("name", [b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade",
                                  b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"])  # fmt: skip
def test_fields_of_one_connection_do_not_travel(name: bytes) -> None:
    """RFC 9110, 7.6.1, and RFC 2616, 13.5.1."""
    assert name in HOP_BY_HOP


@pytest.mark.parametrize("name", [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via",
                                  b"x-real-ip", b"x-request-id", b"host", b"content-length", b"x-model"])  # fmt: skip
def test_what_only_the_gateway_may_say_to_a_model_server_is_replaced(name: bytes) -> None:
    assert name in REPLACED_UPSTREAM


def test_what_an_edit_sets_or_removes_is_not_said_in_another_spelling() -> None:
    edit = compile_edit({"x-team-of": "ml"}, {}, ["x-debug"])
    assert edit is not None
    sent = [(b"x_team-of", b"1"), (b"x-team_of", b"2"), (b"x_debug", b"3"), (b"x_team", b"4")]
    assert edit(sent) == [(b"x_team", b"4"), (b"x-team-of", b"ml")]


def test_spellings_are_few_whatever_the_name() -> None:
    assert spellings([b"x-a-b", b"via"]) == {b"x-a-b", b"x_a-b", b"x-a_b", b"x_a_b", b"via"}
    assert spellings([b"-".join([b"x"] * 40)]) == {b"-".join([b"x"] * 40), b"_".join([b"x"] * 40)}


def test_connection_names_fields_in_any_case_and_over_several_lines() -> None:
    assert nominated([b"close, X-Foo", b"", b" x-bar ,,keep-alive"]) >= {b"x-foo", b"x-bar"}


@pytest.mark.parametrize("name", [b"Host", b"content-length", b"Authorization", b"cookie", b"x-api-key", b"via",
                                  b"transfer-encoding", b"content-type", b"content-encoding"])  # fmt: skip
def test_connection_cannot_name_what_the_next_hop_needs(name: bytes) -> None:
    assert name.lower() not in nominated([name])


def test_without_rules_there_is_nothing_to_do() -> None:
    assert compile_edit({}, {}, []) is None


def test_remove_comes_first_then_set_then_add() -> None:
    edit = compile_edit({"A": "new"}, {"a": "more", "c": "4"}, ["B"])
    assert edit is not None
    assert edit(FIELDS) == [(b"a", b"new"), (b"a", b"more"), (b"c", b"4")]
    assert len(FIELDS) == 3, "what was handed in is left alone"


@given(headers, st.dictionaries(names, values, max_size=2), st.dictionaries(names, values, max_size=2), st.lists(names))
def test_an_edit_does_what_its_rules_say_and_no_more(
    before: list[Header], set_: dict[str, str], add: dict[str, str], remove: list[str]
) -> None:
    edit = compile_edit(set_, add, remove)
    if edit is None:
        return
    after = edit(before)
    placed = {name.lower().encode(): value.encode() for name, value in set_.items()}
    added = [(name.lower().encode(), value.encode()) for name, value in add.items()]
    touched = set(placed) | {name.lower().encode() for name in remove}
    for name in {name for name, _ in before + after}:
        expected = [] if name in touched else get_all(before, name)
        expected += [placed[name]] if name in placed else []
        expected += [value for key, value in added if key == name]
        assert get_all(after, name) == expected
