"""Stores of keys: what is read again, what a store that fails costs, and that nothing old comes back."""

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.control.keys import Wish, editing
from gateway.control.keystore import Asking
from gateway.errors import StoreUnavailable
from gateway.stores.keys import KeyTable, LiveKeys

NOW = 1_800_000_000.0


def made(path: Path, *names: str) -> dict[str, str]:
    """A key file with keys of these names -> the keys."""
    with editing(path, {}) as ring:
        return {name: ring.create(Wish(name, ["*"]))[1] for name in names}


class Store:
    """Gives what it is told to, in turn; the last for ever."""

    def __init__(self, *answers: str | Exception | None) -> None:
        self.answers = list(answers)

    def read(self) -> str | None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    """A store that is asked, and what came of it."""

    def __init__(self, *answers: str | Exception | None) -> None:
        self.tables: list[KeyTable] = []
        self.asking = Asking("plugins.x.Store", Store(*answers), 10.0, self.take)

    async def take(self, wire: bytes) -> None:
        self.tables.append(KeyTable.from_wire(wire))

    def ask(self, times: int = 1) -> None:
        async def main() -> None:
            for _ in range(times):
                await self.asking.ask()

        asyncio.run(main())


def names(table: KeyTable, keys: dict[str, str]) -> set[str]:
    """Whose keys the table knows."""
    return {name for name, key in keys.items() if table.find(key.encode(), NOW) is not None}


def test_what_a_store_gives_is_a_key_file(tmp_path: Path) -> None:
    keys = made(tmp_path / "keys.yaml", "alice", "bob")
    bench = Bench((tmp_path / "keys.yaml").read_text(), None)
    bench.ask(3)
    assert names(bench.tables[0], keys) == {"alice", "bob"}
    assert len(bench.tables) == 1
    assert bench.asking.failures == 0
    assert bench.asking.age is not None


def test_a_store_that_is_down_costs_a_line_in_the_log_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path / "keys.yaml", "alice")
    text = (tmp_path / "keys.yaml").read_text()
    bench = Bench(text, OSError("no route"), OSError("no route"), text)
    with caplog.at_level(logging.INFO, "gateway.control"):
        bench.ask(3)
        assert bench.asking.failures == 2
        bench.ask()
    assert [record.getMessage() for record in caplog.records] == [
        "plugins.x.Store: no keys can be had; those known before stay in use: OSError: no route",
        "plugins.x.Store: keys can be had again",
    ]
    assert bench.asking.failures == 0


def test_a_text_that_is_no_key_file_stays_a_failure_for_as_long_as_it_is_said_to_be_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path / "keys.yaml", "alice")
    bench = Bench("keys:\n- {}\n", None, None, (tmp_path / "keys.yaml").read_text())
    bench.ask(3)
    assert bench.asking.failures == 3
    assert "plugins.x.Store:1: needs `pepper`" in caplog.text
    bench.ask()
    assert (bench.asking.failures, len(bench.tables)) == (0, 1)


def test_before_a_store_has_answered_nobody_can_say_whose_a_key_is() -> None:
    live = LiveKeys(None)
    with pytest.raises(StoreUnavailable) as refused:
        live.find(b"gw_whatever", NOW)
    assert refused.value.status == 503
