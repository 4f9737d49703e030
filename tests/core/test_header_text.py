"""Fields as text: what goes to a client and to a model server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import headers
from gateway.core.headers import is_broken, pieces, serialise

names = st.binary(max_size=12).map(lambda name: name.translate(None, b"\r\n\0"))
fields = st.lists(st.tuples(names, st.binary(max_size=20)), max_size=12)


@given(fields)
def test_pieces_are_the_lines_each_behind_the_end_of_the_line_before_it(
    given_fields: list[tuple[bytes, bytes]],
) -> None:
    assert b"".join(pieces(given_fields)) + b"\r\n" == b"\r\n" + serialise(given_fields)


@given(fields)
def test_a_value_is_broken_that_holds_a_cr_an_lf_or_a_nul(given_fields: list[tuple[bytes, bytes]]) -> None:
    assert is_broken(given_fields) == any(set(value) & {0, 10, 13} for _, value in given_fields)


@pytest.mark.parametrize("name", [b"a\r", b"\nb", b"a\0b"])
def test_a_name_that_would_end_its_line_is_refused_each_time(name: bytes) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="control character"):
            pieces([(name, b"x")])


def test_of_invented_names_a_bounded_number_is_remembered() -> None:
    for number in range(3000):
        assert pieces([(b"x-%d" % number, b"y")]) == [b"\r\nx-%d: " % number, b"y"]
    assert len(headers._PREFIXES) <= headers._PREFIXES_KEPT
