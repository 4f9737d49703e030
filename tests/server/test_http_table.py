"""docs/http.md speaks of every sentence, and of tests that are there."""

import re
from pathlib import Path

import pytest

from tests.server.client_side import outcomes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "http.md").read_text()
RULES = re.findall(r"^- (.+)\n  \*\*(tested|not ours|deviation)\*\*: (.+)$", PAGE, re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("rfc", ["rfc9110", "rfc9112"])
def test_every_sentence_has_its_place(rfc: str) -> None:
    text = (ROOT / "tests" / "e2e" / "vectors" / f"{rfc}_must_intermediary.txt").read_text()
    sentences = {" ".join(line.split()) for line in text.splitlines()}
    assert len(sentences) > 40
    assert sentences - {sentence for sentence, _, _ in RULES} == set()


def test_what_is_tested_names_its_tests_and_they_exist() -> None:
    assert sum(verdict == "tested" for _, verdict, _ in RULES) > 100
    for sentence, verdict, said in RULES:
        named = NAMED.findall(said)
        assert named or verdict != "tested", sentence
        for file, test in named:
            source = (ROOT / file).read_text()
            assert not test or re.search(rf"^(async )?def {test}\(", source, re.MULTILINE), f"{file}::{test}"


GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSED = {
    "whitespace around a chunk extension": GET.replace(b"GET", b"POST")[:-2]
    + b"Transfer-Encoding: chunked\r\n\r\n5 ; a = b\r\nhello\r\n0\r\n\r\n",
    "a higher minor version": GET.replace(b"1.1", b"1.2"),
    "a method longer than any": b"A" * 100 + GET[3:],
    "whitespace behind the start line": b"GET /x HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_deviations_that_refuse_do_refuse(name: str) -> None:
    (outcome,) = outcomes([[REFUSED[name]]])
    assert (outcome.statuses, outcome.forwarded, outcome.is_closed) == ([400], [], True)


def test_options_of_an_empty_absolute_target_asks_for_the_root() -> None:
    (outcome,) = outcomes([[b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n"]])
    assert outcome.forwarded[0].startswith(b"OPTIONS / HTTP/1.1\r\n")


def test_a_status_without_a_name_keeps_its_space() -> None:
    from gateway.server.answer import _STATUS_LINES

    assert all(re.fullmatch(rb"HTTP/1\.1 \d{3} [^\r\n]*", line) for line in _STATUS_LINES.values())
    assert _STATUS_LINES[299] == b"HTTP/1.1 299 "
