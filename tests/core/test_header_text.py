"""Fields as text: what goes to a client and to a model server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import headers
from gateway.core.headers import Lines, is_broken, lower_case, serialise

field_names = st.binary(max_size=12).map(lambda name: name.translate(None, b"\r\n\0"))
fields = st.lists(st.tuples(field_names, st.binary(max_size=20)), max_size=12)


@given(fields)
def test_pieces_are_the_lines_each_behind_the_end_of_the_line_before_it(
    given_fields: list[tuple[bytes, bytes]],
) -> None:
    assert b"".join(Lines().pieces(given_fields)) + b"\r\n" == b"\r\n" + serialise(given_fields)


@given(fields)
def test_fields_are_left_out_by_name(given_fields: list[tuple[bytes, bytes]]) -> None:
    gone = frozenset(name for name, _ in given_fields[::2])
    lines = Lines(gone)
    for _ in range(2):  # names are remembered
        left = [(name, value) for name, value in given_fields if name not in gone]
        assert b"".join(lines.pieces(given_fields)) + b"\r\n" == b"\r\n" + serialise(left)


@given(fields)
def test_a_value_is_broken_that_holds_a_cr_an_lf_or_a_nul(given_fields: list[tuple[bytes, bytes]]) -> None:
    expected = any(set(value) & {0, 10, 13} for _, value in given_fields)
    assert is_broken(Lines().pieces(given_fields)) == expected


@pytest.mark.parametrize("name", [b"a\r", b"\nb", b"a\0b"])
def test_a_name_that_would_end_its_line_is_refused_each_time(name: bytes) -> None:
    lines = Lines()
    for _ in range(2):
        with pytest.raises(ValueError, match="control character"):
            lines.pieces([(name, b"x")])


def test_of_invented_names_a_bounded_number_is_remembered() -> None:
    lines = Lines()
    for number in range(3000):
        assert lines.pieces([(b"x-%d" % number, b"y")]) == [b"\r\nx-%d: " % number, b"y"]
        assert lower_case(b"X-%d" % number) == b"x-%d" % number
    assert len(lines.known) <= 1000
    assert len(headers._NAMES) <= 1001


def test_a_name_is_one_object_however_it_is_written() -> None:
    headers._NAMES.clear()
    assert lower_case(b"Host") is lower_case(b"HOST") is lower_case(b"host")
