"""What may stand in front of a request line: empty lines that end with CR LF, and nothing else, however it is cut."""

import pytest

from tests.server.client_side import Outcome, outcomes

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /u HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"

ODD = [
    b"\r",
    b"\n",
    b"\r\r\n",
    b"\r\n\r",
    b"\n\r",
    b"\r\n\n",
    b"\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b"\x0b",
    b"\x85",
    b"\r\n ",
]
BEFORE = {
    "at first": b"",
    "behind a head": GET,
    "behind two": GET + GET,
    "behind an empty line": b"\r\n" + GET,
    "behind a body": POST + b"body",
    "behind a body with line ends": POST + b"\n\r\r\n",
    "behind a chunked body": CHUNKED + b"2\r\n\rG\r\n0\r\n\r\n",
    "behind an upgrade": UPGRADE + GET,
}


def cuts(raw: bytes) -> list[list[bytes]]:
    """Whole, in every two pieces, and byte by byte."""
    return [[raw], *([raw[:at], raw[at:]] for at in range(1, len(raw))), [raw[at : at + 1] for at in range(len(raw))]]


def seen(outcome: Outcome) -> tuple[list[int], bool, int]:
    return outcome.statuses, outcome.is_closed, len(outcome.forwarded)


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_odd_bytes_in_front_of_a_request_are_one_400_and_the_end(before: bytes) -> None:
    count = sum(before.count(one) for one in (b" /a ", b" /b ", b" /c ", b" /u "))
    for odd in ODD:
        if before.endswith(b"\n\r\r\n") and odd[:1] == b"\n":
            continue  # the body's last bytes and these are an empty line to whom does not know the length
        raw = before + odd + GET + GET
        for pieces, outcome in zip(cuts(raw), outcomes(cuts(raw)), strict=True):
            statuses, is_closed, forwarded = seen(outcome)
            answered = len(statuses) - 1
            assert (statuses, is_closed, forwarded) == ([200] * answered + [400], True, answered), (odd, pieces)
            # A read that begins within a head or body, and holds more than one request, is taken for odd as a whole.
            is_within = len(pieces) == 2 and 0 < len(pieces[0]) < len(before)
            assert 1 <= answered <= count if is_within else answered == count, (odd, pieces)


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("lead", [b"", b"\r\n", b"\r\n\r\n\r\n"])
def test_empty_lines_in_front_of_a_request_are_passed_over(before: bytes, lead: bytes) -> None:
    raw = before + lead + GET + lead + POST + b"\r\n\r\n" + GET
    count = sum(raw.count(one) for one in (b" /a ", b" /b ", b" /c ", b" /u "))
    for pieces, outcome in zip(cuts(raw), outcomes(cuts(raw)), strict=True):
        assert seen(outcome) == ([200] * count, False, count), pieces


def test_a_body_may_hold_what_would_be_odd_in_front_of_a_request() -> None:
    body = b"\r\rGET /x HTTP/1.1\r\n\nGET /y HTTP/1.1\r\n\r\n\r"
    raw = b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    (outcome,) = outcomes([[raw + raw + GET]])
    assert seen(outcome) == ([200, 200, 200], False, 3)
    (outcome,) = outcomes([[raw, raw, GET]])
    assert seen(outcome) == ([200, 200, 200], False, 3)


def test_odd_bytes_that_no_request_follows_are_answered_by_nothing() -> None:
    for pieces in ([b"\r"], [b"\n"], [GET + b"\r"], [GET + b"\n"], [GET, b"\r\r"]):
        (outcome,) = outcomes([pieces])
        assert seen(outcome) == ([200] * pieces[0].count(b"GET"), False, pieces[0].count(b"GET"))
