"""When a certificate is asked for, by whom, and what is served when that fails. The CA is a function here."""

import asyncio
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.config.settings import AcmeSettings
from gateway.control.renew import Renewal, Suggest
from gateway.core.renewal import Suggestion
from gateway.tls.pair import read_pair
from gateway.tls.validation import ANSWERS, FOLDER
from tests.tls.makers import Made, make

DAY = 86400.0
SETTINGS = AcmeSettings(domains=["a.test", "b.test"])


class CA:
    """Issues what it is told to, after `delay` seconds, and counts."""

    def __init__(self, made: Made | None = None, delay: float = 0.0) -> None:
        self.made = made
        self.delay = delay
        self.asked: list[tuple[Any, Path, Path]] = []

    def __call__(self, *asked: Any) -> tuple[bytes, bytes]:
        self.asked.append(asked)
        time.sleep(self.delay)
        if self.made is None:
            raise OSError("no CA today")
        return self.made.key, self.made.chain


def nothing(_: Any, __: bytes) -> Suggestion:
    return Suggestion(0.0, 0.0, 3600.0)


def renewal(folder: Path, ca: CA, now: float = 0.0, suggest: Suggest = nothing) -> Renewal:
    """`now` is in days from now."""
    return Renewal(
        SETTINGS, folder, folder / "state", rng=Random(1), obtain=ca, suggest=suggest,
        clock=lambda: time.time() + now * DAY,
    )  # fmt: skip


def test_a_certificate_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    ca = CA(make("a.test", "b.test"))
    keeper = renewal(tmp_path, ca)
    assert asyncio.run(keeper.step()) > 0
    assert ca.asked == [(SETTINGS, tmp_path / "state" / "acme-account.key", tmp_path / ANSWERS, b"")]
    assert read_pair(tmp_path, "acme-a.test").hosts == ("a.test", "b.test")
    assert (tmp_path / "acme-a.test.key").stat().st_mode & 0o777 == 0o600
    assert asyncio.run(keeper.step()) == 3600
    assert len(ca.asked) == 1


@pytest.mark.parametrize(("day", "is_due"), [(58, False), (63, True)])
def test_it_is_renewed_when_a_third_of_its_lifetime_is_left(tmp_path: Path, day: float, is_due: bool) -> None:
    make("a.test", "b.test", start=0, days=90).write(tmp_path, "acme-a.test")
    ca = CA(make("a.test", "b.test"))
    asyncio.run(renewal(tmp_path, ca, now=day).step())
    assert len(ca.asked) == is_due


def test_a_further_domain_is_a_reason_to_renew(tmp_path: Path) -> None:
    make("a.test").write(tmp_path, "acme-a.test")
    assert renewal(tmp_path, CA()).due_in() == 0


def test_a_failure_leaves_the_old_certificate_is_told_and_tried_again_later_and_later(tmp_path: Path) -> None:
    old = make("a.test").write(tmp_path, "acme-a.test")
    keeper = renewal(tmp_path, CA())
    pauses = [asyncio.run(keeper.step()) for _ in range(3)]
    assert 200 < pauses[0] < pauses[1] < pauses[2]
    assert str(keeper.problem) == "acme-a.test.crt: not issued: no CA today"
    assert (tmp_path / "acme-a.test.crt").read_bytes() == old.chain
    keeper._obtain = CA(make("a.test", "b.test"))
    asyncio.run(keeper.step())
    assert keeper.problem is None


def test_one_gateway_asks_of_many_that_share_the_folder(tmp_path: Path) -> None:
    ca = CA(make("a.test", "b.test"), delay=0.2)

    async def main() -> list[float]:
        return await asyncio.gather(*(renewal(tmp_path, ca).step() for _ in range(4)))

    waits = asyncio.run(main())
    assert len(ca.asked) == 1
    assert sorted(waits) == [30, 30, 30, 3600]
    assert asyncio.run(renewal(tmp_path, ca).step()) == 3600
    assert len(ca.asked) == 1


def test_the_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    asyncio.run(renewal(tmp_path, CA()).step())
    ca = CA(make("a.test", "b.test"))
    asyncio.run(renewal(tmp_path, ca).step())
    assert len(ca.asked) == 1
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("day", "is_due"), [(3, False), (12, True)])
def test_a_cas_suggestion_decides_and_is_asked_for_as_often_as_it_says(
    tmp_path: Path, day: float, is_due: bool
) -> None:
    made = make("a.test", "b.test", start=0, days=90).write(tmp_path, "acme-a.test")
    ca, begin = CA(make("a.test", "b.test")), time.time()
    asked: list[bytes] = []

    def suggest(_: Any, chain: bytes) -> Suggestion:
        asked.append(chain)
        return Suggestion(begin + 10 * DAY, begin + 11 * DAY, 6 * 3600.0)

    keeper = renewal(tmp_path, ca, now=day, suggest=suggest)
    asyncio.run(keeper.step())
    assert [each[3].strip() for each in ca.asked] == [made.chain.strip()] * is_due
    assert [chain.strip() for chain in asked] == [made.chain.strip()]
    if not is_due:
        asyncio.run(keeper.step())
        assert len(asked) == 1


def test_without_a_suggestion_a_third_of_the_lifetime_decides(tmp_path: Path) -> None:
    make("a.test", "b.test", start=0, days=90).write(tmp_path, "acme-a.test")
    ca = CA(make("a.test", "b.test"))

    def suggest(_: Any, __: bytes) -> Suggestion:
        raise OSError("no answer")

    asyncio.run(renewal(tmp_path, ca, now=58, suggest=suggest).step())
    assert ca.asked == []
    asyncio.run(renewal(tmp_path, ca, now=63, suggest=suggest).step())
    assert len(ca.asked) == 1
