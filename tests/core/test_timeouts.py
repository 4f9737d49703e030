"""The time that a client gives a request: read, and written back with what is left of it."""

from math import inf

import pytest
from hypothesis import given as given_values
from hypothesis import strategies as st

from gateway.core.timeouts import given, reduced
from gateway.errors import BadRequest

OURS, GRPC = b"x-request-timeout", b"grpc-timeout"


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (OURS, b"5", 5.0), (OURS, b"2.5", 2.5), (OURS, b"500ms", 0.5), (OURS, b"5s", 5.0), (OURS, b"2m", 120.0),
        (OURS, b"1h", 3600.0), (OURS, b"0", 0.0), (OURS, b"0.25s", 0.25), (OURS, b" 5 ", 5.0),
        (GRPC, b"1H", 3600.0), (GRPC, b"2M", 120.0), (GRPC, b"3S", 3.0), (GRPC, b"250m", 0.25), (GRPC, b"500u", 5e-4),
        (GRPC, b"99999999n", 0.099999999),
    ],
)  # fmt: skip
def test_each_notation_is_read(name: bytes, value: bytes, seconds: float) -> None:
    assert given({name: value}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (OURS, b""), (OURS, b"-1"), (OURS, b"soon"), (OURS, b"5 s"), (OURS, b"5S"), (OURS, b"1e3"), (OURS, b"inf"),
        (OURS, b"nan"), (OURS, b"5,6"), (OURS, b"1" * 400), (OURS, "٥".encode()),
        (GRPC, b""), (GRPC, b"5"), (GRPC, b"5s"), (GRPC, b"123456789S"), (GRPC, b"-5S"), (GRPC, b"1.5S"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(name: bytes, value: bytes) -> None:
    with pytest.raises(BadRequest, match=name.decode()):
        given({name: value})


def test_the_shorter_of_two_counts_and_none_is_no_limit() -> None:
    assert given({OURS: b"5", GRPC: b"300m"}) == pytest.approx(0.3)
    assert given({b"x": b"5"}) == inf


@given_values(st.sampled_from([(OURS, b"5"), (OURS, b"5s"), (OURS, b"5h"), (GRPC, b"5S")]), st.floats(0.002, 1e6))
def test_what_is_left_is_written_as_it_was_read_and_never_more_than_it_is(
    header: tuple[bytes, bytes], left: float
) -> None:
    other = (b"accept", b"*/*")
    fields = reduced([header, other, header], left)
    assert fields[0] == other
    assert len(fields) == 2, "one of two that say the same"
    assert left * 0.99 - 0.001 <= given(dict(fields)) <= left


def test_what_is_left_is_never_written_as_nothing() -> None:
    assert reduced([(OURS, b"5")], -3.0) == [(OURS, b"0.001")]
    assert reduced([(GRPC, b"5S")], 0.0) == [(GRPC, b"1m")]
