"""docs/security.md names tests that exist, and defaults that are so."""

import re
from pathlib import Path

import pytest

from gateway.config.settings import Limits, OverloadSettings, TLSSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_is_named_exists(file: str, test: str) -> None:
    source = (ROOT / file).read_text()
    assert not test or re.search(rf"^(async )?def {test}\(", source, re.MULTILINE)


def test_every_row_of_a_promise_and_a_requirement_names_one() -> None:
    sections = PAGE.split("\n## ")
    rows = [
        row
        for section in sections
        if section.startswith(("What is promised", "OWASP"))
        for row in re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]
    ]
    assert len(rows) > 40
    assert [row for row in rows if "`tests/" not in row] == []


def test_the_defaults_are_those_of_the_settings() -> None:
    limits = Limits()
    said = {
        "64 KiB · 16 KiB · 100 · 16 KiB": (
            limits.header_bytes == 65536,
            limits.header_line_bytes == 16384,
            limits.header_count == 100,
            limits.target_bytes == 16384,
        ),
        "trailers, chunk extensions | 16 KiB": (limits.trailer_bytes == 16384,),
        "10 s in all": (limits.headers_timeout == 10,),
        "30 s · 240 bytes/s": (limits.body_idle == 30, limits.body_rate == 240),
        "60 s · 240 bytes/s, 64 KiB buffered": (limits.write_idle == 60, limits.write_rate == 240),
        "between two requests | 75 s": (limits.keep_alive == 75,),
        "one connection | 10,000": (limits.requests == 10_000,),
        "20,000 · 10,000": (limits.connections == 20_000, limits.connections_per_address == 10_000),
        "a second | 500 ms": (OverloadSettings().lag == 0.5,),
        "before it | 10 s": (TLSSettings().handshake_timeout == 10,),
    }
    for words, facts in said.items():
        assert words in PAGE
        assert all(facts), words
