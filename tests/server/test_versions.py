"""Which version of HTTP a request is of, however it arrives and whatever comes before it."""

import pytest

from tests.server.client_side import outcomes

OLD = b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n"
NEW = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
CASES = {
    "of 1.1 behind an empty line": (b"\r\n" + NEW, [b"1.1"]),
    "of 1.0": (OLD, [b"1.0"]),
    "of 1.0 behind one of 1.1 that looks the same": (NEW + OLD, [b"1.1", b"1.0"]),
    "of 1.0 behind one of 1.1 with a body": (
        b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + OLD,
        [b"1.1", b"1.0"],
    ),
    "of 1.0 whose field says otherwise": (OLD[:-2] + b"X: y HTTP/1.1\r\n\r\n", [b"1.0"]),
    "of 1.1 thrice": (NEW * 3, [b"1.1"] * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_each_request_is_of_its_own_version_however_it_is_cut(name: str) -> None:
    raw, versions = CASES[name]
    for outcome in outcomes([[raw], *([raw[:at], raw[at:]] for at in range(1, len(raw)))]):
        vias = [head.partition(b"\r\nvia: ")[2][:3] for head in outcome.forwarded]
        assert vias == versions
