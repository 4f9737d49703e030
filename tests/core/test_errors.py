"""The map of failures to statuses: fixed, told in docs/operating.md, and silent about the inside."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.retry import cause_of
from gateway.errors import ClientError, GatewayError

TABLE = (Path(__file__).parents[2] / "docs/operating.md").read_text(encoding="utf-8")
ROWS = {
    code: (int(row[1]), row[3].strip(" `"))
    for row in re.finditer(r"^\| (\d{3}) \| (.+?) \| .+ \| ?(.*?) ?\|$", TABLE, re.MULTILINE)
    for code in re.findall(r"`(\w+)`", row[2])
}


def kinds(kind: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """Every class of errors.py; those of a module's own inside do not reach a client."""
    if kind.__module__ == "gateway.errors":
        yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


TOLD = [kind for kind in dict.fromkeys(kinds()) if not issubclass(kind, ClientError) or kind.status >= 500]


@pytest.mark.parametrize("kind", TOLD)
def test_every_failure_is_in_the_table_with_its_status(kind: type[GatewayError]) -> None:
    assert ROWS[kind.code][0] == kind.status


@pytest.mark.parametrize("kind", [kind for kind in TOLD if kind.owner == "upstream" and kind.status != 503])
def test_the_table_names_what_is_tried_again_as_retries_do(kind: type[GatewayError]) -> None:
    if kind.__name__ == "StaleConnection":
        assert cause_of(kind()) == "unsent", "and goes over another connection, unseen by the client"
    elif kind.code != "upstream_truncated":  # comes too late to be tried again
        assert ROWS[kind.code][1] == cause_of(kind())


@pytest.mark.parametrize("kind", [kind for kind in TOLD if kind.owner == "upstream"])
def test_a_model_servers_failure_is_one_of_three_statuses(kind: type[GatewayError]) -> None:
    assert kind.status in (502, 503, 504)
    assert not re.search(r"\d|/|:", str(kind()))
